"""MLflow shows what serves: never at the price of a deploy, and put right by reconcile when it could not be told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import ArtifactRejected, DeployError, Misconfigured
from ml_code.triton_deploy.report.mlflow_tags import HISTORY, MlflowTags
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.identity import Origin
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.standing import (
    ALIAS_DRIFT,
    NOT_TOLD,
    Change,
    FailedVersion,
    Registered,
    Standing,
    changes,
    drift,
    standings,
)
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.fakes import FakeBoard, unavailable
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.world import MODEL, World


def release(generation: int, version: int, *warm: int, alias: str = "A") -> Release:
    return Release(
        model=MODEL,
        generation=generation,
        active_version=version,
        run_id=f"run{version}",
        alias=alias,
        digest="",
        previous_version=None,
        warm_versions=warm,
        deploy_id=f"d{generation}",
        actor="test",
        updated_at_utc=f"2026-01-{generation:02d}T00:00:00.000Z",
    )


def run(version: int) -> Origin:
    return Origin(run_id=f"run{version}")


def shown(version: int, **tags: str) -> Registered:
    return Registered(
        version=version,
        origin=run(version),
        tags={key.replace("__", "."): value for key, value in tags.items()},
    )


# Rules


def test_versions_stand_as_the_releases_say() -> None:
    found = standings([release(4, 7, 6), release(3, 6, 5), release(2, 5), release(1, 6)], [])
    assert found == {
        7: Standing(status="live", time_utc="2026-01-04T00:00:00.000Z", generation=4, origin=run(7)),
        6: Standing(status="warm", time_utc="2026-01-04T00:00:00.000Z", generation=3, origin=run(6)),
        5: Standing(status="retired", time_utc="2026-01-03T00:00:00.000Z", generation=2, origin=run(5)),
    }


def test_a_failure_counts_until_the_version_serves() -> None:
    early, late = "2026-01-01T12:00:00.000Z", "2026-01-09T00:00:00.000Z"
    failed = [FailedVersion(version, "smoke: wrong", late) for version in (9, 7, 5)]
    found = standings([release(3, 7), release(2, 5)], [*failed, FailedVersion(5, "smoke: early", early)])
    assert found[9] == Standing(status="failed", time_utc=late, reason="smoke: wrong")
    assert found[7].status == "live", "it serves, whatever a second deploy of it came to"
    assert found[5] == Standing(
        status="failed", time_utc=late, generation=2, reason="smoke: wrong", origin=run(5)
    )
    again = standings([release(2, 5), release(1, 4)], [FailedVersion(4, "smoke: wrong", early)])
    assert again[4].status == "retired", "it failed before it served"


def test_only_what_differs_is_changed() -> None:
    wanted = {2: Standing(status="live", time_utc="t", generation=4)}
    tags: dict[int, dict[str, str]] = {
        1: {"triton__status": "live", "triton__generation": "3"},
        2: {
            "triton__status": "failed",
            "triton__reason": "smoke",
            "triton__time_utc": "t",
            "mine": "kept",
        },
        3: {"triton__status": "failed", "triton__reason": "before the history"},
        4: {"other__status": "live"},
    }
    there = {version: shown(version, **tags[version]) for version in tags}
    assert changes(wanted, there, "triton") == [
        Change(1, "triton.status", "retired"),
        Change(2, "triton.status", "live"),
        Change(2, "triton.generation", "4"),
        Change(2, "triton.reason", None),
    ]
    assert changes(wanted, {}, "triton") == [], "MLflow does not know these versions"


def test_a_long_reason_is_cut() -> None:
    assert len(Standing(status="failed", time_utc="t", reason="x" * 10_000).tags()["reason"]) == 500


def test_drift_is_an_alias_that_means_something_else_than_serves() -> None:
    live = release(3, 7)
    assert drift(live, shown(7), [FailedVersion(7, "x", "")], run(7)) == ""
    assert drift(None, shown(9)) == ""
    assert drift(replace(live, alias=""), None) == ""
    moved = drift(live, shown(9), [FailedVersion(8, "x", "")])
    assert "Alias A of best_model names version 9" in moved
    assert "version 7 serves" in moved
    assert "triton-deploy deploy best_model --alias A" in moved
    assert "is not set in MLflow any more" in drift(live, None)


def test_nobody_is_told_to_deploy_a_version_that_would_be_refused() -> None:
    assert drift(
        release(3, 7), shown(9), [FailedVersion(9, "smoke: The candidate answers wrongly.", "")]
    ) == (
        "Alias A of best_model names version 9 in MLflow, and version 7 serves. Version 9 failed (smoke: The candidate answers "
        "wrongly) and is in quarantine. Set the alias back to version 7, or register a repaired version and set it to that."
    )


@pytest.mark.parametrize(
    ("failed", "named"),
    [
        (Origin(run_id="r", digest="d"), Origin(run_id="q", digest="d")),
        (Origin(run_id="r", place="models:/m-1"), Origin(run_id="r", place="s3://b/1/models/m-1/artifacts")),
        (Origin(run_id="r", place="s3://b/1/r/artifacts/x"), Origin(run_id="r", place="runs:/r/x")),
    ],
)
def test_nobody_is_told_to_deploy_files_that_failed_under_another_number(
    failed: Origin, named: Origin
) -> None:
    said = drift(
        release(3, 7),
        Registered(version=9, origin=named),
        [FailedVersion(8, "smoke: It answers wrongly.", "", failed)],
    )
    assert (
        "It has the files of version 8. Version 8 failed (smoke: It answers wrongly) and is in quarantine"
        in said
    )
    assert "triton-deploy deploy" not in said


@pytest.mark.parametrize("digest", ["d", "e"])
def test_a_version_made_anew_is_not_to_be_deployed_with_files_that_failed(digest: str) -> None:
    """Its number is another's, whose files it may have."""
    said = drift(
        release(3, 7),
        Registered(version=7, origin=Origin(run_id="new", digest=digest)),
        [FailedVersion(5, "smoke: x", "", Origin(run_id="old", digest="d"))],
        Origin(run_id="r", digest="c"),
    )
    assert "the model was deleted in MLflow and made anew" in said
    assert ("is in quarantine" in said) is (digest == "d")
    assert ("renumber" in said) is (digest == "e")


