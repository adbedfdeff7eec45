"""Several Tritons on one repository: who has to take part, who is passed over, and what becomes of it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from ml_code.triton_deploy.clients.triton import tritons_of
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import (
    ArtifactRejected,
    DeployError,
    NotFound,
    TritonsDiffer,
    Unavailable,
    VerificationFailed,
)
from ml_code.triton_deploy.fleet.replicas import Replicas
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from tests.support.fakes import FakeTriton, ones
from tests.support.models import files, times
from tests.support.settings import changed
from tests.support.world import MODEL, World


class Fleet:
    """Three Tritons; version 1 is live on all of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tritons = [FakeTriton(world.root, f"fake:{number}") for number in (1, 2, 3)]
        world.register_times(1)
        self.deploy("d1", triton__quorum="all")

    def deployer(self, **changes: Any) -> Deployer:
        return self.world.deployer(tritons=self.tritons, **changes)

    def deploy(self, deploy_id: str, **changes: Any) -> Deployment:
        return self.deployer(**changes).deploy(self.world.request(deploy_id))

    def reconcile(self) -> Reconciled:
        world = self.world
        return Reconciler(world.settings, tritons=self.tritons, clock=lambda: world.now).run(MODEL)

    def served(self) -> list[int]:
        return [self.ask(triton) for triton in self.tritons]

    @staticmethod
    def ask(triton: FakeTriton) -> int:
        """What a client of one Triton gets, also when the deployer can't reach that Triton."""
        fail, triton.fail = triton.fail, {}
        try:
            answer = triton.infer(MODEL, ones(), 1.0)
        finally:
            triton.fail = fail
        assert answer.version == answer.outputs["y"][0, 0]
        return answer.version


@pytest.fixture
def fleet(world: World) -> Fleet:
    return Fleet(world)


def cut_off(triton: FakeTriton) -> None:
    """The deployer can't reach it; its clients can."""
    error = Unavailable(f"Triton at {triton.url} can't be reached.", hint="Check that it runs.")
    triton.fail = dict.fromkeys(("load", "unload", "loaded", "ready_versions", "infer"), error)


@pytest.mark.parametrize(
    ("quorum", "known", "required"),
    [("all", 3, 3), ("all", 1, 1), ("majority", 3, 2), ("majority", 4, 3), ("majority", 1, 1), ("2", 5, 2)],
)
def test_how_many_have_to_take_part(fleet: Fleet, quorum: str, known: int, required: int) -> None:
    assert Replicas((fleet.tritons * 2)[:known], quorum).required == required


def test_no_triton_at_all_is_not_enough() -> None:
    for quorum in ("all", "majority", "1"):
        with pytest.raises(Unavailable, match="1 Tritons have to take part, and 0 are known"):
            Replicas([], quorum).on_all(lambda triton: triton.url)


def test_fewer_known_than_required_is_not_enough(fleet: Fleet) -> None:
    with pytest.raises(Unavailable, match="4 Tritons have to take part, and 3 are known"):
        Replicas(fleet.tritons, "4").on_all(lambda triton: triton.url)


def test_by_default_one_that_is_away_stops_a_deploy(fleet: Fleet) -> None:
    cut_off(fleet.tritons[1])
    fleet.world.register_times(2)
    with pytest.raises(Unavailable, match="fake:2"):
        fleet.deploy("d2")
    assert fleet.served() == [1, 1, 1]
    assert fleet.world.folder.journal.get("d2").state is State.ROLLED_BACK


def test_a_quorum_deploys_and_the_one_that_was_away_is_brought_along(fleet: Fleet) -> None:
    cut_off(fleet.tritons[1])
    fleet.world.register_times(2)
    record = fleet.deploy("d2", triton__quorum="majority")
    assert record.state is State.COMMITTED
    assert list(record.away) == ["fake:2"]
    assert "can't be reached" in record.away["fake:2"]
    assert list(record.smoke["tritons"]) == ["fake:1", "fake:3"]
    assert fleet.served() == [2, 1, 2]
    assert fleet.reconcile().problems == ("Triton at fake:2 can't be reached. Check that it runs.",)
    fleet.tritons[1].fail = {}
    assert fleet.reconcile().problems == ()
    assert fleet.served() == [2, 2, 2]
    assert fleet.reconcile().done == ()


def test_too_few_for_the_quorum_are_all_named(fleet: Fleet) -> None:
    for triton in fleet.tritons[1:]:
        cut_off(triton)
    fleet.world.register_times(2)
    with pytest.raises(Unavailable, match=r"fake:2 can't be reached\. Triton at fake:3 can't be reached"):
        fleet.deploy("d2", triton__quorum="2")
    assert fleet.served() == [1, 1, 1]


