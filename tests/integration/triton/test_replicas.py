"""Two Tritons on one repository, killed in every step of a deploy and started again by their supervisor, then reconciled."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.errors import DeployError, EndedTriton
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from stack import Stack
from tests.support.faults.figures import record, say
from tests.support.servers.traffic import Site
from tests.support.servers.tritons import TritonServer
from tests.support.servers.watched_deployer import watched_deployer

pytestmark = pytest.mark.integration

MOMENTS = {
    "snapshot": "snapshot",
    "materialize": "materialize",
    "load": "load",
    "load, while it loads": "load: load engine",
    "ready": "ready",
    "smoke": "smoke",
    "commit, before the flip": "commit",
    "commit, between the flips": "commit: load public done",
    "commit, after the decision": "commit: unload engine",
}
"""When a Triton is killed: see watched.Happens."""
IN_MAKE_TEST = ("load, while it loads", "smoke", "commit, between the flips", "commit, after the decision")
WHILE_IT_LOADS_S = 0.1
"""How far into a load; a model takes Triton longer than that, and if it did not, it would be killed right after."""
WHO = {"one": (1,), "both": (0, 1)}
LATER_S = 10_000.0
"""Beyond every lease."""


@dataclass(frozen=True)
class Outcome:
    """What became of a deploy during which Tritons were killed.

    Attributes:
        state: of the deployment after reconcile.
        restart_s: seconds from the kill until both were ready again.
        consistent_s: seconds from then until both served what current.json says.
    """

    state: State
    restart_s: float
    consistent_s: float


class Replicas:
    """A model with a release on two Tritons."""

    def __init__(self, stack: Stack, servers: Sequence[TritonServer], repository: Path, model: str) -> None:
        self.site = Site(stack, model, repository, *servers)
        self.servers = servers
        self.killed_at = 0.0

    def kill(self, who: Sequence[int]) -> None:
        self.killed_at = time.monotonic()
        for number in who:
            self.servers[number].stack.kill("triton")

    def deployer(self, moment: str, who: Sequence[int]) -> Deployer:
        """Return a deployer during whose work Tritons are killed, at a moment."""
        left = [MOMENTS[moment]]

        def happens(now: str) -> None:
            # Each Triton's calls are made in a thread of its own: the first one counts.
            with contextlib.suppress(ValueError):
                left.remove(now)
                delay_s = WHILE_IT_LOADS_S if moment == "load, while it loads" else 0.0
                killing = threading.Timer(delay_s, self.kill, (who,))
                killing.start()
                if not delay_s:
                    killing.join()

        return watched_deployer(self.site.settings, self.site.model, happens)

    def survive(self, moment: str, who: Sequence[int]) -> Outcome:
        """Deploy the next version while Tritons are killed; reconcile when they are back; check that all is well."""
        site = self.site
        before = site.folder.releases.latest()
        assert before is not None
        version = site.publish()
        deploy_id = f"d-{time.monotonic_ns()}"
        self.killed_at = 0.0
        request = DeployRequest(model=site.model, alias="A", deploy_id=deploy_id)
        try:
            done: Deployment | DeployError = self.deployer(moment, who).deploy(request)
        except DeployError as error:
            done = error
        if isinstance(done, DeployError):
            assert any(server.grpc_url in done.message for server in self.servers), "it names the Triton"
            # One that ends while it has the candidate may have been ended by it.
            assert isinstance(done, EndedTriton) or not done.blames_artifact
        else:
            assert done.state is State.COMMITTED
        assert self.killed_at, f"the deploy did not come to {moment}"
        for server in self.servers:
            server.stack.wait_ready("triton")
        ready_at = time.monotonic()
        self.reconcile()
        consistent_at = time.monotonic()
        self.whole(before.active_version, version)
        record = site.folder.journal.get(deploy_id)
        assert record.state in (State.COMMITTED, State.ROLLED_BACK)
        return Outcome(record.state, ready_at - self.killed_at, consistent_at - ready_at)

    def reconcile(self) -> None:
        """As the scheduled one does, when the lease of whoever died has ended; returns when both serve what is live."""
        later = datetime.now(UTC) + timedelta(seconds=LATER_S)
        reconciler = Reconciler(self.site.settings, clock=lambda: later)
        deadline = time.monotonic() + 20
        # In this process gRPC waits for up to a second before it tries to reach a server again.
        while problems := reconciler.run(self.site.model).problems:
            assert time.monotonic() < deadline, problems
            time.sleep(0.05)
        assert self.site.serves() == [self.site.current["active_version"]] * len(self.servers)

    def whole(self, old: int, new: int) -> None:
        """Old or new on both, warm versions loaded, nothing left to do, and the next deploy works."""
        site = self.site
        live = site.folder.releases.latest()
        assert live is not None
        assert live == site.folder.releases.projected()
        assert live.active_version in (old, new)
        for number in range(len(self.servers)):
            assert site.loaded(number) == sorted(live.loaded_versions)
        again = Reconciler(site.settings).run(site.model)
        assert (again.done, again.problems) == ((), ())
        assert [release.generation for release in site.folder.releases.history()] == list(
            range(live.generation, 0, -1)
        )
        site.publish()
        deployed = Deployer(site.settings).deploy(
            DeployRequest(model=site.model, alias="A", deploy_id=f"next-{time.monotonic_ns()}")
        )
        assert deployed.state is State.COMMITTED
        assert site.serves() == [deployed.version] * len(self.servers)


@pytest.fixture(scope="module")
def replicas(mlflow_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    repository = tmp_path_factory.mktemp("replicas") / "model-repo"
    stacks = [
        Stack(
            tmp_path_factory.mktemp("triton"),
            ["triton"],
            model_repository=repository,
            triton_args=("--disable-auto-complete-config",),
        )
        for _ in WHO["both"]
    ]
    try:
        for stack in stacks:
            stack.start()
        replicas = Replicas(mlflow_stack, [TritonServer(stack) for stack in stacks], repository, "replicated")
        # Two, so that the next commit has something to retire.
        replicas.site.deploy_next()
        replicas.site.deploy_next()
        yield replicas
    finally:
        for stack in stacks:
            stack.stop()


EXPECTED = {
    "commit, after the decision": State.COMMITTED,
    "commit, between the flips": State.ROLLED_BACK,
    "commit, before the flip": State.ROLLED_BACK,
    "smoke": State.ROLLED_BACK,
}
"""Where it can't depend on how fast a Triton comes back."""


