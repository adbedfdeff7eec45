"""The staging Triton: a candidate is tried where nobody is served, and what becomes of a deploy when it can't be."""

from __future__ import annotations

from typing import Any

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import (
    ArtifactRejected,
    DeployError,
    EndedTriton,
    LeaseHeld,
    Misconfigured,
    NoRoom,
    Unavailable,
    VerificationFailed,
)
from ml_code.triton_deploy.repository.lease import STAGING, Lease
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.settings import Settings
from tests.support.fakes import FakeTriton, unavailable
from tests.support.models import files
from tests.support.settings import changed
from tests.support.signing import declared
from tests.support.world import MODEL, World

CANDIDATE = "best_model.v2"
URL = "staging:8001"


class Staged:
    """A world with a staging Triton; version 1 is live, version 2 registered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.staging = FakeTriton(world.root, URL)
        world.register_times(1)
        self.deploy("d1")
        world.register_times(2)
        self.staging.calls.clear()
        world.triton.calls.clear()

    def deployer(self, **changes: Any) -> Deployer:
        world = self.world
        return Deployer(
            changed(world.settings, triton__staging_grpc_url=URL, triton__staging_wait_s=0, **changes),
            registry=world.registry,
            stores=lambda uri: world.store,
            tritons=[world.triton],
            staging=self.staging,
            clock=lambda: world.now,
            sign=declared,
        )

    def deploy(self, deploy_id: str, *, force: bool = False, **changes: Any) -> Deployment:
        return self.deployer(**changes).deploy(self.world.request(deploy_id, force=force))

    def record(self, deploy_id: str) -> Deployment:
        return self.world.folder.journal.get(deploy_id)

    def untouched(self) -> None:
        """What serves never met the candidate, and serves."""
        assert not [
            call for call in self.world.triton.calls if call.startswith(("load", f"infer {CANDIDATE}"))
        ]
        assert self.world.ask() == (1, 1.0)


@pytest.fixture
def staged(world: World) -> Staged:
    return Staged(world)


def test_a_candidate_goes_through_all_that_clients_will_meet_and_is_taken_out(staged: Staged) -> None:
    record = staged.deploy("d2")
    asked = list(dict.fromkeys(call for call in staged.staging.calls if call.startswith(("load ", "infer "))))
    assert asked == [f"load {CANDIDATE}", f"infer {CANDIDATE}", f"load {MODEL}", f"infer {MODEL}"]
    assert staged.staging.loaded() == {}
    assert record.state is State.COMMITTED
    assert record.staging["result"] == "passed"
    assert staged.world.ask() == (2, 2.0)
    assert Lease(staged.world.root, "", STAGING).last(staged.world.now) == (None, False)


@pytest.mark.parametrize(
    "call", [f"load {CANDIDATE}", f"infer {CANDIDATE}", f"load {MODEL}", f"infer {MODEL}"]
)
def test_one_that_ends_it_twice_is_at_fault_and_meets_nobody(staged: Staged, call: str) -> None:
    staged.staging.ends_at = {call: 2}
    with pytest.raises(EndedTriton, match="ended the staging Triton twice"):
        staged.deploy("d2")
    assert staged.staging.starts == 3
    staged.untouched()
    record = staged.record("d2")
    assert record.staging["result"] == "ended"
    assert record.failure is not None
    assert (record.failure.blames_artifact, record.failure.suspect) == (True, False)
    assert record.quarantine


def test_one_that_ends_it_once_is_tried_there_again(staged: Staged) -> None:
    staged.staging.ends_at = {f"load {CANDIDATE}": 1}
    assert staged.deploy("d2").state is State.COMMITTED
    assert staged.staging.starts == 2
    assert staged.record("d2").staging["result"] == "passed"


@pytest.mark.parametrize(
    ("register", "error"),
    [
        (lambda world: world.register_times(2, expected=7.0), VerificationFailed),
        (lambda world: world.register(2, files(b"junk")), ArtifactRejected),
    ],
    ids=["wrong", "junk"],
)
def test_a_bad_candidate_ends_there(staged: Staged, register: Any, error: type[DeployError]) -> None:
    register(staged.world)
    with pytest.raises(error):
        staged.deploy("d2")
    staged.untouched()


def test_what_it_says_of_a_candidate_is_told_as_said_there(staged: Staged) -> None:
    staged.world.register_times(2, expected=7.0)
    with pytest.raises(VerificationFailed, match=r"^In the staging Triton: The candidate answers wrongly"):
        staged.deploy("d2")
    assert staged.record("d2").staging["result"] == "rejected"


def away(staging: FakeTriton) -> None:
    staging.fail = dict.fromkeys(
        ("load", "unload", "loaded", "lifeline", "infer", "ready_versions"), unavailable()
    )


def test_where_it_is_required_and_away_the_deploy_fails_and_nobody_is_blamed(staged: Staged) -> None:
    away(staged.staging)
    with pytest.raises(
        Unavailable, match=r"Nothing is known against the model.*TRITON_DEPLOY_STAGING=optional"
    ):
        staged.deploy("d2")
    staged.untouched()
    record = staged.record("d2")
    assert record.staging["result"] == "unreachable"
    assert record.failure is not None
    assert not record.failure.blames_artifact
    staged.staging.fail = {}
    assert staged.deploy("d3").state is State.COMMITTED


def test_where_it_is_optional_and_away_the_record_says_so(staged: Staged) -> None:
    away(staged.staging)
    record = staged.deploy("d2", triton__staging="optional")
    assert record.state is State.COMMITTED
    assert record.staging["result"] == "unreachable"


@pytest.mark.parametrize("staging", ["required", "optional"])
def test_what_hangs_there_is_not_tried_on_those_who_serve(staged: Staged, staging: str) -> None:
    real = staged.staging.unload

    def holds(model: str, timeout_s: float) -> None:
        if f"load {CANDIDATE}" in staged.staging.calls:
            raise unavailable()
        real(model, timeout_s)

    staged.staging.unload = holds  # type: ignore[method-assign]
    staged.staging.fail = {f"load {CANDIDATE}": unavailable()}
    with pytest.raises(Unavailable, match=r"In the staging Triton: .* Restart the staging Triton"):
        staged.deploy("d2", triton__staging=staging)
    assert staged.record("d2").staging["result"] == "stuck"
    staged.untouched()


def test_what_others_left_is_taken_out_first(staged: Staged) -> None:
    """A worker died when it had flipped the staging Triton."""
    deployer = staged.deployer()
    unload = staged.staging.unload
    staged.staging.unload = lambda model, timeout_s: None  # type: ignore[method-assign]
    deployer.snapshot(staged.world.request("dead"))
    deployer.materialize(MODEL, "dead")
    deployer.load(MODEL, "dead")
    staged.staging.unload = unload  # type: ignore[method-assign]
    Lease(staged.world.root, "", STAGING).acquire(f"{MODEL}:dead", staged.world.now, 100)
    # Its rollback removes the engine's folder, and Triton lists only what has one.
    staged.world.later(10_000)
    record = staged.deploy("d2")
    assert record.staging["emptied"] == [MODEL, CANDIDATE]
    assert staged.staging.loaded() == {}


@pytest.mark.parametrize("other", [False, True], ids=["live", "another's"])
def test_a_triton_that_serves_is_never_emptied(staged: Staged, other: bool) -> None:
    """The address is that of a Triton that serves, by another name, or of somebody else's."""
    if other:
        (staged.world.root / "theirs").mkdir()
        staged.staging._states["theirs"] = "READY"
    else:
        staged.staging.restart(MODEL)
    loaded = staged.staging.loaded()
    with pytest.raises(Misconfigured, match="does not look like a staging Triton, and nothing was taken out"):
        staged.deploy("d2")
    assert staged.staging.loaded() == loaded
    assert not [call for call in staged.staging.calls if call.startswith("unload")]
    staged.untouched()


