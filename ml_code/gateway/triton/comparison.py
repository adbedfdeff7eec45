"""Compares a candidate's answer to a mirrored request with the live version's.

The kind of an output decides how it is compared. Labels (whole numbers, texts, truth values) are equal or
not. Scores and other numbers are compared one by one, as in the smoke test. An embedding is compared row by
row as a vector, because the relative difference of a single number near zero means nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ...triton_deploy.errors import DeployError
from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.repository import ModelFolder
from ...triton_deploy.rules.version_files import SMOKE_CASE
from ..http.errors import BackendFailed
from ..v2.tensors import read_outputs

Sent: TypeAlias = tuple[bytes, list[tuple[bytes, bytes]]]
"""An answer's body and headers."""

_FARTHEST = 1e6
"""Largest difference that is reported."""
_FLOOR = 1e-6
"""Smallest divisor of a relative difference: it keeps values near zero from blowing the difference up."""
_LEAST_EMBEDDING = 16
"""Fewest numbers in a row of an embedding; a shorter row may have length 1 by chance."""
_UNIT_LENGTH = 1e-2
"""Largest distance of a normalised embedding's length from 1; types of 16 bits are not more exact."""


@dataclass(frozen=True)
class Tolerance:
    """Largest difference of two numbers that count as the same: ``atol + rtol * |live number|``."""

    rtol: float
    atol: float


@dataclass(frozen=True)
class Difference:
    """The difference of two answers to one request.

    Attributes:
        absolute: largest absolute difference of two numbers; 1e6 at most, and 1e6 for NaN on one side.
        relative: largest difference relative to the live version's number; 1e6 at most.
        disagree: whether the labels differ in some row.
        outputs: by output name, whether both answers count as the same.
    """

    absolute: float
    relative: float
    disagree: bool
    outputs: Mapping[str, bool] = field(default_factory=dict)


class Tolerances:
    """The tolerances of candidates: from the golden file, or else from the settings, as in the smoke test.

    Args:
        root: the model repository; only read.
        default: tolerance of a version whose golden file has none.
    """

    def __init__(self, root: Path | None, default: Tolerance) -> None:
        self._root = root
        self._default = default
        # By model, which has one candidate at a time: deployment and tolerance.
        self._known: dict[str, tuple[str, Tolerance]] = {}

    def of(self, model: str, version: int, deploy_id: str) -> Tolerance:
        """Return a candidate's tolerance, read once for each deployment; belongs in a thread."""
        known = self._known.get(model)
        if known is None or known[0] != deploy_id:
            known = self._known[model] = (deploy_id, self._read(model, version))
        return known[1]

    def _read(self, model: str, version: int) -> Tolerance:
        said: Mapping[str, float] = {}
        if self._root is not None:
            # If the file can't be read, the shadow goes on with the settings.
            with contextlib.suppress(DeployError, OSError, ValueError, KeyError, TypeError):
                path = ModelFolder.at(self._root, model).versions.path(version) / SMOKE_CASE
                tolerance = json.loads(path.read_bytes())["tolerance"]
                said = {name: float(tolerance[name]) for name in ("rtol", "atol") if name in tolerance}
        default = self._default
        return Tolerance(said.get("rtol", default.rtol), said.get("atol", default.atol))


def compare(live: Sent, candidate: Sent, tolerance: Tolerance) -> tuple[str, Difference]:
    """Return the version that gave the live answer, and the difference of the candidate's answer.

    Args:
        live: the live version's answer.
        candidate: the candidate's answer.
        tolerance: the candidate's tolerance.

    Raises:
        BackendFailed: an answer is no v2 answer, or as ``differences``.
    """
    version, expected = _read(*live)
    return version, differences(expected, _read(*candidate)[1], tolerance)


def differences(
    live: Mapping[str, Array], candidate: Mapping[str, Array], tolerance: Tolerance
) -> Difference:
    """Return the difference of a candidate's answer; outputs that only the candidate has do not count.

    Labels are outputs of whole numbers, texts or truth values. If there are none, the position of the
    largest value in each row is the label, except in embeddings.

    Args:
        live: the live version's arrays by output name.
        candidate: the candidate's arrays by output name.
        tolerance: the candidate's tolerance.

    Raises:
        BackendFailed: an output is missing or has another shape.
    """
    absolute = relative = 0.0
    labels, guesses = [], []
    same = {}
    for name, expected in live.items():
        given = candidate.get(name)
        if given is None or given.shape != expected.shape:
            raise BackendFailed(f"The candidate's output {name} is missing or has another shape.")
        if expected.dtype.kind != "f":
            same[name] = not (expected != given).any()
            labels.append(not same[name])
            continue
        absolute = max(absolute, _gap(expected, given, np.ones_like(expected)))
        relative = max(relative, _gap(expected, given, np.maximum(np.abs(expected), _FLOOR)))
        if is_embedding(name, expected):
            same[name] = _same_vectors(expected, given, tolerance)
            continue
        same[name] = _same_numbers(expected, given, tolerance)
        if expected.ndim > 1 and expected.shape[-1] > 1:
            guesses.append(bool((expected.argmax(-1) != given.argmax(-1)).any()))
    return Difference(absolute, relative, any(labels or guesses), same)


def is_embedding(name: str, values: Array) -> bool:
    """Whether the rows of an output are vectors: by its name, or because every row has length 1.

    Args:
        name: name of the output.
        values: the live version's numbers.
    """
    if values.ndim < 2 or values.shape[-1] < _LEAST_EMBEDDING or not values.size:
        return False
    if "embed" in name.lower():
        return True
    lengths = np.linalg.norm(values.astype(np.float64), axis=-1)
    return bool(np.all(np.abs(lengths - 1) < _UNIT_LENGTH))


def _same_numbers(expected: Array, given: Array, tolerance: Tolerance) -> bool:
    return bool(
        np.isclose(
            given.astype(np.float64),
            expected.astype(np.float64),
            rtol=tolerance.rtol,
            atol=tolerance.atol,
            equal_nan=True,
        ).all()
    )


def _same_vectors(expected: Array, given: Array, tolerance: Tolerance) -> bool:
    """Whether each row's vector is as near to the live one as the tolerance of its numbers allows."""
    live, candidate = expected.astype(np.float64), given.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.linalg.norm(candidate - live, axis=-1)
        most = tolerance.atol * np.sqrt(live.shape[-1]) + tolerance.rtol * np.linalg.norm(live, axis=-1)
        return bool(np.all((apart <= most) | (candidate == live).all(axis=-1)))


def _gap(expected: Array, given: Array, unit: Array) -> float:
    """Return the largest difference, in units; 0 without values."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(expected.astype(np.float64) - given.astype(np.float64)) / unit
    gap[(expected == given) | (np.isnan(expected) & np.isnan(given))] = 0
    farthest = np.nan_to_num(gap, nan=_FARTHEST, posinf=_FARTHEST)
    return float(min(farthest.max(), _FARTHEST)) if gap.size else 0.0


def _read(content: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[str, Mapping[str, Array]]:
    length = dict(headers).get(b"inference-header-content-length")
    return read_outputs(content, int(length) if length else None)
