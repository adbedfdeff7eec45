"""The Tritons: do they answer, let models be loaded, serve this very repository; and what do they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from ..errors import DeployError
from ..repository.durable import storage_errors
from ..settings import Settings
from ..triton import ServerInfo, tritons_of
from .check import Finding, Report
from .probe import Probe

CALL_S = 3.0
SEEN_WITHIN_S = 5.0
"""How long a Triton may need to see a new folder: a network file system's cache may be that old, seconds."""
POLL_S = 0.2
NEEDED = ("model_repository", "model_configuration", "binary_tensor_data")

ONNX_LIMITS = {
    **dict.fromkeys(range(40, 44), ("1.16", 19, 9)),
    **dict.fromkeys(range(44, 46), ("1.17", 20, 9)),
    **dict.fromkeys(range(46, 49), ("1.18", 21, 10)),
    **dict.fromkeys(range(49, 53), ("1.19", 21, 10)),
    **dict.fromkeys(range(53, 56), ("1.20", 21, 10)),
    **dict.fromkeys(range(56, 58), ("1.21", 22, 10)),
    **dict.fromkeys(range(58, 60), ("1.22", 22, 10)),
}
"""By minor version of Triton 2: the ONNX Runtime in NVIDIA's image (``build.py`` at Triton's tags), and the opset of the default
domain and the IR version up to which it goes (ONNX Runtime's compatibility table)."""


class Examined(Protocol):
    """What the check asks of a Triton; each call raises a DeployError when it is refused or not answered."""

    @property
    def url(self) -> str:
        """Address, for messages."""

    def about(self) -> ServerInfo:
        """Return what the server says of itself."""

    def folders(self) -> frozenset[str]:
        """Return the name of every folder in its repository."""

    def unload(self, model: str, timeout_s: float) -> None:
        """Unload a model; one that is not loaded is fine."""


class TritonCheck:
    """Asks every Triton whether it sees a folder that is made for that moment, and would do what a deploy asks.

    Args:
        settings: where they and the repository are.
        tritons: the servers; by default those of the settings.
    """

    name = "Triton"
    needs = ("TRITON_DEPLOY_REPOSITORY", "TRITON_DEPLOY_GRPC_URLS")
    deadline_s = 40.0

    def __init__(self, settings: Settings, tritons: Callable[[], Sequence[Examined]] | None = None) -> None:
        quick = replace(settings, switch_timeout_s=min(settings.switch_timeout_s, CALL_S))
        self._settings = settings
        self._tritons = tritons or (lambda: tritons_of(quick))
        self._probe = Probe(settings.repository)
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See Check.look."""
        answering = []
        for triton in self._tritons():
            try:
                info = triton.about()
            except DeployError as error:
                yield self._report.failed(error.message, error.hint)
                continue
            answering.append(triton)
            yield from self._server(triton, info)
        yield from self._shared(answering)

    def clean_up(self) -> None:
        """See Check.clean_up."""
        self._probe.remove()

    def _server(self, triton: Examined, info: ServerInfo) -> Iterator[Finding]:
        yield self._report.ok(f"Triton {info.version} answers at {triton.url}.")
        missing = [name for name in NEEDED if name not in info.extensions]
        if missing:
            yield self._report.failed(
                f"Triton at {triton.url} lacks the extensions {', '.join(missing)}.",
                "Use a Triton that has them: every NVIDIA image from 2.40 (23.11) on.",
            )
        try:
            # Of what is not there: says whether unloading is allowed, and does nothing.
            triton.unload(self._probe.name, CALL_S)
        except DeployError as error:
            yield self._report.failed(error.message, error.hint)
        else:
            yield self._report.ok(f"Triton at {triton.url} lets models be loaded and unloaded.")
        yield self._limits(triton.url, info.version)

    def _limits(self, url: str, version: str) -> Finding:
        major, _, rest = version.partition(".")
        minor = rest.partition(".")[0]
        known = ONNX_LIMITS.get(int(minor)) if major == "2" and minor.isdigit() else None
        opset, ir = self._settings.max_opset, self._settings.max_ir_version
        if known is None:
            return self._report.unknown(
                f"Which ONNX Runtime Triton {version} at {url} has is not known here, and it does not say so.",
                f"See its release notes: it must take opset {opset} (TRITON_DEPLOY_MAX_OPSET) and IR version {ir} (TRITON_DEPLOY_MAX_IR_VERSION).",
            )
        runtime, max_opset, max_ir = known
        if opset <= max_opset and ir <= max_ir:
            return self._report.ok(
                f"ONNX Runtime {runtime} of Triton {version} takes what the settings let through."
            )
        return self._report.warning(
            f"NVIDIA's image of Triton {version} has ONNX Runtime {runtime}, which takes ONNX opset {max_opset} and IR version "
            f"{max_ir}; the settings let {opset} and {ir} through. A newer model would fail in load, and be rolled back.",
            f"Set TRITON_DEPLOY_MAX_OPSET={min(opset, max_opset)} and TRITON_DEPLOY_MAX_IR_VERSION={min(ir, max_ir)}; "
            "nothing, if this Triton's onnxruntime backend is another.",
        )

    def _shared(self, tritons: Sequence[Examined]) -> Iterator[Finding]:
        if not tritons:
            yield self._report.unknown(
                "No Triton answers, so whether one shares the repository is not known."
            )
            return
        root = self._settings.repository_root
        with storage_errors(f"making a folder in {root} for Triton to see"):
            self._probe.make()
        blind = self._blind(tritons)
        for triton in tritons:
            if triton.url not in blind:
                yield self._report.ok(f"Triton at {triton.url} sees the folder {root} of this machine.")
                continue
            others = (
                f"; {len(tritons) - len(blind)} of {len(tritons)} Tritons do"
                if len(blind) < len(tritons)
                else ""
            )
            yield self._report.failed(
                blind[triton.url]
                or f"Triton at {triton.url} does not see a folder that was made in {root} {SEEN_WITHIN_S:g} s ago{others}: it serves "
                "another repository.",
                "TRITON_DEPLOY_REPOSITORY must be the folder that every Triton was started with (--model-repository), shared with it. "
                "If it is, on NFS: mount it with actimeo=1 everywhere.",
            )

    def _blind(self, tritons: Sequence[Examined]) -> dict[str, str]:
        """Return the Tritons that don't see the probe in time, each with its error if it had one."""
        until = time.monotonic() + SEEN_WITHIN_S
        while True:
            blind: dict[str, str] = {}
            for triton in tritons:
                try:
                    if self._probe.name not in triton.folders():
                        blind[triton.url] = ""
                except DeployError as error:
                    blind[triton.url] = error.message
            if not blind or time.monotonic() > until:
                return blind
            time.sleep(POLL_S)
