"""The effect on clients of a deploy, a failed deploy and a revert: ours and the naive way.

Three clients send 100 requests a second each to the public name, by gRPC. Every action has a window of this
traffic. One window has no action: a slow request in it is due to the machine. The windows of a round follow
each other, so other load on the machine hits all of them.

Triton's Python-based backend starts a process for each version that it loads. This process imports ONNX
Runtime and shares the cores with the clients' requests. So one window has only such a process, without a
Triton.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.errors import ArtifactRejected, VerificationFailed
from ml_code.triton_deploy.rules.deployment import Deployment
from ml_code.triton_deploy.settings import Settings

from . import counting
from .plain_model import NAIVE, NotServed, PlainModel
from .series import Series
from .site import MODEL
from .small_site import SmallSite, deploy, revert, small_site
from .steady_clients import Answer, Asked, Clients

CLIENTS, REQUESTS_PER_S = 3, 100
BEFORE_S, AFTER_S = 0.2, 0.4
"""Length of a window before its action, and least length after the action, seconds."""

CONTROL = "nothing happens: slowest request"
STARTS = "a process imports ONNX Runtime: slowest request"
DEPLOY, NAIVE_DEPLOY = (
    "deploy, flip until all clients have it",
    "naive deploy, load until all clients have it",
)
WRONG, NAIVE_WRONG = "deploy of wrong answers, undone", "naive deploy of wrong answers, undone"
UNLOADABLE, NAIVE_UNLOADABLE = (
    "deploy of what can't be loaded, undone",
    "naive deploy of what can't be loaded, undone",
)
WARM, COLD, NAIVE_BACK = (
    "revert to a warm version, call until all clients have it",
    "revert to a version that has to be loaded",
    "naive revert: unload, load",
)
BASELINES = {
    CONTROL: "",
    STARTS: "",
    DEPLOY: "",
    NAIVE_DEPLOY: DEPLOY,
    WRONG: "",
    NAIVE_WRONG: WRONG,
    UNLOADABLE: "",
    NAIVE_UNLOADABLE: UNLOADABLE,
    WARM: "",
    COLD: WARM,
    NAIVE_BACK: WARM,
}
"""Every window of a round, and the window that its time is compared with."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """An action of a window.

    Attributes:
        version: the version that the action made live, or tried to.
        verified_s: time at which the version was verified, ``time.perf_counter``; infinite if it never was.
        since_s: start of the measured time.
        returned_s: end of the measured time, for a failed deploy the end of its rollback; None: the time
            ends when all clients get the version.
    """

    version: int
    verified_s: float
    since_s: float
    returned_s: float | None = None


@dataclass(frozen=True)
class Window:
    """The answers of the clients during an action, or without one."""

    asked: Asked
    action: Action | None

    @property
    def answers(self) -> Iterable[Answer]:
        """The answers of all clients."""
        return itertools.chain.from_iterable(self.asked)

    @property
    def value_ms(self) -> float:
        """Duration of the action; without an action, of the slowest request."""
        if self.action is None:
            return counting.slowest_ms(self.answers)
        if self.action.returned_s is not None:
            return 1000 * (self.action.returned_s - self.action.since_s)
        return counting.until_all_ms(self.asked, self.action.version, self.action.since_s)

    @property
    def counts(self) -> dict[str, int]:
        """Number of all requests, of failed and of slow ones, and of answers by an unverified version."""
        action = self.action
        return {
            "requests": sum(1 for _ in self.answers),
            "failed": counting.failed(self.answers),
            "over 100 ms": counting.slow(self.answers),
            "unverified": counting.unverified(self.answers, action.version, action.verified_s)
            if action
            else 0,
        }


def run(quick: bool) -> list[Series]:
    """Measure the duration of each action, milliseconds, and count the effects on its clients.

    Args:
        quick: one round only, of shorter windows.

    Returns:
        A series for each action, and for the slowest request in every window.
    """
    with small_site() as site:
        clients = Clients(site.stack.url("triton-grpc"), site.inputs, CLIENTS, REQUESTS_PER_S)
        naive = PlainModel(site)
        naive.deploy()
        rounds, window_s = (1, 1.0) if quick else (8, 1.5)
        with clients:
            return _series(_Rounds(site, naive, clients, window_s).measure(rounds))


def _series(windows: dict[str, list[Window]]) -> list[Series]:
    timed = [
        Series(
            name=name,
            unit="ms",
            values=tuple(window.value_ms for window in windows[name]),
            baseline=baseline,
            counts=_sum(window.counts for window in windows[name]),
        )
        for name, baseline in BASELINES.items()
    ]
    slowest = [
        Series(
            name=f"slowest request: {name}",
            unit="ms",
            values=tuple(counting.slowest_ms(window.answers) for window in windows[name]),
        )
        for name in BASELINES
        if name not in (CONTROL, STARTS)
    ]
    return timed + slowest


def _sum(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    """Return the sums of the counts of several windows."""
    total: dict[str, int] = {}
    for one in counts:
        for what, count in one.items():
            total[what] = total.get(what, 0) + count
    return total


class _Rounds:
    """Runs every action once in a round, each in a window of its own.

    Args:
        site: the site; version 2 is live.
        naive: the plain model; version 2 is live.
        clients: the clients.
        window_s: least length of a window, seconds.
    """

    def __init__(self, site: SmallSite, naive: PlainModel, clients: Clients, window_s: float) -> None:
        self._site = site
        self._naive = naive
        self._clients = clients
        self._window_s = window_s
        self._windows: dict[str, list[Window]] = {name: [] for name in BASELINES}

    def measure(self, rounds: int) -> dict[str, list[Window]]:
        """Return the windows by the name of their action."""
        for number in range(rounds):
            print(f"  swaps: round {number + 1} of {rounds}", flush=True)
            self._round()
        return self._windows

    def _round(self) -> None:
        """Swap a new version in, fail twice, and go back to version 2."""
        site = self._site
        self._window(CONTROL, MODEL, lambda: None)
        self._window(STARTS, MODEL, self._start_process)
        swapped_in = site.publish()
        self._window(DEPLOY, MODEL, self._deploy)
        self._window(NAIVE_DEPLOY, NAIVE, lambda: self._deploy_naive(swapped_in))
        wrong = site.publish_wrong()
        self._window(WRONG, MODEL, lambda: self._fail(wrong))
        self._window(NAIVE_WRONG, NAIVE, lambda: self._fail_naive(wrong))
        unloadable = site.publish_unloadable()
        self._window(UNLOADABLE, MODEL, lambda: self._fail(unloadable))
        self._window(NAIVE_UNLOADABLE, NAIVE, lambda: self._fail_naive(unloadable))
        self._window(WARM, MODEL, lambda: self._revert(2))
        # Without a warm version the next revert has to load.
        revert(site.deployer(retention__keep_warm=0), swapped_in)
        self._window(COLD, MODEL, lambda: self._revert(2))
        self._window(NAIVE_BACK, NAIVE, lambda: self._revert_naive(swapped_in, 2))

    def _window(self, name: str, model: str, act: Callable[[], Action | None]) -> None:
        """Run an action while the clients send requests to a model."""
        with self._clients.asking(model) as asked:
            began_s = time.perf_counter()
            time.sleep(BEFORE_S)
            action = act()
            time.sleep(max(AFTER_S, began_s + self._window_s - time.perf_counter()))
        self._windows[name].append(Window(asked, action))

    def _start_process(self) -> None:
        opens = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
        model = self._site.folder.versions.path(2) / "model.onnx"
        subprocess.run([sys.executable, "-c", opens, str(model)], check=True)

    def _deploy(self) -> Action:
        watched = _Watched(self._site.settings)
        done = deploy(watched)
        return Action(version=done.version, verified_s=watched.verified_s, since_s=watched.triton.flipped_s)

    def _fail(self, version: int) -> Action:
        called_s = time.perf_counter()
        try:
            deploy(self._site.deployer())
        except (ArtifactRejected, VerificationFailed):
            return _undone(version, called_s)
        raise AssertionError(f"version {version} was to be refused")

    def _revert(self, version: int) -> Action:
        watched = _Watched(self._site.settings)
        called_s = time.perf_counter()
        revert(watched, version)
        return Action(version=version, verified_s=watched.verified_s, since_s=called_s)

    def _deploy_naive(self, version: int) -> Action:
        self._naive.deploy()
        return Action(version=version, verified_s=self._naive.verified_s, since_s=self._naive.loaded_s)

    def _fail_naive(self, version: int) -> Action:
        called_s = time.perf_counter()
        try:
            self._naive.deploy()
        except NotServed:
            return _undone(version, called_s)
        raise AssertionError(f"version {version} was to be refused")

    def _revert_naive(self, bad: int, version: int) -> Action:
        called_s = time.perf_counter()
        self._naive.take_back(bad)
        # The version was verified in its deploy.
        return Action(version=version, verified_s=-math.inf, since_s=called_s)


def _undone(version: int, called_s: float) -> Action:
    return Action(version=version, verified_s=math.inf, since_s=called_s, returned_s=time.perf_counter())


class _Watched(Deployer):
    """A deployer that records when the candidate was verified, and when the switch was flipped.

    Attributes:
        verified_s: time at which the smoke test had passed, ``time.perf_counter``.
        triton: the Triton of the deploys.
    """

    def __init__(self, settings: Settings) -> None:
        self.triton = _WatchedTriton(settings.triton.grpc_urls[0], settings.triton.switch_timeout_s)
        super().__init__(settings, tritons=[self.triton])
        self.verified_s = math.inf

    def smoke(self, model: str, deploy_id: str) -> Deployment:
        """See Deployer.smoke."""
        record = super().smoke(model, deploy_id)
        self.verified_s = time.perf_counter()
        return record


class _WatchedTriton(GrpcTriton):
    """A Triton client that records the time of the call that flips the switch: ``flipped_s``."""

    flipped_s = math.inf

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        """See Triton.load."""
        if model == MODEL:
            self.flipped_s = time.perf_counter()
        super().load(model, timeout_s, config)
