"""A history that is gone is not one that never was: nothing is taken away, and nothing is built on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import DeployError, StorageFailed
from ml_code.triton_deploy.repository import models_in
from ml_code.triton_deploy.repository.journal import Journal
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.upkeep import status
from ml_code.triton_deploy.upkeep.gc import GarbageCollector
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.fakes import unavailable
from tests.support.findings import STEPS, snapshot_of
from tests.support.settings import changed
from tests.support.world import MODEL, World


def reconcile(world: World, **options: bool) -> Reconciled:
    return Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL, **options)


@pytest.fixture
def deployed(world: World) -> World:
    """Versions 1 to 3 were deployed; 3 is live, 2 is warm."""
    for version in (1, 2, 3):
        world.register_times(version)
        world.deploy(f"d{version}")
    return world


def remove(*paths: str) -> Callable[[World], None]:
    def act(world: World) -> None:
        for path in paths:
            place = world.root / MODEL / path
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    return act


def empty(world: World) -> None:
    for path in (world.root / MODEL / "releases").iterdir():
        path.unlink()


def a_file_in_its_place(world: World) -> None:
    remove("releases")(world)
    (world.root / MODEL / "releases").write_text("")


def only_the_live_model(world: World) -> None:
    """Only Triton and the version's own files are left to say that something was released."""
    remove("releases", "current.json", "deployments")(world)


def older_current(world: World) -> None:
    (world.root / MODEL / "current.json").write_text(
        (world.root / MODEL / "releases/000002.json").read_text()
    )
    remove("releases/000003.json")(world)


LOST: dict[str, Callable[[World], None]] = {
    "releases/ is gone": remove("releases"),
    "releases/ is empty": empty,
    "releases/ is a file": a_file_in_its_place,
    "releases/ and current.json are gone": remove("releases", "current.json"),
    "releases/ and deployments/ are gone": remove("releases", "deployments"),
    "only Triton knows": only_the_live_model,
    "the first one is gone": remove("releases/000001.json"),
    "one in the middle is gone": remove("releases/000002.json"),
    "the last one is gone": remove("releases/000003.json"),
    "the last one is gone, and current.json": remove("releases/000003.json", "current.json"),
    "the last one is gone, and current.json is as old": older_current,
    "the last one is gone, and deployments/": remove("releases/000003.json", "deployments"),
    "the last one and what says so, but for Triton": remove(
        "releases/000003.json", "current.json", "deployments"
    ),
}


def gc(world: World) -> tuple[str, ...]:
    settings = changed(world.settings, retention__keep_releases=1, retention__quarantine_days=1)
    return GarbageCollector(settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL).problems


@pytest.mark.parametrize("lose", LOST)
def test_a_release_that_is_missing_is_a_problem_and_nothing_is_taken_away(deployed: World, lose: str) -> None:
    LOST[lose](deployed)
    deployed.later(100 * 86_400)
    before, loaded = snapshot_of(deployed.root), deployed.triton.loaded()
    for options in ({"dry_run": True}, {}, {"deep": True}):
        found = reconcile(deployed, **options)
        assert found.done == ()
        assert any("release" in problem for problem in found.problems), found
        assert not any("not reconciled" in problem for problem in found.problems)
    kept = snapshot_of(deployed.root)
    assert kept.keys() >= before.keys()
    assert deployed.triton.loaded() == loaded
    assert deployed.ask() == (3, 3.0)


@pytest.mark.parametrize("lose", list(LOST)[:-2])
def test_nothing_is_deployed_reverted_or_removed_on_top(deployed: World, lose: str) -> None:
    LOST[lose](deployed)
    deployed.register_times(4)
    before = snapshot_of(deployed.root)
    with pytest.raises(DeployError, match="release"):
        deployed.deploy("d4")
    assert deployed.deployer().plan_deploy(deployed.request("d5")).obstacles
    if lose != "only Triton knows":
        with pytest.raises(DeployError):
            deployed.deployer().revert(RevertRequest(model=MODEL, deploy_id="back"))
        assert gc(deployed)
    assert snapshot_of(deployed.root) == before
    assert deployed.ask() == (3, 3.0)


def test_status_says_so(deployed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "tritons_of", lambda settings: [deployed.triton])
    assert model_status(deployed.settings, MODEL).problems == ()
    remove("releases")(deployed)
    found = model_status(deployed.settings, MODEL)
    assert "releases" in found.problems[0]
    assert not found.agrees


def test_a_rollback_takes_nothing_away_when_the_releases_are_gone(deployed: World) -> None:
    """A deploy was killed after its flip was meant; then releases/ went."""
    deployed.register_times(4)
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d4"))
    for step in STEPS[:-1]:
        getattr(deployer, step)(MODEL, "d4")
    record = deployed.folder.journal.get("d4")
    kept = deployed.root.parent / "kept"
    shutil.move(deployed.root / MODEL / "releases", kept)
    with pytest.raises(StorageFailed, match="releases"):
        deployer.rollback(MODEL, "d4")
    deployed.later(10_000)
    assert reconcile(deployed).done == ()
    assert deployed.folder.journal.get("d4") == record
    assert deployed.ask() == (3, 3.0)
    shutil.move(kept, deployed.root / MODEL / "releases")
    assert reconcile(deployed).problems == ()
    assert deployed.folder.journal.get("d4").state is State.ROLLED_BACK


