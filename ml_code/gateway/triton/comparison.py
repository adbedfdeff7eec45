"""How far a candidate's answer to a mirrored request is from live's: pure rules, and the tolerance that a model came with.

Every output is compared as what it is. Labels (whole numbers, texts, truth values) are the same or not. Scores and other numbers are
compared one by one, as the smoke test compares them. An embedding is compared row by row as a vector: of a number in it that is near
zero nobody needs to know how many times it is another one.
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
_FLOOR = 1e-6
"""Below this, a value is taken for zero when a difference is put in relation to it."""
_LEAST_EMBEDDING = 16
"""Rows of fewer numbers are no embedding, whatever their length is as vectors."""
_UNIT_LENGTH = 1e-2
"""How far the length of an embedding that was normalised is from 1; types of 16 bits keep no more."""


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may be apart and count as the same: ``atol + rtol * |live's|``."""

    rtol: float
    atol: float


@dataclass(frozen=True)
class Difference:
    """How far two answers to one request are apart.

    Attributes:
        absolute: the largest difference of two numbers; 1e6 at most, also where only one of them is a number.
        relative: the largest one in relation to what live says; 1e6 at most.
        disagree: whether the labels differ in some row.
        outputs: by the name of each output whether the two count as the same.
    """

    absolute: float
    relative: float
    disagree: bool
    outputs: Mapping[str, bool] = field(default_factory=dict)


class Tolerances:
    """Says what counts as the same for a candidate: by its golden file, or else by the settings, as in its smoke test.

    Args:
        root: the model repository; only read.
        default: for a version whose golden file says nothing.
    """

    def __init__(self, root: Path | None, default: Tolerance) -> None:
        self._root = root
        self._default = default
        # One a model: it has one candidate at a time.
        self._known: dict[str, tuple[str, Tolerance]] = {}

    def of(self, model: str, version: int, deploy_id: str) -> Tolerance:
        """Return a candidate's tolerance; read once for a deployment, in a thread."""
        known = self._known.get(model)
        if known is None or known[0] != deploy_id:
            known = self._known[model] = (deploy_id, self._read(model, version))
        return known[1]

    def _read(self, model: str, version: int) -> Tolerance:
        said: Mapping[str, float] = {}
        if self._root is not None:
            # A file that can't be read says nothing: the shadow goes on, by the settings.
            with contextlib.suppress(DeployError, OSError, ValueError, KeyError, TypeError):
                path = ModelFolder.at(self._root, model).versions.path(version) / SMOKE_CASE
                tolerance = json.loads(path.read_bytes())["tolerance"]
                said = {name: float(tolerance[name]) for name in ("rtol", "atol") if name in tolerance}
        default = self._default
        return Tolerance(said.get("rtol", default.rtol), said.get("atol", default.atol))


def compare(live: Sent, candidate: Sent, tolerance: Tolerance) -> tuple[str, Difference]:
    """Return the version that gave live's answer, and how far the candidate's is from it.

    Args:
        live: live's answer.
        candidate: the candidate's.
        tolerance: what counts as the same.

    Raises:
        BackendFailed: one of them is no v2 answer, or as ``differences``.
    """
    version, expected = _read(*live)
    return version, differences(expected, _read(*candidate)[1], tolerance)


def differences(
    live: Mapping[str, Array], candidate: Mapping[str, Array], tolerance: Tolerance
) -> Difference:
    """Return how far a candidate's answer is from live's; outputs that only the candidate has do not count.

    Labels are outputs of whole numbers, texts or truth values; without any, the largest value of each row of the others, except
    of embeddings.

    Args:
        live: arrays by output name.
        candidate: the same.
        tolerance: what counts as the same.

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
    """Whether an output's rows are vectors in some space: by its name, or because every row has length 1.

    Args:
        name: the output's.
        values: what live says, numbers.
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
    """Whether each row's vector is as near to live's as a tolerance for its numbers allows."""
    live, candidate = expected.astype(np.float64), given.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.linalg.norm(candidate - live, axis=-1)
        most = tolerance.atol * np.sqrt(live.shape[-1]) + tolerance.rtol * np.linalg.norm(live, axis=-1)
        return bool(np.all((apart <= most) | (candidate == live).all(axis=-1)))


def _gap(expected: Array, given: Array, unit: Array) -> float:
    """Return the largest difference in units; 0 without values."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(expected.astype(np.float64) - given.astype(np.float64)) / unit
    gap[(expected == given) | (np.isnan(expected) & np.isnan(given))] = 0
    farthest = np.nan_to_num(gap, nan=_FARTHEST, posinf=_FARTHEST)
    return float(min(farthest.max(), _FARTHEST)) if gap.size else 0.0


def _read(content: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[str, Mapping[str, Array]]:
    length = dict(headers).get(b"inference-header-content-length")
    return read_outputs(content, int(length) if length else None)