@pytest.mark.parametrize("which", [0, 2])
def test_a_version_that_one_triton_answers_wrongly_is_refused_whatever_the_quorum(
    fleet: Fleet, which: int
) -> None:
    wrong = VerificationFailed("The candidate answers 3.", hint="Repair it.")
    fleet.tritons[which].fail = {"infer best_model.v2": wrong}
    fleet.world.register_times(2)
    with pytest.raises(TritonsDiffer, match=r"answers 3\. Triton at fake:. took the same candidate"):
        fleet.deploy("d2", triton__quorum="1")
    assert fleet.served() == [1, 1, 1]
    record = fleet.world.folder.journal.get("d2")
    assert record.failure is not None
    assert not record.failure.blames_artifact, "a Triton is at fault"


def test_a_version_that_two_tritons_answer_wrongly_is_at_fault(fleet: Fleet) -> None:
    for triton in fleet.tritons[:2]:
        triton.fail = {
            "infer best_model.v2": VerificationFailed("The candidate answers 3.", hint="Repair it.")
        }
    fleet.world.register_times(2)
    with pytest.raises(VerificationFailed, match="answers 3"):
        fleet.deploy("d2")
    assert "infer best_model.v2" not in fleet.tritons[2].calls, "two are enough to tell"


@pytest.mark.parametrize("fails", ["load best_model", "infer best_model"])
def test_a_flip_that_fails_on_one_is_undone_on_the_others(fleet: Fleet, fails: str) -> None:
    fleet.world.register_times(2)
    second = fleet.tritons[1]
    refuse: Callable[..., Any] = second._called

    def once(operation: str, model: str) -> None:
        refuse(operation, model)
        if f"{operation} {model}" == fails:
            second._called = refuse  # type: ignore[method-assign]
            raise Unavailable("Triton at fake:2 did not answer.", hint="Wait.")

    second._called = once  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="fake:2"):
        fleet.deploy("d2")
    assert fleet.served() == [1, 1, 1]


def test_a_flip_that_arrives_after_it_was_given_up_takes_nobody_down(fleet: Fleet) -> None:
    """A network may hold a request for minutes. What it points at is still loaded then, and reconcile undoes it."""
    fleet.world.register_times(2)
    late = fleet.tritons[0]
    real, held = late.load, list[tuple[str, float, str | None]]()

    def hold(model: str, timeout_s: float, config: str | None = None) -> None:
        if model != MODEL or held:
            return real(model, timeout_s, config)
        held.append((model, timeout_s, config))
        raise Unavailable("Triton at fake:1 did not answer in time.", hint="Wait.")

    late.load = hold  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="fake:1"):
        fleet.deploy("d2")
    assert fleet.served() == [1, 1, 1]
    real(*held[0])
    assert fleet.served() == [2, 1, 1], "it was verified on every Triton"
    fleet.reconcile()
    assert fleet.served() == [1, 1, 1]
    assert [triton.ready_versions("best_model.v2") for triton in fleet.tritons] == [(), (), ()]
    assert fleet.world.folder.engines.versions() == [1]
    assert fleet.reconcile().done == ()


def test_a_switch_that_can_not_be_loaded_is_not_held_against_the_model(fleet: Fleet) -> None:
    fleet.world.register_times(2)
    error = ArtifactRejected("Triton at fake:2 failed loading best_model: no best_model.v2.", hint="Repair.")
    fleet.tritons[1].fail = {"load best_model": error}
    with pytest.raises(Unavailable, match="no best_model"):
        fleet.deploy("d2")
    fleet.tritons[1].fail = {}
    fleet.reconcile()
    assert fleet.served() == [1, 1, 1]
    assert fleet.deploy("d3").state is State.COMMITTED, "the same files are not refused"


def test_one_that_is_lost_at_the_flip_is_passed_over_by_a_quorum(fleet: Fleet) -> None:
    fleet.world.register_times(2)
    fleet.tritons[0].fail = {"load best_model": Unavailable("Triton at fake:1 is silent.", hint="Wait.")}
    record = fleet.deploy("d2", triton__quorum="2")
    assert record.away == {"fake:1": "Triton at fake:1 is silent."}
    assert fleet.served() == [1, 2, 2]


