"""The Tritons that serve the repository, the staging Triton, and the deadlines of calls to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import Misconfigured
from ..rules.web_address import shown
from .checks import is_address, one_of
from .environment import FromEnvironment, Problem, setting

DNS_PREFIX = "dns:///"
"""Prefix of an endpoint that stands for every address of a name, as in gRPC's own naming."""


def _grpc_addresses(variable: str, urls: Sequence[str], default: object) -> None:
    if not urls:
        raise Misconfigured(f"{variable} names no Triton.", hint="Set it to host:port of each one.")
    for url in urls:
        if not is_address(url.removeprefix(DNS_PREFIX)):
            raise Misconfigured(
                f"{variable} has {shown(url)!r}, which is not host:port.",
                hint=f"Use Triton's gRPC port (8001 by default), without a scheme, or {DNS_PREFIX}name:port.",
            )
    if twice := sorted({url for url in urls if urls.count(url) > 1}):
        raise Misconfigured(
            f"{variable} names {', '.join(map(shown, twice))} twice: one Triton would count as two.",
            hint="Name each once.",
        )


def _quorum(variable: str, quorum: str, default: str) -> None:
    if quorum not in ("all", "majority") and not re.fullmatch("[1-9][0-9]{0,3}", quorum):
        raise Misconfigured(
            f"{variable}={quorum!r} is neither 'all', 'majority' nor a number of 1 or more.",
            hint=f"Unset it for the default, {default}.",
        )


def _staging_address(variable: str, url: str, default: str) -> None:
    if url and not is_address(url):
        raise Misconfigured(
            f"{variable}={shown(url)!r} is not host:port.",
            hint="Use the gRPC port of the staging Triton (8001 by default), without a scheme. There is one of it.",
        )


@dataclass(frozen=True, kw_only=True)
class TritonSettings(FromEnvironment):
    """Endpoints, quorum, staging, limits and deadlines of the Tritons of a repository."""

    grpc_urls: tuple[str, ...] = setting(
        "TRITON_DEPLOY_GRPC_URLS",
        ("127.0.0.1:8001",),
        "gRPC endpoints of every Triton on that repository, comma-separated: `host:port`, or `dns:///name:port` for every address that the name has.",
        check=_grpc_addresses,
    )
    quorum: str = setting(
        "TRITON_DEPLOY_QUORUM",
        "all",
        "How many of them have to take part in a deploy: `all`, `majority` or a number. The others are brought along by `reconcile`.",
        check=_quorum,
    )
    staging_grpc_url: str = setting(
        "TRITON_DEPLOY_STAGING_GRPC_URL",
        "",
        "gRPC endpoint (`host:port`) of one more Triton on that repository, to which no client is sent: a candidate is tried there first. Empty: there is none.",
        check=_staging_address,
    )
    staging: str = setting(
        "TRITON_DEPLOY_STAGING",
        "required",
        "What a deploy does when the staging Triton can't be reached: `required` fails, to be repeated; `optional` goes on, and its record says so.",
        check=one_of("required", "optional"),
    )
    staging_wait_s: float = setting(
        "TRITON_DEPLOY_STAGING_WAIT_S",
        600.0,
        "How long to wait while another deploy uses the staging Triton, seconds.",
    )
    memory_bytes: int = setting(
        "TRITON_DEPLOY_TRITON_MEMORY_BYTES",
        0,
        "Memory of one Triton for models, bytes: a candidate that would not fit beside the loaded versions (1.2 times their files) is refused before its load; 0 compares nothing.",
    )
    max_opset: int = setting(
        "TRITON_DEPLOY_MAX_OPSET",
        26,
        "Highest ONNX opset (default domain) that Triton's ONNX Runtime takes.",
        positive=True,
    )
    max_ir_version: int = setting(
        "TRITON_DEPLOY_MAX_IR_VERSION",
        13,
        "Highest ONNX IR version that Triton's ONNX Runtime takes.",
        positive=True,
    )
    load_timeout_s: float = setting(
        "TRITON_DEPLOY_LOAD_TIMEOUT_S",
        300.0,
        "Deadline for Triton to load a candidate, seconds.",
        positive=True,
    )
    ready_timeout_s: float = setting(
        "TRITON_DEPLOY_READY_TIMEOUT_S",
        30.0,
        "Deadline for the candidate to be ready on every Triton, seconds.",
        positive=True,
    )
    switch_timeout_s: float = setting(
        "TRITON_DEPLOY_SWITCH_TIMEOUT_S",
        10.0,
        "Deadline of every other call to Triton (flip, unload, index), seconds.",
        positive=True,
    )
    infer_timeout_s: float = setting(
        "TRITON_DEPLOY_INFER_TIMEOUT_S", 30.0, "Deadline of one smoke inference, seconds.", positive=True
    )
    settle_s: float = setting(
        "TRITON_DEPLOY_SETTLE_S",
        1.0,
        "How long the first Triton answers clients with a version that none of them has met before, until the rest are flipped, seconds; 0 waits for no client.",
    )

    @property
    def trial_limit_s(self) -> float:
        """Longest trial in the staging Triton, seconds: two tries with a restart between; 0 without one."""
        if not self.staging_grpc_url:
            return 0.0
        try_s = self.load_timeout_s + self.ready_timeout_s + 24 * self.infer_timeout_s
        return self.staging_wait_s + 2 * try_s + self.load_timeout_s

    def problems(self) -> Iterator[Problem]:
        """See FromEnvironment.problems."""
        yield from super().problems()
        if self.staging_grpc_url and self.staging_grpc_url in self.grpc_urls:
            yield Problem(
                "TRITON_DEPLOY_STAGING_GRPC_URL",
                Misconfigured(
                    f"TRITON_DEPLOY_STAGING_GRPC_URL={self.staging_grpc_url!r} is one of TRITON_DEPLOY_GRPC_URLS.",
                    hint="A candidate is tried on a Triton without clients: start one more Triton, without --load-model, and name that.",
                ),
                beside=("TRITON_DEPLOY_GRPC_URLS",),
            )
        counted = not any(url.startswith(DNS_PREFIX) for url in self.grpc_urls)
        tritons = len(self.grpc_urls)
        if counted and self.quorum.isdigit() and int(self.quorum) > tritons > 0:
            yield Problem(
                "TRITON_DEPLOY_QUORUM",
                Misconfigured(
                    f"TRITON_DEPLOY_QUORUM={self.quorum} is more than the Tritons that TRITON_DEPLOY_GRPC_URLS names: {tritons}.",
                    hint="Name the others, or lower it; 'all' is the default.",
                ),
                beside=("TRITON_DEPLOY_GRPC_URLS",),
            )
