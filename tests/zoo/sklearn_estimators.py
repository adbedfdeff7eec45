"""Every estimator of scikit-learn that skl2onnx converts, trained on a few rows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.zoo.case import Array, Case, Example, NotExported

GROUP = "sklearn_estimators"
ROWS, COLUMNS, ASKED = 60, 4, 5
EXAMPLES: Sequence[Example] = ("golden", "input_example", "none")


@dataclass(frozen=True)
class Lesson:
    """How one estimator is made, taught and asked.

    Attributes:
        features: what it is fitted on; the first rows are asked.
        target: what it learns, if anything.
        arguments: of its constructor.
        input: the input's type for skl2onnx; by default that of the features' array.
        options: of ``skl2onnx.to_onnx``.
        outputs: the outputs that the file keeps; by default all.
        asked: what is asked, where that is not the first rows of the features.
        refused: see Case.
    """

    features: Any
    target: Any = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    asked: Array | None = None
    refused: str = ""


def numbers() -> Array:
    """Return rows of plain numbers."""
    return np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def counts() -> Array:
    """Return rows of small whole numbers, as floats."""
    return np.random.default_rng(1).integers(0, 4, (ROWS, COLUMNS)).astype(np.float32)


def gaps() -> Array:
    """Return rows of numbers of which some are missing."""
    array = numbers()
    array[::5, 1] = np.nan
    array[2::7, 3] = np.nan
    return array


def words() -> Array:
    """Return rows of two categories each, as strings."""
    rows = np.random.default_rng(2).integers(0, 3, (ROWS, 2))
    kinds: Array = np.array([["red", "green", "blue"], ["s", "m", "l"]], np.object_)
    return kinds[[0, 1], rows]


def sentences() -> Array:
    """Return rows of one text each."""
    parts = ["the cat", "sat on", "a mat", "dogs run", "far away", "over there"]
    rows = np.random.default_rng(3).integers(0, len(parts), (ROWS, 3))
    return np.array([[" ".join(parts[number] for number in row)] for row in rows], np.object_)


def classes(count: int = 3) -> Array:
    """Return a class for each row of the numbers."""
    ranks: Array = numbers().sum(axis=1).argsort().argsort()
    numbered: Array = (ranks * count // ROWS).astype(np.int64)
    return numbered


def measured(targets: int = 1) -> Array:
    """Return a measured value, or several, for each row of the numbers."""
    weights = np.random.default_rng(4).normal(size=(COLUMNS, targets))
    values = numbers() @ weights + 0.1 * np.random.default_rng(5).normal(size=(ROWS, targets))
    return values[:, 0] if targets == 1 else values


def _composed() -> dict[str, Lesson]:
    """Return the lessons of estimators that are made of others."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import MinMaxScaler, StandardScaler
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    logistic, ridge, scaled = LogisticRegression(), Ridge(), ("scaled", StandardScaler())
    two_classifiers = {"estimators": [("line", logistic), ("tree", DecisionTreeClassifier(max_depth=3))]}
    two_regressors = {"estimators": [("line", ridge), ("tree", DecisionTreeRegressor(max_depth=3))]}
    two_labels = np.stack([classes(2), classes(3)], axis=1)
    columns = [("standard", StandardScaler(), [0, 1]), ("ranged", MinMaxScaler(), [2, 3])]
    x, y = numbers(), classes()
    return {
        "ColumnTransformer": Lesson(x, None, {"transformers": columns}),
        "FeatureUnion": Lesson(x, None, {"transformer_list": [scaled, ("ranged", MinMaxScaler())]}),
        "GridSearchCV": Lesson(x, y, {"estimator": logistic, "param_grid": {"C": [0.1, 1]}}),
        # Its probabilities are a sequence of tensors, which no Triton serves.
        "MultiOutputClassifier": Lesson(x, two_labels, {"estimator": logistic}, outputs=["label"]),
        "MultiOutputRegressor": Lesson(x, measured(2), {"estimator": ridge}),
        "OneVsOneClassifier": Lesson(x, y, {"estimator": logistic}),
        "OneVsRestClassifier": Lesson(x, y, {"estimator": logistic}),
        "Pipeline": Lesson(x, y, {"steps": [scaled, ("line", logistic)]}),
        "RFE": Lesson(x, y, {"estimator": logistic}),
        "RFECV": Lesson(x, y, {"estimator": logistic}),
        "SelectFromModel": Lesson(x, y, {"estimator": logistic}),
        "StackingClassifier": Lesson(x, y, two_classifiers),
        "StackingRegressor": Lesson(x, measured(), two_regressors),
        "TunedThresholdClassifierCV": Lesson(x, classes(2), {"estimator": logistic}),
        "VotingClassifier": Lesson(x, y, {**two_classifiers, "voting": "soft", "flatten_transform": False}),
        "VotingRegressor": Lesson(x, measured(), two_regressors),
    }