def test_one_that_was_restarted_before_the_flip_is_not_flipped(fleet: Fleet) -> None:
    """A switch to a version that is not loaded takes the public name down, at least until it is."""
    fleet.world.register_times(2)
    deployer = fleet.deployer(triton__quorum="2")
    deployer.snapshot(fleet.world.request("d2"))
    for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
        step(MODEL, "d2")
    restarted = fleet.tritons[1]
    restarted.restart(MODEL)
    restarted.calls.clear()
    record = deployer.commit(MODEL, "d2")
    assert list(record.away) == ["fake:2"]
    assert "load best_model" not in restarted.calls
    assert fleet.served() == [2, 1, 2]


def test_a_version_that_a_triton_still_serves_is_not_taken_from_it(fleet: Fleet) -> None:
    fleet.world.register_times(2)
    lagging = fleet.tritons[1]
    lagging.calls.clear()
    lagging.fail = {"load": Unavailable("Triton at fake:2 is silent.", hint="Wait.")}
    fleet.deploy("d2", triton__quorum="2", retention__keep_warm=0)
    assert fleet.served() == [2, 1, 2]
    assert "unload best_model.v1" not in lagging.calls
    assert "unload best_model.v1" in fleet.tritons[0].calls
    lagging.fail = {}
    fleet.reconcile()
    assert fleet.served() == [2, 2, 2]
    assert [triton.ready_versions("best_model.v1") for triton in fleet.tritons] == [(), (), ()]


def test_a_rollback_by_quorum_does_not_wait_for_one_that_is_gone(fleet: Fleet) -> None:
    """It may be gone for good: the others are put back, and reconcile looks after it if it returns."""
    fleet.world.register_times(2)
    deployer = fleet.deployer(triton__quorum="2")
    deployer.snapshot(fleet.world.request("d2"))
    for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
        step(MODEL, "d2")
    gone = fleet.tritons[2]
    fleet.tritons[1].fail = {"infer best_model": VerificationFailed("Wrong.", hint="Repair it.")}
    real = gone.load

    def flipped_and_gone(model: str, timeout_s: float, config: str | None = None) -> None:
        real(model, timeout_s, config)
        cut_off(gone)

    gone.load = flipped_and_gone  # type: ignore[method-assign]
    with pytest.raises(TritonsDiffer):
        deployer.commit(MODEL, "d2")
    gone.load = real  # type: ignore[method-assign]
    rolled_back = deployer.rollback(MODEL, "d2")
    assert rolled_back is not None
    assert rolled_back.state is State.ROLLED_BACK
    assert [Fleet.ask(triton) for triton in fleet.tritons[:2]] == [1, 1]
    gone.fail = {}
    fleet.tritons[1].fail = {}
    fleet.reconcile()
    assert fleet.served() == [1, 1, 1]


def test_a_revert_says_whom_it_passed_over(fleet: Fleet) -> None:
    fleet.world.register_times(2)
    fleet.deploy("d2")
    cut_off(fleet.tritons[0])
    record = fleet.deployer(triton__quorum="2").revert(RevertRequest(model=MODEL, deploy_id="r1"))
    assert list(record.away) == ["fake:1"]
    assert fleet.served() == [2, 1, 1]


def test_what_came_of_it_is_told_in_the_order_of_the_tritons_whoever_was_first(fleet: Fleet) -> None:
    def last_comes_first(triton: Any) -> None:
        time.sleep(0.1 * (3 - int(triton.url[-1])))
        if triton.url != "fake:1":
            raise Unavailable(f"{triton.url} is silent.", hint="Wait.")

    assert list(Replicas(fleet.tritons, "1").on_all(last_comes_first).away) == ["fake:2", "fake:3"]
    with pytest.raises(Unavailable, match=r"fake:2 is silent\. fake:3 is silent\."):
        Replicas(fleet.tritons, "2").on_all(last_comes_first)


def test_an_error_that_is_not_of_ours_is_not_swallowed(fleet: Fleet) -> None:
    def defect(triton: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Replicas(fleet.tritons, "1").on_all(defect)


def test_what_is_live_already_is_asked_of_the_quorum_alone(fleet: Fleet) -> None:
    cut_off(fleet.tritons[0])
    assert fleet.deploy("again", triton__quorum="2").state is State.UNCHANGED
    with pytest.raises(DeployError):
        fleet.deploy("again-all")


# endpoints by name


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[socket.AddressFamily, str]) -> None:
    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        assert (host, port) == ("triton.models.svc", 8001)
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def urls(*endpoints: str) -> list[str]:
    return [triton.url for triton in tritons_of(changed(Settings(), triton__grpc_urls=endpoints))]


