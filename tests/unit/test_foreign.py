"""What this deployer did not make has no part in what it does: it is told, refused as a place to deploy to, and left alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_code.triton_deploy.doctor.repository import foreign_models
from ml_code.triton_deploy.errors import DeployError, Foreign, Unavailable
from ml_code.triton_deploy.fleet.foreign import FOREIGN
from ml_code.triton_deploy.model.model_config import engine_config, to_pbtxt
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.schema import Schema
from ml_code.triton_deploy.upkeep import status
from ml_code.triton_deploy.upkeep.gc import Collected, GarbageCollector
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.fakes import unavailable
from tests.support.findings import STEPS, snapshot_of
from tests.support.models import times
from tests.support.settings import changed
from tests.support.world import MODEL, World

DAY_S = 86_400


def reconcile(world: World, **options: bool) -> Reconciled:
    return Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL, **options)


def gc(world: World) -> Collected:
    settings = changed(
        world.settings,
        retention__keep_releases=1,
        retention__keep_quarantined=0,
        retention__quarantine_days=1,
    )
    return GarbageCollector(settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL)


@pytest.fixture
def deployed(world: World) -> World:
    """Versions 1 to 4 were deployed; 4 is live, 3 is warm."""
    for version in (1, 2, 3, 4):
        world.register_times(version)
        world.deploy(f"d{version}")
    return world


def make_by_hand(world: World, name: str = MODEL, version: int = 1) -> None:
    """Put a model there as a person does, and load it; it answers ``y = x * 9``."""
    folder = world.root / name
    (folder / str(version)).mkdir(parents=True)
    (folder / str(version) / "model.onnx").write_bytes(times(9.0).SerializeToString())
    schema = Schema.from_dict(
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
        }
    )
    config = engine_config("m", version, schema, {}) | {"name": name}
    (folder / "config.pbtxt").write_text(to_pbtxt(config))
    world.triton.load(name, 1)


def test_a_first_release_that_another_deployer_makes_meanwhile_is_not_foreign(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register_times(1)
    index = world.triton.index

    def after_another_deploy() -> object:
        monkeypatch.setattr(world.triton, "index", index)
        world.deploy("first")
        return index()

    monkeypatch.setattr(world.triton, "index", after_another_deploy)
    assert world.deploy("second").version == 1
    assert world.ask() == (1, 1.0)


def files_of(root: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder, with its content."""
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# The name of a model


def test_a_first_deploy_by_the_name_of_a_model_that_others_serve_is_refused_before_anything_else(
    world: World,
) -> None:
    make_by_hand(world)
    before = snapshot_of(world.root)
    world.registry.models.clear()
    with pytest.raises(Foreign, match=r"served by fake:1\. .* Nothing was changed") as refused:
        world.deploy()
    assert (refused.value.exit_code, refused.value.kind) == (3, "foreign")
    assert "config.pbtxt" in refused.value.message
    assert snapshot_of(world.root) == before
    assert world.ask() == (1, 9.0)


def test_the_dry_run_of_a_first_deploy_says_the_same(world: World) -> None:
    make_by_hand(world)
    world.register_times(1)
    before = snapshot_of(world.root)
    plan = world.deployer().plan_deploy(world.request())
    assert isinstance(plan.obstacles[0], Foreign)
    assert plan.exit_code == 3
    assert snapshot_of(world.root) == before


def test_a_folder_of_the_name_is_enough_when_no_triton_answers(world: World) -> None:
    make_by_hand(world)
    world.register_times(1)
    world.triton.fail.update(loaded=unavailable(), ready_versions=unavailable(), load=unavailable())
    with pytest.raises(Foreign):
        world.deploy()


def test_a_triton_that_does_not_answer_keeps_the_first_deploy_from_nothing(world: World) -> None:
    world.register_times(1)
    world.triton.fail["loaded"] = unavailable()
    assert world.deploy().state is State.COMMITTED


@pytest.mark.parametrize("in_the_way", ["a file", "a link", "notes"])
def test_what_has_the_name_of_the_model_and_is_not_its_folder_is_refused(
    world: World, tmp_path: Path, in_the_way: str
) -> None:
    world.register_times(1)
    place = world.root / MODEL
    if in_the_way == "a file":
        place.write_text("mine")
    elif in_the_way == "a link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/mine").write_text("mine")
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    before = snapshot_of(world.root)
    with pytest.raises(Foreign, match=MODEL):
        world.deploy()
    assert snapshot_of(world.root) == before