def test_an_alias_that_is_not_set_is_not_to_be_deployed() -> None:
    said = drift(release(3, 7), None)
    assert "triton-deploy deploy" not in said
    assert "Set it to version 7 again" in said


# Through the library


class Told(World):
    """A world with a registry that shows something."""

    board: FakeBoard

    def feedback(self, **changes: object) -> MlflowTags:
        return MlflowTags(changed(self.settings, **changes), lambda: self.board)  # type: ignore[arg-type]

    def tags(self, version: int) -> dict[str, str]:
        return {
            key.removeprefix("triton."): value for key, value in self.board.shelves[MODEL][version].items()
        }

    def reconcile(self, dry_run: bool = False, **changes: object) -> Reconciled:
        settings = changed(self.settings, **changes)  # type: ignore[arg-type]
        feedback = MlflowTags(settings, lambda: self.board)
        reconciler = Reconciler(settings, tritons=[self.triton], clock=lambda: self.now, feedback=feedback)
        return reconciler.run(MODEL, dry_run=dry_run)


@pytest.fixture
def told(world: World) -> Told:
    told = Told(**vars(world))
    told.settings = changed(told.settings, mlflow__feedback_timeout_s=60)
    told.board = FakeBoard()
    told.board.shelves[MODEL] = {version: {} for version in (1, 2, 3)}
    told.deployer = lambda **changes: World.deployer(told, feedback=told.feedback(), **changes)  # type: ignore[method-assign]
    for version in (1, 2):
        told.register_times(version)
        told.deploy(f"d{version}")
        told.later(60)
    told.board.pointing[MODEL] = {"A": 2}
    return told


def test_mlflow_shows_what_serves_after_each_deploy_and_revert(told: Told) -> None:
    assert told.tags(2) == {"status": "live", "generation": "2", "time_utc": "2026-01-02T03:05:05.000Z"}
    assert told.tags(1) == {"status": "warm", "generation": "1", "time_utc": "2026-01-02T03:05:05.000Z"}
    assert told.tags(3) == {}
    told.deployer().revert(RevertRequest(model=MODEL, deploy_id="back", actor="test"))
    assert (told.tags(1)["status"], told.tags(1)["generation"]) == ("live", "3")
    assert told.tags(2)["status"] == "warm"