def test_a_commit_writes_no_first_release_again(deployed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The releases go while a deploy is under way."""
    deployed.register_times(4)
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d4"))
    for step in STEPS[:-1]:
        getattr(deployer, step)(MODEL, "d4")
    monkeypatch.setattr(
        "ml_code.triton_deploy.deploy.step.RunningStep.refuse_outdated", remove_once(deployed)
    )
    with pytest.raises(StorageFailed, match="releases"):
        deployer.commit(MODEL, "d4")
    assert not (deployed.root / MODEL / "releases/000004.json").exists()


def remove_once(world: World) -> Callable[[object], None]:
    def act(step: object) -> None:
        remove("releases")(world)

    return act


# What is no evidence


def test_a_process_that_was_killed_between_its_writes_leaves_nothing_that_is_missing(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("releases.Releases.publish", "releases.Releases.project", "journal.Journal.append"):
        version = deployed.folder.releases.latest().active_version + 1  # type: ignore[union-attr]
        deployed.register_times(version)
        deployer = deployed.deployer()
        deployer.snapshot(deployed.request(f"d{version}"))
        for step in STEPS[:-1]:
            getattr(deployer, step)(MODEL, f"d{version}")
        with monkeypatch.context() as patch:
            patch.setattr(f"ml_code.triton_deploy.repository.{method}", killed)
            with pytest.raises(KeyboardInterrupt):
                deployer.commit(MODEL, f"d{version}")
        assert deployed.folder.evidence.missing() == [], method
        deployed.later(10_000)
        assert reconcile(deployed).problems == ()
        assert deployed.folder.evidence.missing() == []
        if deployed.folder.journal.get(f"d{version}").state is State.ROLLED_BACK:
            deployed.register_times(version)
            deployed.deploy(f"again{version}")


def killed(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00junk", b"[]", b'{"generation": 99}', b'{"generation": 1e400}']
)
def test_a_current_json_that_says_nothing_is_no_evidence(deployed: World, content: bytes) -> None:
    (deployed.root / MODEL / "current.json").write_bytes(content)
    assert deployed.folder.evidence.missing() == []
    assert reconcile(deployed).done == ("rewrite current.json",)


def test_the_current_json_of_another_model_is_no_evidence(deployed: World) -> None:
    live = deployed.folder.releases.latest()
    assert live is not None
    (deployed.root / MODEL / "current.json").write_text(to_json(replace(live, model="other", generation=9)))
    assert deployed.folder.evidence.missing() == []
    assert reconcile(deployed).done == ("rewrite current.json",)


def test_a_record_that_can_not_be_read_is_no_evidence(deployed: World) -> None:
    for path in (deployed.root / MODEL / "deployments/d1").iterdir():
        path.write_text("{")
    assert deployed.folder.evidence.missing() == []


def test_a_file_that_only_looks_like_a_release_is_none(deployed: World) -> None:
    for name in ("²²²²²².json", "7.json", "notes.json", "000000.json", "99999999999999999999999.json"):
        (deployed.root / MODEL / "releases" / name).write_text("theirs")
    assert deployed.folder.evidence.missing() == []
    assert deployed.folder.releases.generations() == [1, 2, 3]
    (deployed.root / MODEL / "releases/900000000.json").write_text("theirs")
    (problem,) = deployed.folder.evidence.missing()
    assert "000004.json" in problem
    assert "and more" in problem


def test_a_first_deploy_that_failed_leaves_nothing_that_is_missing(world: World) -> None:
    world.register_times(1, expected=7.0)
    with pytest.raises(DeployError):
        world.deploy("d1")
    assert world.folder.evidence.missing() == []
    assert reconcile(world).problems == ()


def test_a_healthy_model_is_looked_at_with_few_reads(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the deployments, only those are read that were changed since the last release."""
    real = Journal.find
    read: list[str] = []

    def find(self: Journal, deploy_id: str) -> Deployment | None:
        read.append(deploy_id)
        return real(self, deploy_id)

    monkeypatch.setattr(Journal, "find", find)
    assert deployed.folder.evidence.missing(thorough=False) == []
    assert read == ["d3"]
    assert deployed.folder.evidence.missing() == []
    assert set(read) == {"d1", "d2", "d3"}


def test_a_model_whose_deployments_are_gone_is_still_one(deployed: World) -> None:
    remove("deployments")(deployed)
    assert models_in(deployed.root) == [MODEL]
    (deployed.root / "not a model" / "releases").mkdir(parents=True)
    assert models_in(deployed.root) == [MODEL]


def test_a_triton_that_does_not_answer_is_no_reason_to_believe_anything(deployed: World) -> None:
    deployed.triton.fail["loaded"] = unavailable()
    remove("releases")(deployed)
    assert "releases" in reconcile(deployed).problems[0]