def test_a_first_deploy_goes_on_where_an_earlier_one_has_failed(world: World) -> None:
    world.register_times(1, expected=7.0)
    with pytest.raises(DeployError):
        world.deploy("d1")
    world.register_times(2)
    assert world.deploy("d2").state is State.COMMITTED


def test_a_first_deploy_goes_on_where_another_died_in_its_commit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is loaded, and no release says so yet."""
    world.register_times(1)
    deployer = world.deployer()
    deployer.snapshot(world.request("d1"))
    for step in STEPS[:-1]:
        getattr(deployer, step)(MODEL, "d1")
    with monkeypatch.context() as patch:
        patch.setattr("ml_code.triton_deploy.repository.releases.Releases.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            deployer.commit(MODEL, "d1")
    assert world.ask() == (1, 1.0)
    world.later(10_000)
    world.register_times(2)
    assert world.deploy("d2").state is State.COMMITTED
    assert world.folder.journal.get("d1").state is State.COMMITTED


def killed(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def test_reconcile_leaves_a_model_that_others_made(world: World) -> None:
    make_by_hand(world)
    before, calls = snapshot_of(world.root), len(world.triton.calls)
    found = reconcile(world)
    assert (found.done, found.problems) == ((), ())
    assert [notice.kind for notice in found.notices] == [FOREIGN]
    assert "best_model in fake:1" in found.notices[0].text
    assert snapshot_of(world.root) == before
    assert world.triton.calls[calls:] == ["loaded "]
    assert world.ask() == (1, 9.0)


def test_reconcile_leaves_a_model_that_others_made_after_a_first_deploy_failed(world: World) -> None:
    world.register_times(1, expected=7.0)
    with pytest.raises(DeployError):
        world.deploy("d1")
    make_by_hand(world, version=2)
    assert reconcile(world).done == ()
    assert world.ask() == (2, 9.0)
    with pytest.raises(Foreign):
        world.deploy("d2")


def test_status_does_not_take_the_model_of_others_for_a_mistake(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_by_hand(world)
    monkeypatch.setattr(status, "tritons_of", lambda settings: [world.triton])
    found = model_status(world.settings, MODEL)
    assert [notice.kind for notice in found.notices] == [FOREIGN]
    assert found.agrees
    assert found.problems == ()


def test_doctor_names_the_models_of_others(deployed: World) -> None:
    make_by_hand(deployed, "legacy")
    make_by_hand(deployed, f"{MODEL}.v77", 77)
    assert foreign_models(deployed.root) == [f"{MODEL}.v77", "legacy"]


# Engines


def a_folder(world: World) -> None:
    (world.root / "best_model.v77/deep").mkdir(parents=True)
    (world.root / "best_model.v77/deep/weights").write_bytes(b"theirs")


def a_link(world: World) -> None:
    (world.root.parent / "theirs").mkdir()
    (world.root.parent / "theirs/file").write_text("theirs")
    (world.root / "best_model.v77").symlink_to(world.root.parent / "theirs")


def a_file(world: World) -> None:
    (world.root / "best_model.v77").write_text("theirs")


def a_loaded_model(world: World) -> None:
    make_by_hand(world, f"{MODEL}.v77", 77)


def a_model_of_another_name(world: World) -> None:
    make_by_hand(world, f"{MODEL}.vision", 5)


def configurations(world: World) -> None:
    folder = world.root / MODEL / "engines/77"
    folder.mkdir()
    (folder / "notes.txt").write_text("theirs")


def an_imitation(world: World) -> None:
    """It looks like an engine of earlier code, and no deployment was ever of that version."""
    folder = world.root / "best_model.v77"
    folder.mkdir()
    (folder / "77").symlink_to("../best_model/77")
    (folder / "config.pbtxt").write_text('name: "best_model.v77"\n')


def something_in_an_engine_that_is_done_with(world: World) -> None:
    world.folder.engines.complete(2, 'name: "best_model.v2"\n')
    (world.root / "best_model.v2/notes.txt").write_text("theirs")


def a_stage(world: World) -> None:
    (world.root / MODEL / ".staging-mine").mkdir()
    (world.root / MODEL / ".staging-mine/file").write_text("theirs")


def a_temporary(world: World) -> None:
    (world.root / MODEL / ".mine.tmp").write_text("theirs")


FOREIGN_THINGS: list[Callable[[World], None]] = [
    a_folder,
    a_link,
    a_file,
    a_loaded_model,
    a_model_of_another_name,
    configurations,
    an_imitation,
    something_in_an_engine_that_is_done_with,
    a_stage,
    a_temporary,
]


@pytest.mark.parametrize("put", FOREIGN_THINGS)
def test_what_others_made_is_left_by_reconcile_deploy_revert_and_gc(
    deployed: World, put: Callable[[World], None]
) -> None:
    before = files_of(deployed.root.parent)
    put(deployed)
    theirs = {path: text for path, text in files_of(deployed.root.parent).items() if path not in before}
    loaded = {name for name in deployed.triton.loaded() if "v77" in name or "vision" in name}
    found = reconcile(deployed)
    assert (found.done, found.problems) == ((), ())
    if put not in (a_model_of_another_name, a_temporary):
        assert [notice.kind for notice in found.notices] == [FOREIGN]
    deployed.register_times(5)
    deployed.deploy("d5")
    deployed.register_times(6, expected=7.0)
    with pytest.raises(DeployError):
        deployed.deploy("d6")
    deployed.later(30 * DAY_S)
    assert gc(deployed).problems == ()
    assert reconcile(deployed).problems == ()
    after = files_of(deployed.root.parent)
    assert {path: after.get(path) for path in theirs} == theirs
    assert loaded <= deployed.triton.loaded().keys()
    assert deployed.ask() == (5, 5.0)


def test_a_version_whose_engine_would_be_somebody_elses_is_refused(deployed: World) -> None:
    a_folder(deployed)
    deployed.register_times(77)
    before = snapshot_of(deployed.root)
    plan = deployed.deployer().plan_deploy(deployed.request("d77"))
    assert isinstance(plan.obstacles[0], Foreign)
    with pytest.raises(Foreign, match=r"best_model\.v77"):
        deployed.deploy("d77")
    assert snapshot_of(deployed.root).items() >= before.items()
    assert deployed.folder.journal.find("d77") is None


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_version_whose_folder_is_somebody_elses_is_refused(deployed: World, kind: str) -> None:
    place = deployed.root / MODEL / "77"
    if kind == "folder":
        place.mkdir()
        (place / "model.onnx").write_text("theirs")
    else:
        place.write_text("theirs")
    deployed.register_times(77)
    with pytest.raises(Foreign, match="best_model/77"):
        deployed.deploy("d77")
    assert place.exists()


# What gc removes


def test_gc_leaves_a_version_that_somebody_put_there(deployed: World) -> None:
    """A version of that number was released, and went; what lies there now is somebody else's."""
    deployed.later(30 * DAY_S)
    gc(deployed)
    place = deployed.root / MODEL / "1"
    assert not place.exists()
    place.mkdir()
    (place / "model.onnx").write_text("theirs")
    assert gc(deployed).removed == ()
    assert (place / "model.onnx").read_text() == "theirs"


