"""The smoke test of a candidate, and the model that is run for its reference answers."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Misconfigured
from .checks import one_of
from .environment import FromEnvironment, setting

MIN_REFERENCE_BYTES = 512 << 20
"""Least address space with which ONNX Runtime starts, bytes."""


def _time_to_answer(variable: str, seconds: float, default: float) -> None:
    if not seconds:
        raise Misconfigured(
            f"{variable} is 0: no model could answer.",
            hint=f"Unset it for the default, {default:g}; TRITON_DEPLOY_REQUIRE_GOLDEN=yes runs none.",
        )


def _memory_of_a_runtime(variable: str, size_bytes: int, default: int) -> None:
    if size_bytes < MIN_REFERENCE_BYTES:
        raise Misconfigured(
            f"{variable}={size_bytes} is less than ONNX Runtime needs, {MIN_REFERENCE_BYTES}.",
            hint=f"Unset it for the default, {default}.",
        )


@dataclass(frozen=True, kw_only=True)
class SmokeSettings(FromEnvironment):
    """Limits of the smoke test, and of the process that runs a model logged without golden inputs."""

    latency_limit_s: float = setting(
        "TRITON_DEPLOY_SMOKE_LATENCY_LIMIT_S",
        5.0,
        "Slowest median smoke latency that passes, seconds.",
        positive=True,
    )
    rtol: float = setting(
        "TRITON_DEPLOY_SMOKE_RTOL",
        1e-3,
        "Relative tolerance of the smoke test, unless the golden file has its own.",
    )
    atol: float = setting(
        "TRITON_DEPLOY_SMOKE_ATOL",
        1e-5,
        "Absolute tolerance of the smoke test, unless the golden file has its own.",
    )
    require_golden: str = setting(
        "TRITON_DEPLOY_REQUIRE_GOLDEN",
        "no",
        "`yes` refuses versions that were logged without `triton/golden.json`, and the deployer runs no model; `no` runs those in a process with the following limits.",
        check=one_of("no", "yes"),
    )
    reference_timeout_s: float = setting(
        "TRITON_DEPLOY_REFERENCE_TIMEOUT_S",
        60.0,
        "Longest that ONNX Runtime may take to open a model in its process, and again to load and answer one logged without golden inputs, seconds; far below the lease.",
        check=_time_to_answer,
    )
    reference_memory_bytes: int = setting(
        "TRITON_DEPLOY_REFERENCE_MEMORY_BYTES",
        4 << 30,
        "Address space of a process in which the deployer or the gate opens or runs a model, bytes; ONNX Runtime alone takes 0.3 GB of it.",
        check=_memory_of_a_runtime,
    )