@pytest.mark.parametrize("moment", IN_MAKE_TEST)
def test_a_killed_triton_serves_what_is_live_again(replicas: Replicas, moment: str) -> None:
    outcome = replicas.survive(moment, WHO["one"])
    assert outcome.state is EXPECTED.get(moment, outcome.state)
    say_outcome(say, f"one killed at {moment}", [outcome])


@pytest.mark.parametrize("moment", ["commit, between the flips", "commit, after the decision"])
def test_both_killed_at_once_serve_what_is_live_again(replicas: Replicas, moment: str) -> None:
    outcome = replicas.survive(moment, WHO["both"])
    assert outcome.state is EXPECTED.get(moment, outcome.state)
    say_outcome(say, f"both killed at {moment}", [outcome])


def say_outcome(
    tell: Callable[[str, str, dict[str, Any]], None], name: str, outcomes: Sequence[Outcome]
) -> None:
    tell(
        "replicas",
        name,
        {
            "times": len(outcomes),
            "committed": sum(outcome.state is State.COMMITTED for outcome in outcomes),
            "rolled_back": sum(outcome.state is State.ROLLED_BACK for outcome in outcomes),
            "restart_s_median": round(median(outcome.restart_s for outcome in outcomes), 2),
            "consistent_s_median": round(median(outcome.consistent_s for outcome in outcomes), 3),
            "consistent_s_max": round(max(outcome.consistent_s for outcome in outcomes), 3),
        },
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("who", WHO)
def test_figures_of_killed_tritons(replicas: Replicas, who: str) -> None:
    for moment in MOMENTS:
        outcomes = [replicas.survive(moment, WHO[who]) for _ in range(3)]
        say_outcome(record, f"{who} killed at {moment}", outcomes)


def test_by_a_quorum_a_triton_that_is_away_is_passed_over_and_comes_back_with_what_is_live(
    replicas: Replicas,
) -> None:
    site, away = replicas.site, replicas.servers[1]
    away.stop()
    try:
        version = site.publish()
        refused = site.deploy()
        assert refused.returncode == 5, "by default both have to take part"
        assert away.grpc_url in refused.stderr
        deployed = site.deploy(TRITON_DEPLOY_QUORUM="1")
        assert deployed.returncode == 0, deployed.stderr
        assert list(json.loads(deployed.stdout)["away"]) == [away.grpc_url]
    finally:
        away.restart()
    assert site.serves() == [version, version]
    replicas.reconcile()
    assert site.loaded(0) == site.loaded(1)