def test_a_load_that_failed_there_before_is_not_in_it(staged: Staged) -> None:
    staged.staging._states["best_model.v1"] = "UNAVAILABLE: it has no such operator"
    assert staged.deploy("d2").staging["emptied"] == []


def test_what_could_not_be_taken_out_is_by_the_next_one(staged: Staged) -> None:
    real = staged.staging.unload

    def fails_at_the_end(model: str, timeout_s: float) -> None:
        if f"infer {MODEL}" in staged.staging.calls:
            raise unavailable()
        real(model, timeout_s)

    staged.staging.unload = fails_at_the_end  # type: ignore[method-assign]
    assert staged.deploy("d2").state is State.COMMITTED
    staged.staging.unload = real  # type: ignore[method-assign]
    staged.world.register_times(3)
    assert staged.deploy("d3").state is State.COMMITTED, "it waits for nobody"
    assert staged.staging.loaded() == {}


def test_what_can_t_be_taken_out_says_restart_it(staged: Staged) -> None:
    staged.staging.load("best_model.v1", 1)
    staged.staging.unload = lambda model, timeout_s: None  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match=r"does not let go of best_model\.v1.*Restart the staging Triton"):
        staged.deploy("d2", triton__switch_timeout_s=0.0)
    assert staged.record("d2").staging["result"] == "stuck"
    staged.untouched()


