"""The repository's files: durable writes, leases, journals, releases."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ml_code.triton_deploy.errors import LeaseHeld, NotFound, StorageFailed, Superseded
from ml_code.triton_deploy.repository import ModelFolder, durable, models_in
from ml_code.triton_deploy.repository.versions import Versions
from ml_code.triton_deploy.rules.deployment import Failure, State, advance
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.version_files import Manifest
from ml_code.triton_deploy.storage import storage_errors
from tests.support.recorded import LIVE, NOW, RECORD

# Durable writes


def test_of_many_writers_exactly_one_creates_a_file(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: durable.create_file(path, str(n)), range(64)))
    assert won.count(True) == 1
    assert path.read_text() == str(won.index(True))
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_a_link_whose_success_was_not_reported_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS may answer a link that was made with an error."""
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise OSError(errno.EIO, "lost the answer")

    monkeypatch.setattr(os, "link", link)
    assert durable.create_file(tmp_path / "one", "x")


def test_a_failing_link_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="full"):
        durable.create_file(tmp_path / "one", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_file_is_synced_before_its_rename_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append("fsync " + os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd))
    )
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("rename"), real_replace(self, to))[1])
    durable.replace_file(tmp_path / "current.json", "x")
    assert calls[0].startswith(f"fsync {tmp_path}/.current.json.")
    assert calls[1:] == ["rename", f"fsync {tmp_path}"]


def test_a_failed_write_leaves_the_old_content_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "current.json"
    durable.replace_file(path, "old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "disk")))
    with pytest.raises(OSError, match="disk"):
        durable.replace_file(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["current.json"]


def test_what_is_written_can_be_read_by_others(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        durable.replace_file(tmp_path / "x", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EACCES, "user write"),
        (errno.EROFS, "read-write"),
        (errno.EIO, "mount"),
    ],
)
def test_an_error_of_the_file_system_says_what_to_do(number: int, advice: str) -> None:
    with pytest.raises(StorageFailed, match="while saving it") as caught, storage_errors("saving it"):
        raise OSError(number, os.strerror(number))
    assert advice in caught.value.hint


# Lease


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelFolder.at(tmp_path, "m")


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_an_expired_lease_is_free_when_its_deployment_was_settled(folder: ModelFolder) -> None:
    folder.lease.acquire("a", NOW, 60)
    for seconds in (59, 61):
        with pytest.raises(LeaseHeld, match="a"):
            folder.lease.acquire("b", later(seconds), 60)
    assert folder.lease.last(later(61)) == ("a", False)
    folder.lease.release("a")
    folder.lease.acquire("b", later(61), 60)
    with pytest.raises(Superseded, match="lost its lease"):
        folder.lease.renew("a", later(62), 60)
    folder.lease.renew("b", later(62), 60)


def test_a_renewed_lease_lasts_longer(folder: ModelFolder) -> None:
    folder.lease.acquire("a", NOW, 60)
    folder.lease.renew("a", later(50), 60)
    with pytest.raises(LeaseHeld):
        folder.lease.acquire("b", later(100), 60)


def test_a_lease_of_a_clock_that_was_ahead_does_not_last_longer_than_a_lease(folder: ModelFolder) -> None:
    folder.lease.acquire("a", later(365 * 86_400), 60)
    assert folder.lease.last(NOW) == ("a", False)
    folder.lease.acquire("a", later(30), 60)
    assert folder.lease.last(NOW) == ("a", True), "clocks that are apart by less than the skew agree"


def test_a_lease_that_was_prolonged_a_moment_ago_is_not_written_again(
    folder: ModelFolder, tmp_path: Path
) -> None:
    folder.lease.acquire("a", NOW, 60)
    (file,) = (tmp_path / "m/leases").glob("*.json")
    before = file.stat().st_mtime_ns, file.stat().st_ino
    folder.lease.renew("a", later(5), 60)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    folder.lease.renew("a", later(7), 60)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) != before
    assert folder.lease.last(later(66)) == ("a", True)