def _preparing() -> dict[str, Lesson]:
    """Return the lessons of estimators that prepare data of their own kinds."""
    from skl2onnx.common.data_types import DictionaryType, FloatTensorType, Int64TensorType, StringTensorType

    text = StringTensorType([None, 1])
    labels = Lesson(classes(), None, {}, Int64TensorType([None]))
    maps = DictionaryType(StringTensorType([1]), FloatTensorType([1]))
    dictionaries = [{"red": float(row[0]), "blue": float(row[1])} for row in counts()]
    kernel = (numbers() @ numbers().T).astype(np.float32)
    return {
        "CountVectorizer": Lesson(sentences().ravel(), None, {}, text, asked=sentences()[:ASKED]),
        "DictVectorizer": Lesson(
            dictionaries, None, {}, maps, asked=np.array([], np.float32), refused="is a map"
        ),
        "FeatureHasher": Lesson(words(), None, {"n_features": 8, "input_type": "string"}),
        "KNNImputer": Lesson(gaps(), None, {"n_neighbors": 2}),
        "KernelCenterer": Lesson(kernel),
        "LabelBinarizer": labels,
        "LabelEncoder": labels,
        "OneHotEncoder": Lesson(words(), None, {"handle_unknown": "ignore"}),
        "OrdinalEncoder": Lesson(words()),
        "SimpleImputer": Lesson(gaps()),
        "TargetEncoder": Lesson(words(), classes(2)),
        "TfidfTransformer": Lesson(counts()),
        "TfidfVectorizer": Lesson(sentences().ravel(), None, {}, text, asked=sentences()[:ASKED]),
    }


def _plain() -> dict[str, Lesson]:
    """Return the lessons of estimators that need other numbers, another target, or arguments."""
    x, y = numbers(), classes()
    positive = np.exp(measured() / 4)
    many = {
        f"MultiTask{name}": Lesson(x, measured(2))
        for name in ("ElasticNet", "ElasticNetCV", "Lasso", "LassoCV")
    }
    return {
        **many,
        "BernoulliNB": Lesson(counts(), y),
        "CategoricalNB": Lesson(counts().astype(np.int64), y),
        "ComplementNB": Lesson(counts(), y),
        "GammaRegressor": Lesson(x, positive),
        "GaussianProcessClassifier": Lesson(x, classes(2)),
        "KBinsDiscretizer": Lesson(x, None, {"n_bins": 3, "encode": "onehot-dense"}),
        "NearestNeighbors": Lesson(x, None, {"radius": None}),
        "NeighborhoodComponentsAnalysis": Lesson(x, y),
        "GaussianRandomProjection": Lesson(x, None, {"n_components": 2}),
        "GenericUnivariateSelect": Lesson(x, y, {"mode": "k_best", "param": 2}),
        "IsolationForest": Lesson(
            x, None, {"n_estimators": 10}, options={"target_opset": {"": 21, "ai.onnx.ml": 3}}
        ),
        "LocalOutlierFactor": Lesson(x, None, {"novelty": True}),
        "MLPClassifier": Lesson(x, y, {"hidden_layer_sizes": (8,)}),
        "MLPRegressor": Lesson(x, measured(), {"hidden_layer_sizes": (8,)}),
        "MultinomialNB": Lesson(counts(), y),
        "PoissonRegressor": Lesson(x, positive),
        "RandomTreesEmbedding": Lesson(x, None, {"n_estimators": 5, "sparse_output": False}),
        "SelectFdr": Lesson(x, y, {"alpha": 0.5}),
        "SelectFpr": Lesson(x, y, {"alpha": 0.5}),
        "SelectFwe": Lesson(x, y, {"alpha": 0.5}),
        "SelectKBest": Lesson(x, y, {"k": 2}),
        "SelectPercentile": Lesson(x, y, {"percentile": 50}),
        "TweedieRegressor": Lesson(x, positive, {"power": 1.5}),
    }


