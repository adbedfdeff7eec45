"""Checks the Tritons: whether they answer, serve this repository and allow loads, and their versions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from ..clients.triton import Index, ServerInfo, tritons_of
from ..errors import DeployError
from ..model.reported_shapes import runtime_version
from ..settings import Settings
from ..storage import storage_errors
from .check import Finding, Report, first_of
from .probe import Probe

CALL_S = 3.0
"""Longest wait for one call, seconds."""
SEEN_WITHIN_S = 5.0
"""Longest wait for a Triton to see a new folder, seconds: the cache of a network file system may be that
old."""
POLL_S = 0.2
NEEDED = ("model_repository", "model_configuration", "binary_tensor_data")
SHOWN = 5
"""Most models in one finding."""
FLAGS_ALONE = "--exit-on-error=false --strict-readiness=false"
CANT_BE_ASKED = (
    "Whether a Triton ends at its start when it can't load a model, and whether one such model makes it unready, can't be asked. While a "
    "deploy is under way the repository holds, on purpose, a folder of its candidate that no Triton can read; a Triton that is restarted "
    "then and has the default, --exit-on-error=true, ends instead of serving what was committed."
)
FLAGS = f"See that each Triton's command line has {FLAGS_ALONE}."

ONNX_LIMITS = {
    **dict.fromkeys(range(40, 44), ("1.16", 19, 9)),
    **dict.fromkeys(range(44, 46), ("1.17", 20, 9)),
    **dict.fromkeys(range(46, 49), ("1.18", 21, 10)),
    **dict.fromkeys(range(49, 53), ("1.19", 21, 10)),
    **dict.fromkeys(range(53, 56), ("1.20", 21, 10)),
    **dict.fromkeys(range(56, 58), ("1.21", 22, 10)),
    **dict.fromkeys(range(58, 60), ("1.22", 22, 10)),
}
"""For each minor version of Triton 2: the ONNX Runtime in NVIDIA's image (``build.py`` at Triton's tags),
and the highest opset of the default domain and IR version that it takes (ONNX Runtime's compatibility
table)."""


class Examined(Protocol):
    """A Triton, for the checks; each call raises a DeployError when Triton refuses or does not answer."""

    @property
    def url(self) -> str:
        """Address, for messages."""

    def about(self) -> ServerInfo:
        """Return the server's metadata."""

    def is_ready(self) -> bool:
        """Return whether the server reports itself ready."""

    def folders(self) -> frozenset[str]:
        """Return the name of every folder in its repository."""

    def index(self) -> Index:
        """Return the states of all models in its repository."""

    def unload(self, model: str, timeout_s: float) -> None:
        """Unload a model; a model that is not loaded is fine."""


class TritonCheck:
    """Checks that every Triton sees a probe in the repository, and allows the calls of a deploy.

    Args:
        settings: addresses of the Tritons, and the place of the repository.
        tritons: returns the servers; by default those of the settings.
    """

    name = "Triton"
    needs = ("TRITON_DEPLOY_REPOSITORY", "TRITON_DEPLOY_GRPC_URLS")
    deadline_s = 40.0

    def __init__(self, settings: Settings, tritons: Callable[[], Sequence[Examined]] | None = None) -> None:
        quick = replace(
            settings,
            triton=replace(settings.triton, switch_timeout_s=min(settings.triton.switch_timeout_s, CALL_S)),
        )
        self._settings = settings
        self._tritons = tritons or (lambda: tritons_of(quick))
        self._probe = Probe(settings.repository)
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        answering = []
        for triton in self._tritons():
            try:
                info = triton.about()
            except DeployError as error:
                yield self._report.failed(error.message, error.hint)
                continue
            answering.append(triton)
            yield from self._server(triton, info)
        if answering:
            yield self._report.ok(
                f"The deployer has ONNX Runtime {runtime_version()}, and reads the shapes of models with it: a Triton that has others of a "
                "model is asked for its own."
            )
            yield self._report.unknown(CANT_BE_ASKED, FLAGS)
        yield from self._shared(answering)

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up."""
        self._probe.remove()

    def _server(self, triton: Examined, info: ServerInfo) -> Iterator[Finding]:
        yield self._report.ok(f"Triton {info.version} answers at {triton.url}.")
        missing = [name for name in NEEDED if name not in info.extensions]
        if missing:
            yield self._report.failed(
                f"Triton at {triton.url} lacks the extensions {', '.join(missing)}.",
                "Use a Triton that has them: every NVIDIA image from 2.40 (23.11) on.",
            )
        yield from self._readiness(triton)
        yield controlled(triton, self._probe, self._report)
        yield self._limits(triton.url, info.version)

    def _readiness(self, triton: Examined) -> Iterator[Finding]:
        try:
            ready, index = triton.is_ready(), triton.index()
        except DeployError as error:
            yield self._report.unknown(f"Whether it is ready is not known: {error.message}", error.hint)
            return
        if ready or not index.ready:
            return
        lost = sorted(name for name, state in index.states.items() if state.is_lost)
        because = f" because of {first_of(lost, SHOWN)}" if lost else ""
        serves = first_of(sorted(index.ready), SHOWN)
        yield self._report.warning(
            f"Triton at {triton.url} serves {serves} and says that it is not ready{because}: it has strict readiness, the default. "
            "Whatever asks its /v2/health/ready takes it for dead after a candidate that could not be loaded.",
            f"Start it with {FLAGS_ALONE}, or ask for the model: /v2/models/NAME/ready.",
        )

    def _limits(self, url: str, version: str) -> Finding:
        major, _, rest = version.partition(".")
        minor = rest.partition(".")[0]
        known = ONNX_LIMITS.get(int(minor)) if major == "2" and minor.isdigit() else None
        opset, ir = self._settings.triton.max_opset, self._settings.triton.max_ir_version
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
        blind = blind_to(self._probe, tritons)
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


def controlled(triton: Examined, probe: Probe, report: Report) -> Finding:
    """Return the finding whether a Triton lets models be loaded and unloaded."""
    try:
        # The probe is no model: the call does nothing, and fails if Triton's model control forbids it.
        triton.unload(probe.name, CALL_S)
    except DeployError as error:
        return report.failed(error.message, error.hint)
    return report.ok(f"Triton at {triton.url} lets models be loaded and unloaded.")


def blind_to(probe: Probe, tritons: Sequence[Examined]) -> dict[str, str]:
    """Return the addresses of the Tritons that don't see a probe in time, each with its error or ''."""
    until = time.monotonic() + SEEN_WITHIN_S
    while True:
        blind: dict[str, str] = {}
        for triton in tritons:
            try:
                if probe.name not in triton.folders():
                    blind[triton.url] = ""
            except DeployError as error:
                blind[triton.url] = error.message
        if not blind or time.monotonic() > until:
            return blind
        time.sleep(POLL_S)