def test_mlflow_shows_why_a_version_failed_and_forgets_it_when_it_serves(told: Told) -> None:
    told.register_times(3, expected=9.0)
    with pytest.raises(DeployError):
        told.deploy("d3")
    assert told.tags(3)["status"] == "failed"
    assert told.tags(3)["reason"].startswith("smoke: ")
    assert told.tags(2)["status"] == "live"
    told.later(60)
    told.register(3, files(times(3.0), triton__golden_json=golden(3.0)), uri="fake://artifacts/3-repaired")
    told.deploy("d3-again", force=True)
    assert told.tags(3) == {"status": "live", "generation": "3", "time_utc": told.tags(3)["time_utc"]}


@pytest.mark.parametrize(
    "error", [unavailable(), Misconfigured("MLflow is another.", hint="x"), RuntimeError("a defect")]
)
def test_an_mlflow_that_cant_be_told_fails_neither_deploy_nor_rollback(
    told: Told, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    told.board.fail = error
    told.register_times(3)
    told.triton.fail["load best_model.v3"] = ArtifactRejected("broken", hint="x")
    with pytest.raises(ArtifactRejected):
        told.deploy("d3")
    assert told.folder.journal.get("d3").state is State.ROLLED_BACK
    assert "MLflow does not show yet how deployment d3 ended" in caplog.text
    del told.triton.fail["load best_model.v3"]
    assert told.deploy("d3-again", force=True).state is State.COMMITTED
    assert told.ask() == (3, 3.0)


@pytest.fixture
def hanging(told: Told) -> Iterator[threading.Event]:
    """An MLflow that answers nothing until the event is set."""
    released = threading.Event()
    told.board.versions = lambda model: released.wait(60) and {}  # type: ignore[method-assign,assignment,return-value]
    told.board.named = lambda model, alias: released.wait(60) and None  # type: ignore[method-assign,assignment,return-value]
    yield released
    released.set()


def test_an_mlflow_that_hangs_holds_nothing_up(told: Told, hanging: threading.Event) -> None:
    told.settings = changed(told.settings, mlflow__feedback_timeout_s=0.2)
    told.register_times(3)
    started = time.monotonic()
    assert told.deploy("d3").state is State.COMMITTED
    assert told.folder.lease.last(told.now) == (None, False), "others are not kept waiting either"
    found = told.reconcile()
    assert time.monotonic() - started < 30
    assert (found.problems, found.done) == ((), ())
    assert [notice.kind for notice in found.notices] == [NOT_TOLD]


def test_mlflow_is_told_when_nothing_else_remains_to_be_done(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[State, tuple[str | None, bool]]] = []
    real = FakeBoard.versions

    def versions(board: FakeBoard, model: str) -> dict[int, Registered]:
        (last,) = [record for record in told.folder.journal.all() if record.version == 3]
        seen.append((last.state, told.folder.lease.last(told.now)))
        return real(board, model)

    monkeypatch.setattr(FakeBoard, "versions", versions)
    told.register_times(3)
    told.deploy("d3")
    assert seen == [(State.COMMITTED, (None, False))]


def test_a_deploy_that_is_stopped_while_mlflow_is_told_stays_committed(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(seconds: float, doing: str, action: object) -> None:
        raise KeyboardInterrupt

    told.register_times(3)
    monkeypatch.setattr("ml_code.triton_deploy.report.mlflow_tags.within", stopped)
    with pytest.raises(KeyboardInterrupt):
        told.deploy("d3")
    assert told.folder.journal.get("d3").state is State.COMMITTED
    assert told.folder.lease.last(told.now) == (None, False)
    assert told.ask() == (3, 3.0)


def test_reconcile_tells_what_could_not_be_told(told: Told) -> None:
    told.board.fail = unavailable()
    told.register_times(3)
    told.deploy("d3")
    away = told.reconcile()
    assert (away.done, away.problems) == ((), ())
    assert [notice.kind for notice in away.notices] == [NOT_TOLD]
    assert "The fake does not answer" in away.notices[0].text
    told.board.fail = None
    told.board.pointing[MODEL]["A"] = 3
    planned = told.reconcile(dry_run=True)
    assert told.tags(2)["status"] == "live", "nothing is changed by a plan"
    done = told.reconcile()
    assert done.done == planned.done
    assert set(done.done) == {
        "tell MLflow that version 3 is live",
        "tell MLflow that version 2 is warm",
        "tell MLflow that version 1 is retired",
    }
    assert [told.tags(version)["status"] for version in (1, 2, 3)] == ["retired", "warm", "live"]
    told.board.written.clear()
    assert told.reconcile() == replace(done, done=())
    assert told.board.written == []


def test_reconcile_repairs_a_tag_that_somebody_changed(told: Told) -> None:
    told.board.shelves[MODEL][1]["triton.status"] = "live"
    told.board.written.clear()
    assert told.reconcile().done == ("tell MLflow that version 1 is warm",)
    assert told.board.written == [(1, "triton.status", "warm")]


def test_a_server_that_is_away_is_asked_once_for_all_models(told: Told) -> None:
    feedback, asked = told.feedback(), []
    told.board.versions = lambda model: asked.append(model) or told.board._answer() or {}  # type: ignore[method-assign,func-returns-value]
    told.board.fail = unavailable()
    for _ in range(3):
        _, notices = feedback.settle(told.folder, dry_run=False)
        assert [notice.kind for notice in notices] == [NOT_TOLD]
    assert asked == [MODEL]


def test_feedback_that_is_off_tells_nothing_and_still_sees_drift(told: Told) -> None:
    told.board.written.clear()
    told.board.shelves[MODEL][1].clear()
    told.board.pointing[MODEL]["A"] = 3
    found = told.reconcile(mlflow__feedback_prefix="off")
    assert told.board.written == []
    assert [notice.kind for notice in found.notices] == [ALIAS_DRIFT]


def test_two_environments_on_one_mlflow_have_their_own_tags(told: Told) -> None:
    told.reconcile(mlflow__feedback_prefix="staging")
    assert told.board.shelves[MODEL][2]["staging.status"] == "live"
    assert told.tags(2)["status"] == "live"


def test_an_alias_that_moved_on_is_a_notice_and_a_problem_when_told_so(told: Told) -> None:
    told.board.pointing[MODEL]["A"] = 3
    found = told.reconcile()
    assert found.problems == ()
    assert [notice.kind for notice in found.notices] == [ALIAS_DRIFT]
    assert "names version 3" in found.notices[0].text
    strict = told.reconcile(mlflow__alias_drift="problem")
    assert strict.notices == ()
    assert strict.problems == (found.notices[0].text,)


def test_an_alias_on_a_version_that_failed_is_not_to_be_deployed_again(told: Told) -> None:
    told.register_times(3, expected=9.0)
    with pytest.raises(DeployError):
        told.deploy("d3")
    told.board.pointing[MODEL]["A"] = 3
    (notice,) = told.reconcile().notices
    assert "Version 3 failed (smoke: " in notice.text
    assert "triton-deploy deploy" not in notice.text


def test_status_shows_drift_and_is_silent_when_mlflow_is_away(told: Told) -> None:
    settings = changed(told.settings, triton__grpc_urls=("127.0.0.1:1",), triton__switch_timeout_s=0.5)
    told.board.pointing[MODEL]["A"] = 3
    (notice,) = model_status(settings, MODEL, told.feedback()).notices
    assert notice.kind == ALIAS_DRIFT
    told.board.fail = unavailable()
    assert model_status(settings, MODEL, told.feedback()).notices == ()


def test_without_an_mlflow_nothing_is_asked_and_nothing_said(world: World) -> None:
    world.register_times(1)
    world.deploy()
    assert MlflowTags(world.settings).settle(world.folder, dry_run=False) == ([], [])
    assert MlflowTags(world.settings).drift(world.folder) == ()


def test_a_long_history_is_not_read_at_every_reconcile(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def history(self: object) -> Iterator[Release]:
        for generation in range(1000, 0, -1):
            read.append(generation)
            yield replace(release(1, 2, 1), generation=generation)

    monkeypatch.setattr(type(told.folder.releases), "history", history)
    told.feedback().settle(told.folder, dry_run=True)
    assert len(read) == HISTORY


@pytest.mark.parametrize(
    "environ", [{"TRITON_DEPLOY_ALIAS_DRIFT": "loud"}, {"TRITON_DEPLOY_MLFLOW_FEEDBACK": "a b"}]
)
def test_a_setting_of_the_feedback_that_cant_be_meant_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(Misconfigured, match=next(iter(environ))):
        Settings.from_env(environ)


def test_an_mlflow_that_is_not_there_is_a_notice(world: World) -> None:
    settings = changed(
        world.settings, mlflow__tracking_uri="http://127.0.0.1:1", mlflow__feedback_timeout_s=60
    )
    world.register_times(1)
    world.deploy()
    told, notices = MlflowTags(settings).settle(world.folder, dry_run=False)
    assert told == []
    assert [notice.kind for notice in notices] == [NOT_TOLD]
    assert "http://127.0.0.1:1" in notices[0].text