def test_a_lease_names_the_process_that_is_at_work(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step may run in another process, on another worker."""
    folder.lease.acquire("a", NOW, 60)
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    folder.lease.renew("a", later(1), 60)
    assert ":4711)" in folder.lease.refusal().message


def test_a_lease_that_is_to_end_now_ends(folder: ModelFolder) -> None:
    folder.lease.acquire("a", NOW, 60)
    folder.lease.renew("a", NOW, 0)
    assert folder.lease.last(NOW) == ("a", False)


def test_a_lease_that_is_lost_while_it_is_prolonged_is_lost(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.lease.acquire("a", NOW, 60)
    write = durable.replace_file

    def stopped(path: Path, text: str) -> None:
        monkeypatch.setattr(durable, "replace_file", write)
        folder.lease.release("a")
        folder.lease.acquire("b", later(61), 60)
        write(path, text)

    monkeypatch.setattr(durable, "replace_file", stopped)
    with pytest.raises(Superseded, match="to b"):
        folder.lease.renew("a", later(61), 60)
    assert folder.lease.last(later(61)) == ("b", True)


def test_a_lease_that_was_given_back_is_free(folder: ModelFolder) -> None:
    folder.lease.acquire("a", NOW, 60)
    folder.lease.release("b")
    assert folder.lease.last(NOW) == ("a", True)
    folder.lease.release("a")
    assert folder.lease.last(NOW) == (None, False)
    folder.lease.acquire("b", NOW, 60)


def test_of_many_that_want_a_free_lease_one_gets_it(folder: ModelFolder) -> None:
    folder.lease.acquire("old", NOW, 1)
    folder.lease.release("old")

    def want(name: str) -> bool:
        try:
            folder.lease.acquire(name, later(10), 60)
        except LeaseHeld:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(want, [f"d{n}" for n in range(20)])).count(True) == 1


# Journal


def test_facts_are_added_and_read_back(folder: ModelFolder) -> None:
    folder.journal.append(RECORD, None)
    second = advance(RECORD, State.MATERIALIZED, NOW, digest="x")
    folder.journal.append(second, RECORD)
    assert folder.journal.get("d1") == second
    assert [record.deploy_id for record in folder.journal.all()] == ["d1"]


def test_a_fact_on_top_of_an_outdated_one_is_refused(folder: ModelFolder) -> None:
    folder.journal.append(RECORD, None)
    failure = Failure(step="load", kind="crashed", error="Ended.", at_utc=utc_text(NOW))
    rolling_back = advance(RECORD, State.ROLLING_BACK, NOW, failure=failure)
    folder.journal.append(rolling_back, RECORD)
    with pytest.raises(Superseded, match="rolling_back"):
        folder.journal.append(advance(RECORD, State.MATERIALIZED, NOW), RECORD)
    assert folder.journal.get("d1") == rolling_back


def test_of_many_facts_at_once_one_is_taken(folder: ModelFolder) -> None:
    folder.journal.append(RECORD, None)

    def add(n: int) -> bool:
        try:
            folder.journal.append(advance(RECORD, State.MATERIALIZED, NOW, digest=str(n)), RECORD)
        except Superseded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(add, range(32)))
    assert won.count(True) == 1
    assert folder.journal.get("d1").digest == str(won.index(True))


def test_an_unknown_deployment_is_not_found(folder: ModelFolder) -> None:
    assert folder.journal.find("never") is None
    with pytest.raises(NotFound, match="never"):
        folder.journal.get("never")


def test_a_record_that_cannot_be_read_is_named(folder: ModelFolder, tmp_path: Path) -> None:
    folder.journal.append(RECORD, None)
    path = tmp_path / "m/deployments/d1/0001.json"
    path.write_text("{")
    with pytest.raises(StorageFailed, match=r"0001\.json"):
        folder.journal.find("d1")


def test_what_is_not_a_deployments_is_in_nobodys_way(folder: ModelFolder, tmp_path: Path) -> None:
    folder.journal.append(RECORD, None)
    (tmp_path / "m/deployments/.DS_Store").write_text("")
    (tmp_path / "m/deployments/a copy of d1").mkdir()
    assert [record.deploy_id for record in folder.journal.all()] == ["d1"]


# Versions


def test_a_rollback_that_wakes_up_late_leaves_alone_what_another_deployment_brought(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped after it had read whose the version is; another process did its work, and a new deploy came."""
    failure = Failure(step="smoke", kind="verification_failed", error="Wrong.", at_utc="2026-01-02T03:04:05Z")

    def install(deploy_id: str) -> Manifest:
        manifest = Manifest(
            version=RECORD.version,
            digest="",
            fingerprint="",
            artifact_uri="",
            run_id="",
            deploy_id=deploy_id,
            files=(),
            schema={"inputs": [], "outputs": []},
        )
        folder.staging.prepare(deploy_id)
        folder.staging.install(deploy_id, manifest)
        return manifest

    mine = install("d1")
    kept = folder.quarantine.add(RECORD, failure, NOW)
    install("d2")
    monkeypatch.setattr(Versions, "manifest", lambda self, version: mine)
    with pytest.raises(StorageFailed):
        folder.quarantine.add(RECORD, failure, NOW)
    monkeypatch.undo()
    assert folder.versions.require(RECORD.version).deploy_id == "d2"
    assert list(folder.quarantine.contents().items()) == [(kept.name if kept else "", "d1")]


# Releases


def test_a_generation_is_committed_once(folder: ModelFolder) -> None:
    folder.releases.publish(LIVE)
    folder.releases.publish(LIVE)
    with pytest.raises(Superseded, match="d0"):
        folder.releases.publish(replace(LIVE, deploy_id="other"))
    assert folder.releases.latest() == LIVE
    assert folder.releases.of_deployment("d0", 1) == LIVE
    assert folder.releases.of_deployment("other", 1) is None


def test_of_many_that_commit_a_generation_one_does(folder: ModelFolder) -> None:
    def commit(n: int) -> bool:
        try:
            folder.releases.publish(replace(LIVE, deploy_id=f"d{n}"))
        except Superseded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(commit, range(20)))
    assert won.count(True) == 1
    latest = folder.releases.latest()
    assert latest is not None
    assert latest.deploy_id == f"d{won.index(True)}"


