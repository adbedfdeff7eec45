"""What decides whose a directory is and what is to blame: the journal, whatever the files in the directory say."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_code.gateway.triton.deploy_history import DeployHistory
from ml_code.triton_deploy.errors import ArtifactRejected, Quarantined, StorageFailed, VerificationFailed
from ml_code.triton_deploy.repository import traps
from ml_code.triton_deploy.repository.origins import FAILURE, MANIFEST
from ml_code.triton_deploy.repository.staging_directories import StagingDirectories
from ml_code.triton_deploy.rules.deployment import Failure, State
from ml_code.triton_deploy.upkeep.gc import GarbageCollector
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.models import external, files, golden, times
from tests.support.world import MODEL, World

BAD = files(times(4.0), triton__golden_json=golden(5.0))


@pytest.fixture
def failed(world: World) -> Path:
    """Version 1 is live, version 4 answered wrongly; returns the quarantined directory of that one."""
    world.register_times(1)
    world.deploy("d1")
    world.register(4, BAD)
    with pytest.raises(VerificationFailed):
        world.deploy("d4")
    return world.root / MODEL / world.folder.journal.get("d4").quarantine


def forge(path: Path, **said: Any) -> None:
    """Write what a model could have brought under the name of a file of ours."""
    path.write_text(json.dumps(said))


def forged_failure(world: World, **changes: Any) -> dict[str, Any]:
    """What somebody would say who wants version 1 refused, and blame nobody for what he brought."""
    of_one = world.folder.versions.require(1)
    return {
        "step": "smoke",
        "kind": "verification_failed",
        "error": "Forged.",
        "at_utc": "2099-01-01T00:00:00.000Z",
        "blames_artifact": True,
        "suspect": False,
        "model": MODEL,
        "version": 4,
        "deploy_id": "d1",
        "digest": of_one.digest,
        "fingerprint": of_one.fingerprint,
        **changes,
    }


def quarantined(world: World) -> dict[str, Any]:
    ((_, content),) = world.folder.quarantine.failures()
    return dict(content)


def is_refused(world: World) -> bool:
    """Whether version 4, as it is registered, is refused as one that failed before."""
    try:
        world.deploy("again")
    except Quarantined:
        return True
    except VerificationFailed:
        return False
    raise AssertionError("it was deployed")


# A name of ours for what a model brings


@pytest.mark.parametrize(
    "location",
    [
        "failure.json",
        "Manifest.JSON",
        "smoke.json",
        "model.onnx",
        "triton/golden.json",
        "config.pbtxt",
        ".hidden",
    ],
)
def test_no_file_of_a_model_gets_a_name_of_ours_and_none_is_fetched(world: World, location: str) -> None:
    model, data = external(location)
    world.register(1, {location: data, **files(model)})
    with pytest.raises(ArtifactRejected, match="keeps weights of 'factor' in"):
        world.deploy()
    assert world.store.reads == ["model.onnx"]
    assert "1" not in world.names
    assert world.folder.journal.get("d1").failure is not None


# A directory of earlier code, with files of ours that the model brought


@pytest.mark.parametrize("fits", [False, True], ids=["of another", "fits its manifest"])
def test_a_forged_failure_neither_hides_the_true_one_nor_blames_another(
    world: World, failed: Path, fits: bool
) -> None:
    true = quarantined(world)
    of_four = {name: true[name] for name in ("deploy_id", "digest", "fingerprint")} if fits else {}
    forge(failed / FAILURE, **forged_failure(world, blames_artifact=not fits, **of_four))
    assert quarantined(world) == true
    assert (true["deploy_id"], true["blames_artifact"], true["at_utc"][:4]) == ("d4", True, "2026")
    assert is_refused(world)
    world.folder.quarantine.add_leftover(world.folder.versions.require(1))
    world.register_times(1)
    world.deploy("d1-again")
    assert world.ask() == (1, 1.0)


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe weights", b"[]", b"{" * 10_000, b'{"version": 4, "deploy_id": 7}', None]
)
@pytest.mark.parametrize("name", [FAILURE, MANIFEST])
def test_whatever_lies_there_the_journal_knows(
    world: World, failed: Path, name: str, junk: bytes | None
) -> None:
    true = quarantined(world)
    (failed / name).unlink()
    if junk is not None:
        (failed / name).write_bytes(junk)
    assert quarantined(world) == true
    assert world.folder.quarantine.contents() == {failed.name: "d4"}
    assert is_refused(world)


def test_a_directory_that_earlier_code_did_not_find_again_is_known_by_its_manifest(
    world: World, failed: Path
) -> None:
    """The forged failure named another deployment, so the record did not get the name of the directory."""
    last = max((world.root / MODEL / "deployments/d4").glob("*.json"))
    last.write_text(last.read_text().replace(failed.name, ""))
    forge(failed / FAILURE, **forged_failure(world))
    assert quarantined(world)["deploy_id"] == "d4"
    assert is_refused(world)


def test_a_rollback_writes_its_own_failure_over_one_that_came_with_the_model(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = StagingDirectories.install

    def as_earlier_code(staging: StagingDirectories, deploy_id: str, manifest: Any) -> Path:
        forge(staging.path(deploy_id) / FAILURE, **forged_failure(world, deploy_id="d4"))
        return install(staging, deploy_id, manifest)

    world.register_times(1)
    world.deploy("d1")
    monkeypatch.setattr(StagingDirectories, "install", as_earlier_code)
    world.register(4, BAD)
    with pytest.raises(VerificationFailed):
        world.deploy("d4")
    (kept,) = world.folder.quarantine.contents()
    written = json.loads((world.root / MODEL / kept / FAILURE).read_text())
    assert "Forged" not in written["error"]
    assert written == quarantined(world)
    assert written["digest"] == world.folder.journal.get("d4").digest != ""
    assert world.folder.journal.get("d4").quarantine == kept


def test_who_installed_a_live_version_is_not_said_by_the_model(world: World, failed: Path) -> None:
    forge(world.root / MODEL / "1" / FAILURE, **forged_failure(world, version=1, deploy_id="somebody-else"))
    assert world.folder.versions.installed() == {1: "d1"}
    assert world.folder.quarantine.failed_at("1") is None
    # The journal knows the deployment, and that it is of another version.
    manifest = world.root / MODEL / "1" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"d1"', '"d4"'))
    assert world.folder.versions.installed() == {1: ""}


def test_a_time_in_the_future_keeps_nothing_for_ever(world: World, failed: Path) -> None:
    forge(failed / FAILURE, **forged_failure(world))
    world.later(timedelta(days=365).total_seconds())
    collected = GarbageCollector(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL)
    assert failed.name in [removed.name for removed in collected.removed]


def test_pages_and_status_show_what_the_journal_says(world: World, failed: Path) -> None:
    forge(failed / FAILURE, **forged_failure(world, version="x"))
    history = DeployHistory(world.root, MODEL)
    history.look(1)
    (shown,) = history.failures
    assert (shown.version, shown.deploy_id) == (4, "d4")
    assert "Forged" not in shown.error
    assert "Forged" not in str(model_status(world.settings, MODEL).quarantined)


# The journal's record is gone, or can't be read


@pytest.mark.parametrize("gone", [True, False])
def test_without_its_record_a_quarantined_artifact_stays_refused(
    world: World, failed: Path, gone: bool
) -> None:
    true = quarantined(world)
    record = world.root / MODEL / "deployments/d4"
    if gone:
        shutil.rmtree(record)
    else:
        for path in record.glob("*.json"):
            path.write_bytes(b"\xff")
    assert quarantined(world) == true
    assert world.folder.quarantine.contents() == {failed.name: "d4"}
    assert world.folder.quarantine.failed_at(failed.name) == datetime.fromisoformat(true["at_utc"])
    assert is_refused(world)


@pytest.mark.parametrize("changes", [{}, {"deploy_id": "d4"}, {"version": 1}, {"deploy_id": "../d4"}])
def test_without_its_record_a_failure_that_does_not_fit_the_manifest_blames_nobody(
    world: World, failed: Path, changes: dict[str, Any]
) -> None:
    shutil.rmtree(world.root / MODEL / "deployments/d4")
    forge(failed / FAILURE, **forged_failure(world, **changes))
    assert list(world.folder.quarantine.failures()) == []
    world.register_times(1)
    assert world.deploy("d1-again").state is State.UNCHANGED


def test_what_was_set_aside_is_of_the_deployment_that_it_names_and_blames_nobody(
    world: World, failed: Path
) -> None:
    """A process that went on after its rollback left it; the same files are in quarantine already, with the reason."""
    shutil.copytree(failed, failed.with_name("4"))
    world.folder.quarantine.add_leftover(world.folder.versions.require(4))
    assert world.folder.quarantine.contents() == {failed.name: "d4", "4.failed_d4": "d4"}
    assert [path for path, _ in world.folder.quarantine.failures()] == [failed]


def test_a_rollback_that_is_repeated_changes_nothing(world: World, failed: Path) -> None:
    record = world.folder.journal.get("d4")
    assert isinstance(record.failure, Failure)
    before = {path: path.stat().st_mtime_ns for path in failed.iterdir()}
    at = datetime.fromisoformat(record.times_utc[State.ROLLING_BACK])
    assert world.folder.quarantine.add(record, record.failure, at) == failed
    assert {path: path.stat().st_mtime_ns for path in failed.iterdir()} == before


# What ends a Triton


@pytest.fixture
def deadly(world: World) -> Path:
    """Version 1 is live, and a person keeps a copy beside it under a long number."""
    world.register_times(1)
    world.deploy("d1")
    path = world.root / MODEL / "20260102030405000000000.bak"
    path.mkdir()
    world.register_times(2)
    return path


def test_a_directory_that_would_end_triton_stops_a_deploy_before_anything(world: World, deadly: Path) -> None:
    names, calls = world.names, len(world.triton.calls)
    with pytest.raises(StorageFailed, match="ends Triton at its next load of best_model") as caught:
        world.deploy("d2")
    assert str(deadly) in str(caught.value)
    assert world.names == names
    assert not [call for call in world.triton.calls[calls:] if call.startswith(("load", "unload"))]
    plan = world.deployer().plan_deploy(world.request("d2"))
    assert any("ends Triton" in error.message for error in plan.obstacles)
    deadly.rmdir()
    world.deploy("d2")
    assert world.ask() == (2, 2.0)


def test_one_that_comes_meanwhile_stops_the_load(world: World, deadly: Path) -> None:
    deadly.rmdir()
    deployer, request = world.deployer(), world.request("d2")
    deployer.snapshot(request)
    deployer.materialize(MODEL, "d2")
    deadly.mkdir()
    with pytest.raises(StorageFailed, match="ends Triton"):
        deployer.load(MODEL, "d2")
    assert "load best_model.v2" not in world.triton.calls


@pytest.mark.parametrize("place", [MODEL, "best_model.v1"])
def test_status_and_reconcile_name_it_and_load_nothing(world: World, deadly: Path, place: str) -> None:
    deadly.rmdir()
    path = world.root / place / ("9" * 21)
    path.mkdir()
    (problem,) = model_status(world.settings, MODEL).problems
    assert str(path) in problem
    assert "Move it" in problem
    world.triton.unload(MODEL, 1)
    found = Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL)
    assert any(str(path) in line and "Move it" in line for line in found.problems)
    assert [call for call in world.triton.calls if call.startswith("load ")][-1:] == ["load best_model"]
    assert world.triton.ready_versions(MODEL) == ()
    path.rmdir()
    assert (
        Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL).problems == ()
    )
    assert world.ask() == (1, 1.0)


@pytest.mark.parametrize(
    ("name", "leads_to", "does"),
    [
        ("gone", "nowhere", "keeps Triton from loading best_model: it is a link that leads nowhere"),
        ("7", "7", "a link that leads nowhere"),
        ("long", "x" * 256, "a link that leads nowhere"),
        ("below", "1/model.onnx/below", "a link that leads nowhere"),
        ("up", "..", "keeps Triton busy without end"),
        ("old/here", ".", "keeps Triton busy without end"),
        ("1/again", "../1", "keeps Triton busy without end"),
    ],
)
def test_a_link_that_triton_cannot_bear_is_named_and_stops_a_deploy(
    world: World, deadly: Path, name: str, leads_to: str, does: str
) -> None:
    deadly.rmdir()
    (world.root / MODEL / "old").mkdir()
    link = world.root / MODEL / name
    link.symlink_to(leads_to)
    with pytest.raises(StorageFailed, match=does) as caught:
        world.deploy("d2")
    assert str(link) in str(caught.value)
    problems = model_status(world.settings, MODEL).problems
    assert [problem for problem in problems if does in problem and str(link) in problem]
    link.unlink()
    world.deploy("d2")
    assert world.ask() == (2, 2.0)


def test_a_link_to_more_folders_than_versions_have_is_named(
    world: World, deadly: Path, tmp_path: Path
) -> None:
    deadly.rmdir()
    for number in range(traps.MOST_FOLDERS + 1):
        (tmp_path / "elsewhere" / str(number)).mkdir(parents=True)
    link = world.root / MODEL / "all"
    link.symlink_to(tmp_path / "elsewhere")
    (trap,) = world.folder.traps.found()
    assert trap.path == link
    assert "keeps Triton busy at every load" in trap.does
    for number in range(10):
        (tmp_path / "elsewhere" / str(number)).rmdir()
    assert world.folder.traps.found() == []


def test_links_to_what_is_there_harm_nothing(world: World, deadly: Path, tmp_path: Path) -> None:
    deadly.rmdir()
    (tmp_path / "elsewhere").mkdir()
    for name, leads_to in (("notes", "1/manifest.json"), ("one", "1"), ("else", str(tmp_path / "elsewhere"))):
        (world.root / MODEL / name).symlink_to(leads_to)
    world.deploy("d2")
    assert world.folder.traps.found() == []
    assert world.ask() == (2, 2.0)


@pytest.mark.parametrize("name", ["current.json", "config.pbtxt", "reconcile.json"])
def test_a_link_that_leads_nowhere_in_the_place_of_what_is_made_anew_is_gone_before_the_load(
    world: World, deadly: Path, name: str
) -> None:
    deadly.rmdir()
    path = world.root / MODEL / name
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")
    deployer = world.deployer()
    deployer.snapshot(world.request("d2"))
    deployer.materialize(MODEL, "d2")
    assert path.is_symlink(), "nothing is loaded yet"
    deployer.load(MODEL, "d2")
    assert not path.is_symlink()


def test_a_file_of_such_a_name_harms_nothing(world: World, deadly: Path) -> None:
    deadly.rmdir()
    deadly.write_text("")
    world.deploy("d2")
    assert world.folder.traps.found() == []