def test_gc_leaves_a_copy_that_somebody_made(deployed: World) -> None:
    shutil.copytree(deployed.root / MODEL / "1", deployed.root / MODEL / "50")
    deployed.later(30 * DAY_S)
    assert "50" not in [removed.name for removed in gc(deployed).removed]
    assert (deployed.root / MODEL / "50/model.onnx").exists()


@pytest.mark.parametrize("place", ["1/notes.txt", "1/triton/notes.txt", "deployments/d1/notes.txt"])
def test_gc_leaves_what_somebody_has_put_something_into(deployed: World, place: str) -> None:
    path = deployed.root / MODEL / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("theirs")
    deployed.later(30 * DAY_S)
    found = gc(deployed)
    assert found.removed, "the rest goes"
    assert path.read_text() == "theirs"
    assert any("notes.txt" in kept.why for kept in found.kept)


# Derived things


def other_weights(world: World) -> None:
    link = world.root / "best_model.v4/4"
    link.unlink()
    link.symlink_to("../best_model/2")


def far_weights(world: World) -> None:
    link = world.root / "best_model.v4/4"
    link.unlink()
    link.symlink_to("/nowhere")


def junk(path: str, content: bytes = b"\xff\xfe\0") -> Callable[[World], None]:
    def put(world: World) -> None:
        place = world.root / path
        place.unlink()
        place.write_bytes(content)

    return put


def folder(path: str) -> Callable[[World], None]:
    def put(world: World) -> None:
        (world.root / path).unlink()
        (world.root / path).mkdir()

    return put


def dangling(path: str) -> Callable[[World], None]:
    def put(world: World) -> None:
        (world.root / path).unlink()
        (world.root / path).symlink_to("/nowhere")

    return put