def test_every_address_of_a_name_is_a_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    v4, v6 = socket.AF_INET, socket.AF_INET6
    resolving(
        monkeypatch, (v4, "10.0.0.2"), (v6, "fd00::2"), (v4, "10.0.0.1"), (v4, "10.0.0.1"), (v6, "fd00::1")
    )
    assert urls("dns:///triton.models.svc:8001") == ["10.0.0.1:8001", "10.0.0.2:8001"]
    assert urls("10.0.0.2:8001", "dns:///triton.models.svc:8001") == ["10.0.0.2:8001", "10.0.0.1:8001"]


def test_addresses_of_version_6_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, (socket.AF_INET6, "fd00::2"), (socket.AF_INET6, "fd00::1"))
    assert urls("dns:///triton.models.svc:8001") == ["[fd00::1]:8001", "[fd00::2]:8001"]


def test_a_name_is_really_looked_up() -> None:
    assert urls("dns:///localhost:8001") == ["127.0.0.1:8001"]


def test_a_name_without_an_address_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*arguments: Any, **options: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(Unavailable, match=r"name triton in TRITON_DEPLOY_GRPC_URLS has no address: Name or"):
        urls("dns:///triton:8001")


def test_a_version_that_breaks_clients_is_refused_before_any_triton_is_asked(fleet: Fleet) -> None:
    fleet.world.register(2, files(times(2.0, target="z")))
    asked = [len(triton.calls) for triton in fleet.tritons]
    with pytest.raises(DeployError, match="would break"):
        fleet.deploy("d2", triton__quorum="1")
    assert [len(triton.calls) for triton in fleet.tritons] == asked


# Flips that nobody answered


HOW = ("answers", "silent", "refuses", "answers wrongly", "answers late")


def behave(triton: FakeTriton, how: str, late: list[Callable[[], None]]) -> None:
    """Make one Triton treat the flip to version 2 in some way; what will arrive late is put into ``late``."""
    real = triton.load

    def load(model: str, timeout_s: float, config: str | None = None) -> None:
        if model != MODEL or "best_model.v2" not in (config or "") or how.startswith("answers w"):
            return real(model, timeout_s, config)
        if how == "answers late":
            late.append(lambda: real(model, timeout_s, config))
        raise (NotFound if how == "refuses" else Unavailable)(f"{triton.url} {how}", hint="x")

    if how != "answers":
        triton.load = load  # type: ignore[method-assign]


@pytest.mark.parametrize("quorum", ["all", "majority", "1"])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(HOW, HOW)))
def test_the_public_name_is_answered_whatever_two_of_three_do_at_the_flip(
    fleet: Fleet, quorum: str, first: str, second: str
) -> None:
    """A flip that was given up arrives when the deployment has ended: what it points at is still there."""
    late: list[Callable[[], None]] = []
    fleet.world.register_times(2)
    deployer = fleet.deployer(triton__quorum=quorum)
    deployer.snapshot(fleet.world.request("d2"))
    for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
        step(MODEL, "d2")
    loads = [triton.load for triton in fleet.tritons]
    for triton, how in zip(fleet.tritons, (first, second, "answers"), strict=True):
        behave(triton, how, late)
    if "answers wrongly" in (first, second):
        wrong = VerificationFailed("The candidate answers wrongly.", hint="x")
        fleet.tritons[(first, second).index("answers wrongly")].fail = {"infer best_model": wrong}
    with contextlib.suppress(DeployError):
        deployer.commit(MODEL, "d2")
    for triton in fleet.tritons:
        triton.fail = {}
    with contextlib.suppress(DeployError):
        deployer.rollback(MODEL, "d2")
    assert set(fleet.served()) <= {1, 2}
    for arrive in late:
        arrive()
        # Every Triton answers, and with a version that was verified.
        assert set(fleet.served()) <= {1, 2}
    for triton, load in zip(fleet.tritons, loads, strict=True):
        triton.load = load  # type: ignore[method-assign]
    assert fleet.reconcile().problems == ()
    live = fleet.world.folder.releases.latest()
    assert live is not None
    assert fleet.served() == [live.active_version] * 3


def test_which_triton_was_first_does_not_decide_whether_to_try_again(fleet: Fleet) -> None:
    away = {"fake:1": NotFound("gone", hint="x"), "fake:2": Unavailable("silent", hint="y")}

    def ask(triton: FakeTriton) -> None:
        raise away.get(triton.url, Unavailable("silent", hint="y"))

    for tritons in (fleet.tritons, fleet.tritons[::-1]):
        with pytest.raises(Unavailable):
            Replicas(tritons, "all").on_all(ask)  # type: ignore[arg-type]