@functools.cache
def _lessons() -> dict[str, Lesson]:
    return {**_plain(), **_preparing(), **_composed()}


def _lesson(name: str, estimator: type) -> Lesson:
    if name in _lessons():
        return _lessons()[name]
    from sklearn.base import ClassifierMixin, RegressorMixin

    if issubclass(estimator, RegressorMixin):
        return Lesson(numbers(), measured())
    return Lesson(numbers(), classes() if issubclass(estimator, ClassifierMixin) else None)


def estimators() -> dict[str, type]:
    """Return the estimators for which skl2onnx has a converter, by name."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from sklearn.utils import all_estimators

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: kind for name, kind in all_estimators() if kind in sklearn_operator_name_map}


def tensor_type(array: Array) -> Any:
    """Return skl2onnx's type for rows like those of an array."""
    from skl2onnx.common import data_types

    kinds = {
        "f4": "FloatTensorType",
        "f8": "DoubleTensorType",
        "i8": "Int64TensorType",
        "b1": "BooleanTensorType",
    }
    kind = "StringTensorType" if array.dtype.kind in "OUS" else kinds[array.dtype.str[1:]]
    return getattr(data_types, kind)([None, *array.shape[1:]])


def export(
    model: Any,
    inputs: Sequence[tuple[str, Any]],
    folder: Path,
    outputs: Sequence[str] = (),
    **options: Any,
) -> None:
    """Convert a fitted model, a classifier without its map of probabilities.

    Args:
        model: the fitted model.
        inputs: name and skl2onnx's type of each input.
        folder: gets ``model.onnx``.
        outputs: what it keeps of its outputs; by default all.
        options: of ``skl2onnx.to_onnx``.

    Raises:
        NotExported: skl2onnx refuses the model.
    """
    import skl2onnx
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
    from sklearn.base import is_classifier

    # The map is a sequence of dictionaries, which no Triton serves.
    choices: dict[str, object] = {"zipmap": False} if is_classifier(model) else {}
    if type(model).__name__ in {"CountVectorizer", "TfidfVectorizer"}:
        # By default a vectorizer is exported with a locale that few machines have: en_US.UTF-8.
        choices["locale"] = "C"
    chosen = {id(model): choices} if choices else None
    try:
        try:
            made = skl2onnx.to_onnx(model, initial_types=list(inputs), options=chosen, **options)
        except NameError:  # some make no map, and refuse to leave it out
            made = skl2onnx.to_onnx(model, initial_types=list(inputs), **options)
    except Exception as error:  # its converters raise many kinds
        raise NotExported(f"{type(error).__name__} {error}") from error
    if outputs:
        made = select_model_inputs_outputs(made, outputs=list(outputs))
    (folder / "model.onnx").write_bytes(made.SerializeToString())


def _write(name: str, estimator: type, folder: Path) -> None:
    lesson = _lesson(name, estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = estimator(**lesson.arguments)
        if "random_state" in model.get_params():
            model.set_params(random_state=0)
        model.fit(lesson.features, *([] if lesson.target is None else [lesson.target]))
        inputs = [("x", lesson.input or tensor_type(lesson.features))]
        export(model, inputs, folder, lesson.outputs, **lesson.options)


def _asked(name: str, estimator: type) -> Callable[[Path], dict[str, Array]]:
    def asked(folder: Path) -> dict[str, Array]:
        lesson = _lesson(name, estimator)
        return {"x": lesson.features[:ASKED] if lesson.asked is None else lesson.asked}

    return asked


def cases() -> list[Case]:
    """Return a case for each estimator; every third is logged with an input example, every third with nothing."""
    return [_case(kind, EXAMPLES[number % 3]) for number, kind in enumerate(estimators().values())]


def case_named(name: str) -> Case:
    """Return the case of the estimator of that name, without a look at all others."""
    from skl2onnx._supported_operators import sklearn_operator_name_map

    return _case(next(kind for kind in sklearn_operator_name_map if kind.__name__ == name), "golden")


def _case(estimator: type, example: Example) -> Case:
    name = estimator.__name__
    return Case(
        name=name,
        group=GROUP,
        write=functools.partial(_write, name, estimator),
        inputs=_asked(name, estimator),
        example=example,
        refused=_lesson(name, estimator).refused,
    )