CONFIGURATIONS = (
    "best_model.v4/config.pbtxt",
    "best_model/engines/4/config.pbtxt",
    "best_model/engines/4/verified.pbtxt",
    "best_model/config.pbtxt",
    "best_model/current.json",
)
DAMAGE: dict[str, Callable[[World], None]] = {
    "the link leads to other weights": other_weights,
    "the link leads out": far_weights,
    "another policy": lambda w: junk(
        "best_model/engines/4/verified.pbtxt",
        (w.root / "best_model/engines/4/verified.pbtxt").read_bytes() + b"max_batch_size: 3\n",
    )(w),
    "a candidate's": lambda w: w.folder.engines.write_candidate(4, "d9", "x"),
    **{f"junk in {path}": junk(path) for path in CONFIGURATIONS},
    **{f"a folder at {path}": folder(path) for path in CONFIGURATIONS},
    **{f"a dangling link at {path}": dangling(path) for path in CONFIGURATIONS},
    "a folder at the link": folder("best_model.v4/4"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_derived_is_made_anew_whatever_is_in_it(deployed: World, damage: str) -> None:
    DAMAGE[damage](deployed)
    found = reconcile(deployed)
    assert found.done
    assert found.problems == ()
    assert (reconcile(deployed).done, reconcile(deployed).problems) == ((), ())
    deployed.triton.restart(MODEL)
    assert deployed.ask() == (4, 4.0)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_deploy_of_another_version_goes_on_over_it(deployed: World, damage: str) -> None:
    DAMAGE[damage](deployed)
    deployed.register_times(5)
    assert deployed.deploy("d5").state is State.COMMITTED
    reconcile(deployed)
    deployed.triton.restart(MODEL)
    assert deployed.ask() == (5, 5.0)


@pytest.mark.parametrize("path", [*CONFIGURATIONS, "best_model.v4/4"])
def test_a_folder_with_something_in_it_is_not_removed_and_is_a_problem(deployed: World, path: str) -> None:
    (deployed.root / path).unlink()
    (deployed.root / path).mkdir()
    (deployed.root / path / "mine").write_text("theirs")
    found = reconcile(deployed)
    assert len(found.problems) == 1
    assert path.rpartition("/")[2] in found.problems[0]
    assert (deployed.root / path / "mine").read_text() == "theirs"
    assert deployed.ask() == (4, 4.0)


# A live version whose files are gone


def gone(world: World) -> None:
    shutil.rmtree(world.root / MODEL / "4")


def no_manifest(world: World) -> None:
    (world.root / MODEL / "4/manifest.json").write_text("{")


GONE = [gone, no_manifest]


@pytest.mark.parametrize("lose", GONE)
def test_another_version_is_deployed_when_the_files_of_the_live_one_are_gone(
    deployed: World, lose: Callable[[World], None]
) -> None:
    lose(deployed)
    deployed.register_times(5)
    assert deployed.deploy("d5").state is State.COMMITTED
    assert deployed.ask() == (5, 5.0)


@pytest.mark.parametrize("lose", GONE)
def test_a_failed_deploy_is_undone_when_the_files_of_the_live_one_are_gone(
    deployed: World, lose: Callable[[World], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails after its flip: what Triton has of the live version serves again."""
    lose(deployed)
    deployed.register_times(5)
    monkeypatch.setattr("ml_code.triton_deploy.fleet.smoke.SmokeTest.ask_public_name", refuse)
    with pytest.raises(Unavailable):
        deployed.deploy("d5")
    monkeypatch.undo()
    assert deployed.folder.journal.get("d5").state is State.ROLLED_BACK
    assert deployed.triton.ready_versions(MODEL) == (4,)
    assert deployed.ask() == (4, 4.0)
    found = reconcile(deployed)
    assert "version 4" in found.problems[0]
    assert deployed.ask() == (4, 4.0)


def refuse(*args: object, **kwargs: object) -> None:
    raise unavailable()


def test_a_failed_deploy_is_undone_when_nothing_can_be_put_in_its_place(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone(deployed)
    deployed.triton.unload("best_model.v4", 1)
    deployed.register_times(5)
    monkeypatch.setattr("ml_code.triton_deploy.fleet.smoke.SmokeTest.ask_public_name", refuse)
    with pytest.raises(Unavailable):
        deployed.deploy("d5")
    assert deployed.folder.journal.get("d5").state is State.ROLLED_BACK
    monkeypatch.undo()
    deployed.register_times(6)
    assert deployed.deploy("d6").state is State.COMMITTED
    assert deployed.ask() == (6, 6.0)