def test_one_deployment_uses_it_at_a_time(staged: Staged) -> None:
    lease = Lease(staged.world.root, "", STAGING)
    lease.acquire("other:d9", staged.world.now, 100)
    with pytest.raises(LeaseHeld, match="in use by other:d9"):
        staged.deploy("d2")
    assert staged.record("d2").staging["result"] == "busy"
    staged.untouched()
    assert staged.deploy("d3", triton__staging="optional").state is State.COMMITTED
    staged.world.register_times(3)
    staged.world.later(200)
    assert staged.deploy("d4").staging["result"] == "passed", "who had it is silent"


def test_one_that_was_rolled_back_meanwhile_has_it_no_longer(staged: Staged) -> None:
    """Its worker was killed in the middle of the trial, and reconcile settled it."""
    deployer = staged.deployer()
    deployer.snapshot(staged.world.request("dead"))
    Lease(staged.world.root, "", STAGING).acquire(f"{MODEL}:dead", staged.world.now, 10_000)
    deployer.rollback(MODEL, "dead")
    assert staged.deploy("d2").staging["result"] == "passed"


def test_a_retry_does_not_try_it_again(staged: Staged) -> None:
    deployer = staged.deployer()
    deployer.snapshot(staged.world.request("d2"))
    deployer.materialize(MODEL, "d2")
    staged.world.triton.fail = {f"load {CANDIDATE}": unavailable()}
    with pytest.raises(Unavailable):
        deployer.load(MODEL, "d2")
    staged.staging.calls.clear()
    staged.world.triton.fail = {}
    deployer.load(MODEL, "d2")
    assert staged.staging.calls == []


def test_a_revert_to_a_warm_version_asks_nobody_there(staged: Staged) -> None:
    staged.deploy("d2")
    staged.staging.calls.clear()
    away(staged.staging)
    reverted = staged.deployer().revert(RevertRequest(model=MODEL, deploy_id="r1", actor="me"))
    assert reverted.state is State.COMMITTED
    assert staged.staging.calls == []
    assert staged.world.ask() == (1, 1.0)


def test_a_revert_to_a_version_that_is_not_warm_does_not_need_it(staged: Staged) -> None:
    staged.deploy("d2", retention__keep_warm=0)
    revert = RevertRequest(model=MODEL, deploy_id="r1", actor="me")
    assert staged.deployer(retention__keep_warm=0).revert(revert).staging["result"] == "passed"
    away(staged.staging)
    revert = RevertRequest(model=MODEL, deploy_id="r2", actor="me")
    assert staged.deployer(retention__keep_warm=0).revert(revert).state is State.COMMITTED


def test_a_model_that_would_not_fit_is_refused_before_its_load(staged: Staged) -> None:
    size = (staged.world.root / MODEL / "1/model.onnx").stat().st_size
    with pytest.raises(
        NoRoom, match=r"Version 2 of best_model needs about \d+ bytes .* are left beside the 1 versions"
    ):
        staged.deploy("d2", triton__memory_bytes=2 * size)
    staged.untouched()
    assert not [call for call in staged.staging.calls if call.startswith("load")]
    record = staged.record("d2")
    assert record.failure is not None
    assert not record.failure.blames_artifact
    assert staged.deploy("d3", triton__memory_bytes=100 * size).state is State.COMMITTED


@pytest.mark.parametrize(
    "environment",
    [
        {"TRITON_DEPLOY_STAGING_GRPC_URL": "staging"},
        {"TRITON_DEPLOY_STAGING_GRPC_URL": "http://staging:8000"},
        {"TRITON_DEPLOY_STAGING_GRPC_URL": "triton:8001", "TRITON_DEPLOY_GRPC_URLS": "triton:8001"},
        {"TRITON_DEPLOY_STAGING": "maybe"},
    ],
)
def test_settings_that_can_t_be_meant_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(Misconfigured, match="TRITON_DEPLOY_STAGING"):
        Settings.from_env(environment)