def test_history_is_newest_first(folder: ModelFolder) -> None:
    for generation in (1, 2, 10):
        folder.releases.publish(replace(LIVE, generation=generation))
    assert [release.generation for release in folder.releases.history()] == [10, 2, 1]


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(None, id="is missing"),
        pytest.param("{", id="is torn"),
        pytest.param(1, id="is of a release before"),
        pytest.param(3, id="is of the last one"),
        pytest.param(7, id="is of one that does not exist"),
        pytest.param("3", id="has a generation that is no number"),
    ],
)
def test_what_is_live_is_the_last_release_whatever_current_json_says(
    folder: ModelFolder, tmp_path: Path, says: int | str | None
) -> None:
    for generation in (1, 2, 3):
        folder.releases.publish(replace(LIVE, generation=generation))
    if says == "{":
        (tmp_path / "m/current.json").write_text("{")
    elif says is not None:
        folder.releases.project(replace(LIVE, generation=says))  # type: ignore[arg-type]
    latest = folder.releases.latest()
    assert latest is not None
    assert latest.generation == 3


def test_to_say_what_is_live_and_was_before_no_directory_of_many_releases_is_listed(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for generation in (1, 2, 3):
        folder.releases.publish(replace(LIVE, generation=generation))
    folder.releases.project(replace(LIVE, generation=3))
    monkeypatch.delattr(os, "listdir")
    latest = folder.releases.latest()
    assert latest is not None
    assert latest.generation == 3
    assert [release.generation for release in folder.releases.history()] == [3, 2, 1]
    # Committed, and its projection is not written yet.
    folder.releases.publish(replace(LIVE, generation=4))
    assert [release.generation for release in folder.releases.history()] == [4, 3, 2, 1]
    assert folder.releases.of_deployment(LIVE.deploy_id, 3) is not None
    assert folder.releases.of_deployment("other", 2) is None


def test_an_equal_projection_touches_no_file(folder: ModelFolder, tmp_path: Path) -> None:
    folder.releases.publish(LIVE)
    folder.releases.project(LIVE)
    before = (tmp_path / "m/current.json").stat()
    folder.releases.project(LIVE)
    assert (tmp_path / "m/current.json").stat() == before


def test_models_are_those_that_were_deployed_to(tmp_path: Path) -> None:
    ModelFolder.at(tmp_path, "m").journal.append(RECORD, None)
    (tmp_path / "m.v3").mkdir()
    assert models_in(tmp_path) == ["m"]
