"""The stack's ``onnxruntime`` backend, loaded by its path: its folder has the name of a package that it imports."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

MODEL_PY = Path(__file__).parents[2] / "stack/triton_backends/onnxruntime/model.py"


@functools.cache
def stand_in() -> tuple[ModuleType, ModuleType]:
    """Return the module ``model`` of the backend and its ``model_configuration``."""
    spec = importlib.util.spec_from_file_location("onnxruntime_stand_in", MODEL_PY)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Dataclasses look their module up there.
    sys.path.append(str(MODEL_PY.parent))  # As Triton does, for the siblings of the file.
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(MODEL_PY.parent))
    return module, sys.modules["model_configuration"]
