"""What this package reads of its own: fields of a newer version are passed over and kept, junk is an error of that one file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.cli import status_commands
from ml_code.triton_deploy.cli.exit_codes import ExitCode
from ml_code.triton_deploy.cli.show import show
from ml_code.triton_deploy.errors import StorageFailed
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.repository.versions import read_manifest
from ml_code.triton_deploy.rules import reader
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.deployment import Canary, Deployment, Failure, State, advance
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.reconcile_note import ReconcileNote
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.schema import Schema
from ml_code.triton_deploy.rules.version_files import Manifest
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.upkeep.gc import GarbageCollector
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from ml_code.triton_deploy.upkeep.status import statuses
from tests.support.recorded import LIVE, NOW, RECORD
from tests.support.world import MODEL, World, deployed

FAILURE = Failure(step="load", kind="crashed", error="Ended.", at_utc=utc_text(NOW))
BAKE = Bake(
    model="m",
    generation=7,
    version=2,
    deploy_id="d0",
    verdict=BakeVerdict.PASSED,
    reasons=("good",),
    looks=1,
    judged=1,
    figures={"a": {"b": 1}},
    began_at_utc=utc_text(NOW),
    ended_at_utc=utc_text(NOW),
)
MANIFEST: dict[str, Any] = {
    "version": 2,
    "digest": "x",
    "fingerprint": "f",
    "artifact_uri": "s3://b/p",
    "run_id": "r",
    "deploy_id": "d0",
    "files": [{"path": "model.onnx", "size_bytes": 3, "sha256": "y"}],
    "schema": {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2], "optional": False}],
        "outputs": [],
    },
    "options": {"max_batch_size": 8},
}


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelFolder.at(tmp_path, "m")


# Junk is an error of that one file


JUNK: dict[str, bytes | None] = {
    "is empty": b"",
    "is torn": b'{"deploy_id": "d',
    "is not UTF-8": b'{"deploy_id": "\xff"}',
    "holds zeros": bytes(600),
    "is a list": b"[]",
    "is null": b"null",
    "is a number of 5000 digits": b"1" * 5000,
    "is nested too deeply": b"[" * 100_000,
    "says something else": b'{"deploy_id": 3}',
    "is a folder": None,
}

FILES: dict[str, tuple[str, Callable[[ModelFolder], object]]] = {
    "deployment": ("deployments/d1/0001.json", lambda folder: folder.journal.find("d1")),
    "release": ("releases/000001.json", lambda folder: folder.releases.latest()),
    "lease": ("leases/000001.json", lambda folder: folder.lease.last(NOW)),
    "lease to take": ("leases/000001.json", lambda folder: folder.lease.acquire("d1", NOW, 1)),
    "lease to renew": ("leases/000001.json", lambda folder: folder.lease.renew("d1", NOW, 1)),
    "manifest": ("2/manifest.json", lambda folder: read_manifest(folder.versions.path(2) / "manifest.json")),
    "bake": ("bakes/000001.json", lambda folder: folder.bakes.find(1)),
}


def put(path: Path, content: bytes | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize(("name", "read"), FILES.values(), ids=FILES)
def test_junk_is_an_error_that_names_its_file(
    folder: ModelFolder,
    tmp_path: Path,
    name: str,
    read: Callable[[ModelFolder], object],
    content: bytes | None,
) -> None:
    put(tmp_path / "m" / name, content)
    with pytest.raises(StorageFailed) as raised:
        read(folder)
    assert str(tmp_path / "m" / name) in raised.value.message
    assert "ove" in raised.value.hint or "backup" in raised.value.hint


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_what_can_be_made_anew_is_nothing_when_it_is_junk(
    folder: ModelFolder, tmp_path: Path, content: bytes | None
) -> None:
    folder.releases.publish(replace(LIVE, generation=1))
    for name in ("current.json", "reconcile.json"):
        put(tmp_path / "m" / name, content)
    assert folder.releases.projected() is None
    assert folder.last_reconcile.read() is None
    assert folder.releases.latest() == replace(LIVE, generation=1)
    if content is not None:
        folder.releases.project(replace(LIVE, generation=1))
        assert folder.releases.projected() == replace(LIVE, generation=1)


def test_a_file_under_the_name_of_another_is_an_error(folder: ModelFolder, tmp_path: Path) -> None:
    put(tmp_path / "m/releases/000001.json", to_json(replace(LIVE, generation=2)).encode())
    with pytest.raises(StorageFailed, match=r"000001\.json is that of release 2 of m"):
        folder.releases.latest()
    put(tmp_path / "m/deployments/d2/0001.json", to_json(RECORD).encode())
    with pytest.raises(StorageFailed, match=r"d2/0001\.json is that of d1 of m"):
        folder.journal.find("d2")


# Types are checked as far as the code relies on them

VERSIONS = [0, -1, 2**31, 10**21, "3", 3.0, True, None, [3]]
TIMES = ["", "yesterday", "2026-01-02T03:04:05", 5, None, "2026-13-01T00:00:00Z"]

WRONG: list[tuple[type[Any], dict[str, Any], str, list[Any]]] = [
    (Release, json.loads(to_json(LIVE)), "active_version", VERSIONS),
    (Release, json.loads(to_json(LIVE)), "previous_version", VERSIONS[:7]),
    (Release, json.loads(to_json(LIVE)), "warm_versions", [None, 3, "1", {"1": 1}, ["1"], [0], [1, None]]),
    (Release, json.loads(to_json(LIVE)), "generation", [0, -1, "1", 1.5, 2**64]),
    (Release, json.loads(to_json(LIVE)), "updated_at_utc", TIMES),
    (Release, json.loads(to_json(LIVE)), "deploy_id", ["", "../d", "a/b", 3, "a\n"]),
    (Release, json.loads(to_json(LIVE)), "run_id", [3, None, "\ud800"]),
    (Deployment, json.loads(to_json(RECORD)), "pinned", [None, 3, [], {}]),
    (Deployment, json.loads(to_json(RECORD)), "state", ["flying", None, 3, []]),
    (Deployment, json.loads(to_json(RECORD)), "times_utc", [None, {}, [], {"pinned": 3}, {"pinned": "x"}]),
    (Deployment, json.loads(to_json(RECORD)), "base_generation", [-1, None, "7"]),
    (Deployment, json.loads(to_json(RECORD)), "force", [0, "no", None]),
    (Deployment, json.loads(to_json(RECORD)), "failure", [3, [], {"step": "load"}]),
    (
        Deployment,
        json.loads(to_json(RECORD)),
        "canary",
        [{"shares_percent": "5", "shadow_percent": 0, "step_s": 1}],
    ),
    (Bake, json.loads(to_json(BAKE)), "verdict", ["perhaps", None]),
    (Bake, json.loads(to_json(BAKE)), "reasons", ["good", [3]]),
    (ReconcileNote, {"at_utc": utc_text(NOW)}, "done", ["x", [1]]),
    (Manifest, MANIFEST, "version", VERSIONS),
    (Manifest, MANIFEST, "files", [None, {}, [3], [{"path": "../x", "size_bytes": 1, "sha256": ""}]]),
    (
        Manifest,
        MANIFEST,
        "files",
        [[{"path": "/x", "size_bytes": 1, "sha256": ""}], [{"path": "x", "size_bytes": -1, "sha256": ""}]],
    ),
    (
        Schema,
        MANIFEST["schema"],
        "inputs",
        [None, 3, [{"name": "x"}], [{"name": "x", "datatype": "FP32", "shape": ["-1"]}]],
    ),
]


def read_as(cls: type[Any], data: dict[str, Any]) -> object:
    return (
        cls.from_json(json.dumps(data)) if hasattr(cls, "from_json") else reader.decode(json.dumps(data), cls)
    )


@pytest.mark.parametrize(
    ("cls", "data", "name", "wrong"), WRONG, ids=[f"{row[0].__name__}.{row[2]}" for row in WRONG]
)
def test_a_field_that_is_not_what_it_has_to_be_is_named(
    cls: type[Any], data: dict[str, Any], name: str, wrong: list[Any]
) -> None:
    read_as(cls, data)
    for value in wrong:
        with pytest.raises(ValueError, match=name):
            read_as(cls, {**data, name: value})


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_a_duration_that_is_no_number_of_seconds_is_refused(
    folder: ModelFolder, tmp_path: Path, text: str
) -> None:
    folder.lease.acquire("d1", NOW, 77)
    path = tmp_path / "m/leases/000001.json"
    path.write_text(path.read_text().replace("77", text))
    with pytest.raises(StorageFailed, match="duration_s"):
        folder.lease.last(NOW)


def test_a_rollback_that_does_not_say_why_is_not_gone_on_with() -> None:
    record = json.loads(to_json(advance(RECORD, State.ROLLING_BACK, NOW, failure=FAILURE)))
    Deployment.from_json(json.dumps(record))
    with pytest.raises(ValueError, match="since when and why"):
        Deployment.from_json(json.dumps({**record, "failure": None}))


# Fields of a newer version


def newer(data: Any) -> Any:
    """The same with a field more in every object that is one of ours, at any depth."""
    if isinstance(data, list):
        return [newer(one) for one in data]
    free = (
        "times_utc",
        "figures",
        "options",
        "smoke",
        "staging",
        "shapes",
        "given",
        "away",
        "unanswered",
        "ended",
        "judgment",
        "told",
        "counted",
        "notices",
        "stuck",
    )
    if isinstance(data, dict):
        return {name: one if name in free else newer(one) for name, one in data.items()} | {
            "newer": {"a": [1]}
        }
    return data


FULL = replace(
    RECORD,
    failure=replace(FAILURE, suspect=True),
    canary=Canary(shares_percent=(5,), shadow_percent=0, step_s=60.0, triton="t:1", tritons=("t:1",)),
)


@pytest.mark.parametrize(
    "known", [LIVE, FULL, BAKE, ReconcileNote(at_utc=utc_text(NOW))], ids=lambda known: type(known).__name__
)
def test_fields_of_a_newer_version_are_passed_over_at_any_depth(known: Any) -> None:
    assert type(known).from_json(json.dumps(newer(json.loads(to_json(known))))) == known


def test_those_of_a_manifest_are_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps(MANIFEST))
    (tmp_path / "b").write_text(json.dumps(newer(MANIFEST)))
    old, new = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    assert (new.files, new.options) == (old.files, old.options)
    assert Schema.from_dict(new.schema) == Schema.from_dict(old.schema)


def test_the_next_fact_keeps_them(folder: ModelFolder, tmp_path: Path) -> None:
    folder.journal.append(FULL, None)
    path = tmp_path / "m/deployments/d1"
    (path / "0001.json").write_text(json.dumps(newer(json.loads(to_json(FULL)))))
    assert FULL.canary is not None
    later = advance(FULL, State.MATERIALIZED, NOW, canary=replace(FULL.canary, step=1))
    folder.journal.append(later, FULL)
    written = json.loads((path / "0002.json").read_text())
    for part in (
        written,
        *(written[name] for name in ("pinned", "canary", "canary_added", "failure", "failure_added")),
    ):
        assert part["newer"] == {"a": [1]}
    assert written["canary"]["step"] == 1
    assert folder.journal.get("d1") == later


def test_another_failure_has_nothing_of_the_one_before(folder: ModelFolder, tmp_path: Path) -> None:
    folder.journal.append(FULL, None)
    path = tmp_path / "m/deployments/d1"
    (path / "0001.json").write_text(json.dumps(newer(json.loads(to_json(FULL)))))
    folder.journal.append(
        advance(FULL, State.ROLLING_BACK, NOW, failure=replace(FAILURE, error="Else.")), FULL
    )
    written = json.loads((path / "0002.json").read_text())
    assert "newer" not in written["failure"]
    assert written["failure_added"] == {"suspect": False}
    assert written["pinned"]["newer"]


def test_a_part_that_is_gone_takes_them_with_it(folder: ModelFolder, tmp_path: Path) -> None:
    folder.journal.append(FULL, None)
    path = tmp_path / "m/deployments/d1"
    (path / "0001.json").write_text(json.dumps(newer(json.loads(to_json(FULL)))))
    folder.journal.append(advance(FULL, State.MATERIALIZED, NOW, failure=None), FULL)
    written = json.loads((path / "0002.json").read_text())
    assert written["failure"] is None
    assert "failure_added" not in written


def test_a_renewed_lease_keeps_them(folder: ModelFolder, tmp_path: Path) -> None:
    folder.lease.acquire("d1", NOW, 60)
    path = tmp_path / "m/leases/000001.json"
    path.write_text(json.dumps(newer(json.loads(path.read_text()))))
    folder.lease.renew("d1", NOW, 120)
    written = json.loads(path.read_text())
    assert (written["duration_s"], written["newer"]) == (120, {"a": [1]})
    folder.lease.release("d1")
    assert folder.lease.last(NOW) == (None, False)
    path.write_text(json.dumps({"newer": "given back by a version that says more"}))
    folder.lease.acquire("d2", NOW, 60)
    assert folder.lease.last(NOW) == ("d2", True)


def test_current_json_keeps_those_of_the_release(folder: ModelFolder, tmp_path: Path) -> None:
    live = replace(LIVE, generation=1)
    folder.releases.publish(live)
    path = tmp_path / "m/releases/000001.json"
    path.write_text(json.dumps(newer(json.loads(path.read_text()))))
    folder.releases.project(live)
    assert json.loads((tmp_path / "m/current.json").read_text()) == json.loads(path.read_text())


# All models go on but the one


SPOILT = {
    "lease": "leases/000099.json",
    "release": "releases/000003.json",
    "record of the deployment that is under way": "deployments/d9/0001.json",
}


@pytest.fixture
def two(world: World) -> World:
    """A model that is whole, and one that comes first and is a copy of it under another name."""
    deployed(world)
    other = world.root / "another"
    for name in ("leases", "releases", "deployments/d9"):
        (other / name).mkdir(parents=True)
    for path in (world.root / MODEL / "releases").iterdir():
        (other / "releases" / path.name).write_text(path.read_text().replace(MODEL, "another"))
    lease = {"deploy_id": "d9", "holder": "h", "expires_at_utc": utc_text(world.now), "duration_s": 60}
    (other / "leases/000001.json").write_text(json.dumps(lease))
    return world


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
def test_junk_of_one_model_keeps_no_other_from_being_looked_at(
    two: World, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two.root / "another" / spoilt
    path.write_bytes(b"\xff{")
    monkeypatch.setattr("ml_code.triton_deploy.upkeep.status.tritons_of", lambda settings: [two.triton])
    two.triton.unload("best_model.v2", 1)
    broken, whole = statuses(two.settings, ["another", MODEL])
    assert [str(path) in problem for problem in broken.problems] == [True]
    assert not broken.agrees
    assert whole.agrees
    reconciled = Reconciler(two.settings, tritons=[two.triton], clock=lambda: two.now).run_all()
    collected = GarbageCollector(two.settings, tritons=[two.triton], clock=lambda: two.now).run_all()
    for first, second in (reconciled, collected):
        assert any(str(path) in problem for problem in first.problems)
        assert (second.live, second.problems) == (3, ())
    assert reconciled[1].done == ("load version 2 into fake:1",)
    assert two.ask() == (3, 3.0)


def test_status_says_which_file_is_junk_and_shows_all_else(
    two: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two.root / "another/releases/000003.json"
    path.write_bytes(b"")
    monkeypatch.setattr("ml_code.triton_deploy.upkeep.status.tritons_of", lambda settings: [two.triton])
    options = argparse.Namespace(model="", deploy_id="")
    assert show(status_commands.status(options, two.settings), as_json=False) == ExitCode.DISAGREES
    printed = capsys.readouterr().out
    assert "another: no version is known to be live" in printed
    assert f"problem: The release record {path} can't be read: it is empty." in printed
    assert f"{MODEL}: version 3, generation 3" in printed
    assert show(status_commands.status(options, two.settings), as_json=True) == ExitCode.DISAGREES
    broken, whole = json.loads(capsys.readouterr().out)
    assert (len(broken["problems"]), whole["problems"]) == (1, [])


def test_history_shows_the_releases_after_one_that_is_junk(
    two: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two.root / MODEL / "releases/000001.json"
    path.write_bytes(b"")
    with pytest.raises(StorageFailed, match=r"000001\.json can't be read"):
        show(status_commands.history(argparse.Namespace(model=MODEL, limit=9), two.settings), as_json=False)
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["3", "2"]


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_a_reason_that_is_junk_is_in_nobodys_way(
    world: World, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(world)
    put(world.root / MODEL / "9.failed_20260102T030405" / "failure.json", content)
    monkeypatch.setattr("ml_code.triton_deploy.upkeep.status.tritons_of", lambda settings: [world.triton])
    (status,) = statuses(world.settings, [MODEL])
    assert status.live is not None
    assert status.live.active_version == 3
    (found,) = GarbageCollector(world.settings, tritons=[world.triton], clock=lambda: world.now).run_all()
    assert found.problems == ()
    assert world.deploy("d4").state is State.COMMITTED
