"""Going back to the version before: ours when it is warm, ours when it has to be loaded, and the naive way.

The naive way is that of many guides: the newer version's directory is taken out of a plain model, which is unloaded and loaded
again over HTTP. All three are measured in turn, each under its own client that asks 300 times a second.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import requests

from bench.asking import Client
from bench.series import Series
from bench.site import MODEL, Site, site
from ml_code.triton_deploy.deployer import Deployer
from ml_code.triton_deploy.intake import RevertRequest

NAIVE = "naive_model"
REQUESTS_PER_S = 300
WARM, COLD, OLD_WAY = "revert, version is warm", "revert, version has to be loaded", "naive: unload, load"

Timed = tuple[int, float, float]
"""Version that was asked for, when it was asked for, when the call returned (``time.perf_counter``)."""


def run(quick: bool) -> list[Series]:
    """Measure, in milliseconds, the time from the call until a client gets the version.

    Args:
        quick: a few rounds only.

    Returns:
        A series for each way, with the requests that failed meanwhile.
    """
    with site() as ready:
        return _measure(ready, quick)


def _measure(site: Site, quick: bool) -> list[Series]:
    rounds = 3 if quick else 20
    naive = _Naive(site)
    url = site.stack.url("triton-grpc")
    timed: dict[str, list[Timed]] = {WARM: [], COLD: [], OLD_WAY: []}
    with (
        Client(url, MODEL, site.inputs, REQUESTS_PER_S) as ours,
        Client(url, NAIVE, site.inputs, REQUESTS_PER_S) as theirs,
    ):
        for number in range(rounds):
            print(f"  revert: round {number + 1} of {rounds}", flush=True)
            for version in (1, 2, 1, 2):
                timed[WARM].append(_revert(site.deployer(), version))
            # What is not kept warm has to be loaded the next time.
            _revert(site.deployer(keep_warm=0), 1)
            timed[COLD].append(_revert(site.deployer(), 2))
            timed[OLD_WAY].append(naive.back_to_1())
            naive.forward_to_2()
    return [
        _series(WARM, timed[WARM], ours, baseline=""),
        _series(COLD, timed[COLD], ours, baseline=WARM),
        _series(OLD_WAY, timed[OLD_WAY], theirs, baseline=WARM),
    ]


def _series(name: str, timed: list[Timed], client: Client, baseline: str) -> Series:
    times = [(version, called_s, returned_s) for version, called_s, returned_s in timed]
    return Series(
        name=name,
        unit="ms",
        values=tuple(1000 * client.until_answered_by(version, called_s) for version, called_s, _ in times),
        baseline=baseline,
        counts={"failed requests": sum(client.failed(called_s, end_s) for _, called_s, end_s in times)},
    )


def _timed(version: int, action: Callable[[], object]) -> Timed:
    called_s = time.perf_counter()
    action()
    return version, called_s, time.perf_counter()


def _revert(deployer: Deployer, version: int) -> Timed:
    request = RevertRequest(model=MODEL, deploy_id=f"bench-{uuid4().hex}", version=version, actor="bench")
    return _timed(version, lambda: deployer.revert(request))


class _Naive:
    """A plain Triton model with versions 1 and 2, of which the highest serves."""

    def __init__(self, site: Site) -> None:
        self._url = f"{site.stack.url('triton')}/v2/repository/models/{NAIVE}"
        self._folder = site.settings.repository_root / NAIVE
        self._aside = site.stack.model_repository.parent / "aside"
        engine = site.folder.versions.path(1).parent.with_name(f"{MODEL}.v1")
        config = (engine / "config.pbtxt").read_text(encoding="utf-8")
        self._folder.mkdir()
        lines = [line for line in _without_policy(config) if not line.startswith("name:")]
        (self._folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for version in (1, 2):
            target = self._folder / str(version)
            target.mkdir()
            shutil.copyfile(site.folder.versions.path(version) / "model.onnx", target / "model.onnx")
        self._post("load")

    def back_to_1(self) -> Timed:
        """Go back from version 2 to 1."""

        def back() -> None:
            (self._folder / "2").rename(self._aside)
            self._post("unload")
            self._post("load")

        return _timed(1, back)

    def forward_to_2(self) -> None:
        """Undo ``back_to_1``."""
        self._aside.rename(self._folder / "2")
        self._post("load")

    def _post(self, action: str) -> None:
        requests.post(f"{self._url}/{action}", timeout=120).raise_for_status()


def _without_policy(config: str) -> Iterator[str]:
    """Yield the lines of a configuration without its version policy: Triton's default is the latest version."""
    depth = 0
    for line in config.splitlines():
        if line.startswith("version_policy"):
            depth = 1
        elif depth:
            depth += line.count("{") - line.count("}")
        else:
            yield line
