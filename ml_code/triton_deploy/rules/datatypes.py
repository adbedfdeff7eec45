"""KServe v2's element types as numpy types."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

NUMPY_TYPES: Mapping[str, type] = {
    "FP64": np.float64,
    "FP32": np.float32,
    "FP16": np.float16,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
    "BYTES": np.object_,
}
