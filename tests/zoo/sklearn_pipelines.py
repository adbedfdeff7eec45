"""Thirty pipelines of scikit-learn as people build them: mixed columns, missing values, categories, texts, and their types."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.zoo.case import Array, Case
from tests.zoo.sklearn_estimators import (
    ASKED,
    EXAMPLES,
    classes,
    counts,
    export,
    gaps,
    measured,
    numbers,
    sentences,
    tensor_type,
    words,
)

if TYPE_CHECKING:
    from pandas import DataFrame

GROUP = "sklearn_pipelines"
Steps = Callable[[], Sequence[Any]]


@dataclass(frozen=True)
class Recipe:
    """A pipeline.

    Attributes:
        steps: makes its steps.
        features: makes what it is fitted on: an array, or a table whose columns are inputs by name.
        target: makes what it learns, if anything.
        options: of ``skl2onnx.to_onnx``.
    """

    steps: Steps
    features: Callable[[], Any] = numbers
    target: Callable[[], Array] | None = classes
    options: Mapping[str, Any] | None = None


def doubles() -> Array:
    """Return rows of numbers in double precision."""
    return numbers().astype(np.float64)


def whole() -> Array:
    """Return rows of small whole numbers."""
    return counts().astype(np.int64)


def people() -> DataFrame:
    """Return a table with columns of every kind, some of their values missing."""
    import pandas

    colours = words()
    return pandas.DataFrame(
        {
            "age": gaps()[:, 1],
            "income": numbers()[:, 0],
            "savings": doubles()[:, 2],
            "children": whole()[:, 0],
            "colour": colours[:, 0],
            "size": colours[:, 1],
        }
    )


def letters() -> DataFrame:
    """Return a table of a text and a number."""
    import pandas

    return pandas.DataFrame({"text": sentences().ravel(), "stars": numbers()[:, 0]})


def _only(table: Callable[[], DataFrame], *columns: str) -> Callable[[], DataFrame]:
    return lambda: table()[list(columns)]


def _columns(*parts: tuple[Any, list[str]], remainder: Any = "drop") -> Any:
    from sklearn.compose import ColumnTransformer

    named = [(f"part{number}", part, columns) for number, (part, columns) in enumerate(parts)]
    return ColumnTransformer(named, remainder=remainder, sparse_threshold=0)


def _scaled() -> dict[str, Recipe]:
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import (
        MaxAbsScaler,
        MinMaxScaler,
        Normalizer,
        PolynomialFeatures,
        PowerTransformer,
        RobustScaler,
        StandardScaler,
    )
    from sklearn.svm import SVC, SVR

    return {
        "standard_logistic": Recipe(lambda: [StandardScaler(), LogisticRegression()]),
        "minmax_svc": Recipe(lambda: [MinMaxScaler(), SVC(probability=True, random_state=0)]),
        "robust_neighbours": Recipe(lambda: [RobustScaler(), KNeighborsClassifier(3)]),
        "maxabs_naive_bayes": Recipe(lambda: [MaxAbsScaler(), GaussianNB()]),
        "normalized_forest": Recipe(lambda: [Normalizer(), RandomForestClassifier(10, random_state=0)]),
        "power_svr": Recipe(lambda: [PowerTransformer(), SVR()], target=measured),
        "polynomial_ridge": Recipe(
            lambda: [PolynomialFeatures(2), StandardScaler(), Ridge()], target=measured
        ),
        "standard_mlp": Recipe(
            lambda: [StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=50, random_state=0)],
            target=measured,
        ),
        "pca_boosting": Recipe(
            lambda: [StandardScaler(), PCA(2), GradientBoostingClassifier(n_estimators=5, random_state=0)]
        ),
        "pca_alone": Recipe(lambda: [StandardScaler(), PCA(3)], target=None),
        "svd_forest": Recipe(
            lambda: [TruncatedSVD(2, random_state=0), RandomForestRegressor(10, random_state=0)],
            target=measured,
        ),
        "double_logistic": Recipe(lambda: [StandardScaler(), LogisticRegression()], doubles),
        "double_ridge": Recipe(lambda: [StandardScaler(), Ridge()], doubles, measured),
        "double_pca": Recipe(lambda: [StandardScaler(), PCA(2)], doubles, None),
        "int64_logistic": Recipe(lambda: [StandardScaler(), LogisticRegression()], whole),
        "int64_forest": Recipe(lambda: [RandomForestClassifier(10, random_state=0)], whole),
    }


def _chosen() -> dict[str, Recipe]:
    from sklearn.cluster import KMeans
    from sklearn.feature_selection import SelectKBest, VarianceThreshold
    from sklearn.impute import KNNImputer, SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import FeatureUnion
    from sklearn.preprocessing import KBinsDiscretizer, MinMaxScaler, StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    both = [("standard", StandardScaler()), ("ranged", MinMaxScaler())]
    return {
        "mean_imputer_tree": Recipe(lambda: [SimpleImputer(), DecisionTreeClassifier(max_depth=3)], gaps),
        "median_imputer_ridge": Recipe(
            lambda: [SimpleImputer(strategy="median"), StandardScaler(), Ridge()], gaps, measured
        ),
        "neighbour_imputer_logistic": Recipe(lambda: [KNNImputer(n_neighbors=2), LogisticRegression()], gaps),
        "selected_logistic": Recipe(lambda: [VarianceThreshold(), SelectKBest(k=2), LogisticRegression()]),
        "bins_logistic": Recipe(lambda: [KBinsDiscretizer(3, encode="onehot-dense"), LogisticRegression()]),
        "union_clusters": Recipe(
            lambda: [FeatureUnion(both), KMeans(3, n_init=1, random_state=0)], target=None
        ),
    }


def _mixed() -> dict[str, Recipe]:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    one_hot = OneHotEncoder(handle_unknown="ignore")
    filled = make_pipeline(SimpleImputer(), StandardScaler())
    names = np.array(["low", "middle", "high"], np.object_)
    return {
        "one_hot_logistic": Recipe(lambda: [one_hot, LogisticRegression()], words),
        "ordinal_boosting": Recipe(
            lambda: [OrdinalEncoder(), HistGradientBoostingRegressor(max_iter=5)], words, measured
        ),
        "string_classes": Recipe(
            lambda: [StandardScaler(), LogisticRegression()], target=lambda: names[classes()]
        ),
        "mixed_columns": Recipe(
            lambda: [
                _columns(
                    (filled, ["age"]),
                    (StandardScaler(), ["income", "children"]),
                    (one_hot, ["colour", "size"]),
                ),
                LogisticRegression(),
            ],
            _only(people, "age", "income", "children", "colour", "size"),
        ),
        "mixed_ordinal": Recipe(
            lambda: [_columns((filled, ["age"]), (OrdinalEncoder(), ["colour", "size"])), Ridge()],
            _only(people, "age", "colour", "size"),
            measured,
        ),
        "passed_through": Recipe(
            lambda: [_columns((one_hot, ["colour"]), remainder="passthrough"), Ridge()],
            _only(people, "colour", "savings"),
            measured,
        ),
        "counted_text": Recipe(
            lambda: [CountVectorizer(lowercase=False), LogisticRegression()], lambda: sentences().ravel()
        ),
        "text_and_number": Recipe(
            lambda: [
                _columns((TfidfVectorizer(lowercase=False), "text"), (StandardScaler(), ["stars"])),  # type: ignore[arg-type]
                SGDClassifier(loss="log_loss", random_state=0),
            ],
            letters,
        ),
    }


@functools.cache
def recipes() -> dict[str, Recipe]:
    """Return every pipeline by name."""
    return {**_scaled(), **_chosen(), **_mixed()}


def _inputs(features: Any) -> dict[str, Array]:
    """Return each input by name; a column of a table is an input of its own, and texts have one column."""
    if hasattr(features, "columns"):
        return {name: features[[name]].to_numpy() for name in features.columns}
    return {"x": features if features.ndim == 2 else features[:, None]}


def _write(name: str, folder: Path) -> None:
    from sklearn.pipeline import make_pipeline

    recipe = recipes()[name]
    features = recipe.features()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(*recipe.steps())
        model.fit(features, *([recipe.target()] if recipe.target else []))
        inputs = [(name, tensor_type(array)) for name, array in _inputs(features).items()]
        export(model, inputs, folder, **(recipe.options or {}))


def _asked(name: str, folder: Path) -> dict[str, Array]:
    return {name: array[:ASKED] for name, array in _inputs(recipes()[name].features()).items()}


def cases() -> list[Case]:
    """Return a case for each pipeline."""
    return [
        Case(
            name=name,
            group=GROUP,
            write=functools.partial(_write, name),
            inputs=functools.partial(_asked, name),
            example=EXAMPLES[number % 3],
        )
        for number, name in enumerate(recipes())
    ]
