"""Gradient boosters, exported by onnxmltools, through skl2onnx, and by CatBoost itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .case import Array, Case, Unavailable

FEATURES = 5
DATA = np.random.default_rng(3).standard_normal((300, FEATURES)).astype(np.float32)
TARGET = DATA @ np.array([2, -1, 0.5, 0, 0], np.float32) + np.sin(3 * DATA[:, 3])
TWO = (TARGET > 0).astype(int)
THREE = np.digitize(TARGET, [-1, 1])
ROWS = DATA[:7]
WITH_GAPS = np.where(np.arange(ROWS.size).reshape(ROWS.shape) % 4 == 0, np.nan, ROWS).astype(np.float32)
OPSET, ML_OPSET = 15, 3


def cases() -> list[Case]:
    """Return the cases of all boosters."""
    return [*_xgboost(), *_lightgbm(), *_catboost()]


def _xgboost() -> list[Case]:
    return [
        _case("xgboost_regressor", "X", lambda: _by_onnxmltools(_xgb("XGBRegressor", TARGET))),
        _case("xgboost_two_classes", "X", lambda: _by_onnxmltools(_xgb("XGBClassifier", TWO))),
        _case("xgboost_three_classes", "X", lambda: _by_onnxmltools(_xgb("XGBClassifier", THREE))),
        _case("xgboost_in_a_pipeline", "X", lambda: _by_skl2onnx(_xgb("XGBRegressor", TARGET)), WITH_GAPS),
    ]


def _lightgbm() -> list[Case]:
    return [
        _case("lightgbm_regressor", "X", lambda: _by_onnxmltools(_lgbm("LGBMRegressor", TARGET))),
        _case("lightgbm_two_classes", "X", lambda: _by_onnxmltools(_lgbm("LGBMClassifier", TWO), zipmap=False)),
        _case("lightgbm_three_classes", "X", lambda: _by_onnxmltools(_lgbm("LGBMClassifier", THREE), zipmap=False)),
        _case("lightgbm_batched", "X", lambda: _by_onnxmltools(_lgbm("LGBMRegressor", TARGET)), most_rows=8),
        _case("lightgbm_zipmap", "X", lambda: _by_onnxmltools(_lgbm("LGBMClassifier", TWO), zipmap=True), refused="zipmap"),
        _case("lightgbm_in_a_pipeline", "X", lambda: _by_skl2onnx(_lgbm("LGBMClassifier", TWO))),
    ]  # fmt: skip


def _catboost() -> list[Case]:
    return [
        _case("catboost_regressor", "features", lambda: _by_catboost("CatBoostRegressor", TARGET)),
        _case("catboost_batched", "features", lambda: _by_catboost("CatBoostRegressor", TARGET), most_rows=8),
        _case("catboost_map_of_probabilities", "features", lambda: _by_catboost("CatBoostClassifier", TWO), refused="sequence of maps"),
        _case("catboost_two_classes", "features", lambda: _plain(_by_catboost("CatBoostClassifier", TWO))),
        _case("catboost_three_classes", "features", lambda: _plain(_by_catboost("CatBoostClassifier", THREE))),
    ]  # fmt: skip


def _case(
    name: str,
    tensor: str,
    export: Callable[[], Any],
    rows: Array = ROWS,
    refused: str = "",
    most_rows: int = 0,
) -> Case:
    def write(folder: Path) -> None:
        try:
            model = export()
        except ImportError as missing:
            raise Unavailable(str(missing)) from missing
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    config = {"max_batch_size": most_rows} if most_rows else {}
    return Case(name, "boosters", write, {tensor: rows}, config=config, refused=refused)


def _xgb(kind: str, target: Array) -> Any:
    import xgboost

    return getattr(xgboost, kind)(n_estimators=20, max_depth=3, n_jobs=1).fit(DATA, target)


def _lgbm(kind: str, target: Array) -> Any:
    import lightgbm

    return getattr(lightgbm, kind)(n_estimators=20, n_jobs=1, verbose=-1).fit(DATA, target)


def _by_onnxmltools(model: Any, **options: Any) -> Any:
    """Export one estimator with the converter of its library."""
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    convert = {"xgboost": onnxmltools.convert_xgboost, "lightgbm": onnxmltools.convert_lightgbm}
    library = type(model).__module__.partition(".")[0]
    types = [("X", FloatTensorType([None, FEATURES]))]
    return convert[library](model, initial_types=types, target_opset=OPSET, **options)


def _by_skl2onnx(model: Any) -> Any:
    """Export a pipeline that fills gaps and scales in front of the estimator, whose converter is registered with skl2onnx."""
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx import to_onnx, update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind = type(model)
    classifies = hasattr(model, "predict_proba")
    update_registered_converter(
        kind,
        kind.__name__,
        calculate_linear_classifier_output_shapes if classifies else calculate_linear_regressor_output_shapes,
        convert_xgboost if kind.__module__.startswith("xgboost") else convert_lightgbm,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifies else None,
    )
    front = make_pipeline(SimpleImputer(), StandardScaler(), model).fit(DATA, TWO if classifies else TARGET)
    options = {id(front): {"zipmap": False}} if classifies else None
    return to_onnx(front, DATA[:1], options=options, target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET})


def _by_catboost(kind: str, target: Array) -> Any:
    import tempfile

    import catboost
    import onnx

    model = getattr(catboost, kind)(
        iterations=20, depth=3, verbose=False, thread_count=1, allow_writing_files=False
    )
    model.fit(DATA, target)
    with tempfile.TemporaryDirectory() as folder:
        model.save_model(f"{folder}/model.onnx", format="onnx")
        return onnx.load(f"{folder}/model.onnx")


def _plain(model: Any) -> Any:
    """Give the probabilities as a tensor: CatBoost has no switch for its ZipMap."""
    from onnx import TensorProto, helper

    (zipmap,) = (node for node in model.graph.node if node.op_type == "ZipMap")
    probabilities = helper.make_tensor_value_info(zipmap.input[0], TensorProto.FLOAT, ["N", "classes"])
    model.graph.node.remove(zipmap)
    kept = [output for output in model.graph.output if output.name not in zipmap.output]
    del model.graph.output[:]
    model.graph.output.extend([*kept, probabilities])
    return model
