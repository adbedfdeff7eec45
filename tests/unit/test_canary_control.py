"""A canary that waits: for requests, for a measurement, for a person; and what a person says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.deploy import canary_decisions
from ml_code.triton_deploy.deploy.canary_control import CanaryControl
from ml_code.triton_deploy.errors import (
    AnswersDiffer,
    CanaryAborted,
    CanaryUndecided,
    DeployError,
    EndedTriton,
    InvalidInput,
    NotFound,
    Superseded,
    VerificationFailed,
)
from ml_code.triton_deploy.rules.canary import Decision, longest_s
from ml_code.triton_deploy.rules.canary_course import PATIENCE, CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Watched, nobody
from ml_code.triton_deploy.rules.canary_floor import ANSWERED, CANARY
from ml_code.triton_deploy.rules.deployment import Deployment, State
from tests.support.canaries import Scene
from tests.support.world import MODEL, World


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def always(verdict: CanaryVerdict) -> Callable[[Watched], CanaryVerdict]:
    return lambda watched: verdict


def rolled_back(scene: Scene, error: type[DeployError], *, blamed: bool) -> Deployment:
    """Roll the deploy back as the command does; returns its record."""
    scene.deployer().rollback(MODEL, "d2")
    record = scene.record
    assert record.failure is not None
    assert (record.state, record.failure.kind) == (State.ROLLED_BACK, error.kind)
    assert record.failure.blames_artifact is blamed
    assert scene.share == 0
    assert scene.world.ask() == (1, 1.0)
    return record


# It waits for requests, and for a measurement


def test_a_step_that_saw_too_few_requests_goes_on_until_it_has_them(scene: Scene) -> None:
    scene.verdict = lambda watched: CanaryVerdict.PASS if watched.seconds > 600 else CanaryVerdict.NO_DATA
    deployer = scene.until_canary("5")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 300)
    assert scene.share == 5, "it keeps its step's share"
    assert scene.canary.held_for == "too few requests: so the test says"
    assert scene.pass_by(deployer, 600) is None
    assert scene.record.state is State.TRIED
    assert (scene.canary.held_utc, scene.canary.unjudged) == ("", ())


@pytest.mark.parametrize("no_data", ["hold", "roll_back"])
def test_without_requests_it_is_rolled_back_in_the_end_and_nobody_is_blamed(
    scene: Scene, caplog: pytest.LogCaptureFixture, no_data: str
) -> None:
    scene.set(canary__no_data=no_data, canary__hold_minutes=5.0)
    scene.verdict = always(CanaryVerdict.NO_DATA)
    with pytest.raises(
        CanaryUndecided,
        match=r"5 % answered by the candidate: too few requests: .*; nobody decided within 5 minutes",
    ):
        scene.deploy("5,50")
    assert {share for share, _ in scene.seen} == {5}
    assert max(watched.seconds for watched in scene.watched) == pytest.approx(120 + 300, abs=15)
    assert caplog.text.count("it waits until 2026-01-02T03:11:05.000Z at most, because too few requests") == 1
    rolled_back(scene, CanaryUndecided, blamed=False)
    scene.verdict = always(CanaryVerdict.PASS)
    assert scene.deployer().deploy(scene.world.request("d3")).state is State.COMMITTED, "no force is needed"


def test_pass_goes_on_in_the_end_and_says_so(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.set(canary__no_data="pass", canary__hold_minutes=5.0)
    scene.verdict = always(CanaryVerdict.NO_DATA)
    assert scene.deploy("5").state is State.COMMITTED
    said = "TRITON_DEPLOY_CANARY_NO_DATA is pass: too few requests: so the test says"
    assert scene.canary.unjudged == (f"5 % answered by the candidate: {said}",)
    assert f"it was not judged: {said}" in caplog.text


def test_while_nothing_measures_no_client_gets_it(scene: Scene) -> None:
    scene.verdict = always(CanaryVerdict.UNMEASURED)
    deployer = scene.until_canary("50")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 15 * (PATIENCE - 1))
    assert scene.share == 50, "a scrape may be late"
    scene.pass_by(deployer, 15)
    assert scene.share == 0
    exposed = scene.exposure
    assert exposed is not None, "testers may still have it"
    assert exposed.is_for(scene.canary.key.encode())
    scene.pass_by(deployer, 600)
    assert scene.record.state is State.VERIFIED
    scene.verdict = always(CanaryVerdict.PASS)
    scene.pass_by(deployer, 15)
    assert scene.share == 50, "the step begins anew"
    assert scene.canary.held_utc == ""
    scene.pass_by(deployer, 105)
    assert scene.record.state is State.VERIFIED
    assert scene.pass_by(deployer, 15) is None


@pytest.mark.parametrize(
    ("no_data", "longest_s"), [("hold", 15 * PATIENCE + 300), ("roll_back", 15 * PATIENCE)]
)
def test_what_nothing_measures_is_rolled_back_and_not_blamed(
    scene: Scene, no_data: str, longest_s: float
) -> None:
    """As with a Prometheus that is away, or a triggerer that does not know it."""
    scene.set(canary__no_data=no_data, canary__hold_minutes=5.0)
    deployer = scene.deployer(nobody)
    began = scene.world.now
    scene.until_canary("50")
    with pytest.raises(CanaryUndecided, match="nothing measures: TRITON_DEPLOY_PROMETHEUS_URL is not set"):
        deployer.canary(MODEL, "d2")
    assert (scene.world.now - began).total_seconds() == longest_s
    rolled_back(scene, CanaryUndecided, blamed=False)


def test_a_gateway_that_can_be_asked_itself_keeps_the_share(scene: Scene) -> None:
    scene.counts = {"http://g:1": {f"{ANSWERED}/ok": 5.0}}
    scene.verdict = always(CanaryVerdict.UNMEASURED)
    deployer = scene.until_canary("50")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 300)
    assert scene.share == 50
    assert scene.canary.held_utc


def test_no_canary_takes_longer_than_any_may(scene: Scene) -> None:
    """One whose measurement comes and goes begins its step again and again."""
    scene.set(canary__hold_minutes=1.0)
    deployer = scene.until_canary("50")
    deployer.look_at_canary(MODEL, "d2")
    scene.world.later(longest_s(60))
    deployer.look_at_canary(MODEL, "d2")
    scene.verdict = always(CanaryVerdict.UNMEASURED)
    with pytest.raises(CanaryUndecided, match="takes longer than any may"):
        scene.pass_by(deployer, 60)


# The floor


def test_what_gateways_count_stops_a_candidate_that_prometheus_does_not_see(scene: Scene) -> None:
    scene.counts = {"http://g:1": {f"{CANARY}/failed": 100.0, f"{ANSWERED}/ok": 1000.0}}
    scene.verdict = always(CanaryVerdict.UNMEASURED)
    deployer = scene.until_canary("50")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 30)
    scene.counts["http://g:1"][f"{CANARY}/failed"] += 20
    scene.pass_by(deployer, 15)
    scene.counts["http://g:1"][f"{CANARY}/failed"] += 20
    with pytest.raises(VerificationFailed, match="40 of 40 requests that failed on the candidate alone"):
        scene.pass_by(deployer, 15)
    rolled_back(scene, VerificationFailed, blamed=True)


def test_a_gateways_old_counts_stop_nobody(scene: Scene) -> None:
    """The same version may have been a candidate before."""
    scene.counts = {"http://g:1": {f"{CANARY}/failed": 500.0, f"{CANARY}/ended": 1.0}}
    assert scene.deploy("50").state is State.COMMITTED


def test_one_end_that_a_gateway_counts_is_enough_without_prometheus(scene: Scene) -> None:
    scene.counts = {"http://g:1": {f"{CANARY}/ended": 1.0}}
    scene.verdict = always(CanaryVerdict.UNMEASURED)
    deployer = scene.until_canary("50")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 15)
    scene.counts["http://g:1"][f"{CANARY}/ended"] += 1
    with pytest.raises(EndedTriton, match="1 connections to it ended"):
        scene.pass_by(deployer, 15)


# Two bad looks are two


def test_the_same_failures_are_not_two_bad_looks(scene: Scene) -> None:
    scene.evidence = 3.0
    scene.verdict = always(CanaryVerdict.FAIL)
    deployer = scene.until_canary("50")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 60)
    assert scene.canary.judgment["bad_looks"] == 1
    scene.evidence = 4.0
    with pytest.raises(VerificationFailed):
        scene.pass_by(deployer, 15)


def test_answers_that_differ_stop_it_and_blame_nobody(scene: Scene) -> None:
    scene.verdict = always(CanaryVerdict.DIFFERS)
    scene.why = "output y: 60 of 60 answers differ (100.0%) beyond the tolerance, the limit is 1.0%"
    with pytest.raises(AnswersDiffer, match="output y: 60 of 60") as told:
        scene.deploy("25", shadow=100)
    assert told.value.exit_code == 4
    assert "TRITON_DEPLOY_SHADOW_MAX_DIFFERENT" in told.value.hint
    assert {share for share, _ in scene.seen} == {0}
    rolled_back(scene, AnswersDiffer, blamed=False)


# What a person says


def test_a_pause_holds_the_step_and_a_resume_lets_it_go_on(scene: Scene) -> None:
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    scene.say(Decision.PAUSE, "a customer asks")
    scene.pass_by(deployer, 600)
    assert scene.share == 5
    assert scene.canary.held_for == "me@here (a customer asks) paused it"
    scene.say(Decision.RESUME)
    assert not scene.canary.held_utc, "it waits for nobody"
    scene.pass_by(deployer, 15)
    assert scene.share == 50


def test_a_paused_candidate_is_watched_on(scene: Scene) -> None:
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    scene.say(Decision.PAUSE)
    scene.verdict = always(CanaryVerdict.FAIL)
    with pytest.raises(VerificationFailed):
        scene.pass_by(deployer, 60)


def test_a_promote_ends_the_step_and_the_last_one_is_committed(scene: Scene) -> None:
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    scene.say(Decision.PROMOTE)
    scene.pass_by(deployer, 15)
    assert scene.share == 50
    assert scene.canary.told == {}
    scene.pass_by(deployer, 30)
    assert scene.share == 50, "one promote ends one step"
    scene.verdict = always(CanaryVerdict.NO_DATA)
    scene.say(Decision.PROMOTE, "at night nobody asks")
    assert scene.pass_by(deployer, 15) is None
    assert scene.canary.unjudged == (
        "50 % answered by the candidate: me@here (at night nobody asks) promoted it: so the test says",
    )
    assert deployer.commit(MODEL, "d2").state is State.COMMITTED


def test_a_promote_is_not_for_the_step_that_begins_in_this_moment(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 105)
    control = CanaryControl(scene.world.settings, MODEL, lambda: scene.world.now)
    look = control.under_way

    def looks_too_early(deploy_id: str = "") -> Deployment:
        record = look(deploy_id)
        scene.pass_by(deployer, 15)
        return record

    monkeypatch.setattr(control, "under_way", looks_too_early)
    with pytest.raises(Superseded, match="has ended by itself in this moment"):
        control.decide(Decision.PROMOTE, by="me@here")
    assert (scene.canary.step, scene.canary.told) == (2, {})


def test_a_promote_does_not_carry_a_bad_candidate(scene: Scene) -> None:
    scene.verdict = always(CanaryVerdict.FAIL)
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    scene.say(Decision.PROMOTE)
    with pytest.raises(VerificationFailed):
        scene.pass_by(deployer, 15)


def test_an_abort_takes_the_share_away_at_once_also_when_nobody_watches(scene: Scene) -> None:
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    assert scene.share == 5
    scene.say(Decision.ABORT, "wrong model")
    assert scene.exposure is None, "testers have it no more either"
    with pytest.raises(
        CanaryAborted, match=r"me@here \(wrong model\) aborted the canary of version 2"
    ) as told:
        scene.pass_by(deployer, 15)
    assert told.value.exit_code == 6
    rolled_back(scene, CanaryAborted, blamed=False)


@pytest.mark.parametrize("what", [Decision.PAUSE, Decision.PROMOTE, Decision.ABORT])
def test_nothing_is_said_of_a_canary_that_earlier_code_watches(scene: Scene, what: Decision) -> None:
    """It does not know what a person says: after an abort it would find no data, and commit."""
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    record = scene.record
    scene.world.folder.journal.append(replace(record, canary=replace(scene.canary, key="")), record)
    with pytest.raises(InvalidInput, match="An earlier release of this software watches") as told:
        scene.say(what)
    assert "triton-deploy rollback best_model --deploy-id d2" in told.value.hint
    assert scene.share == 5


def test_a_step_that_waits_for_a_person_does_so_with_its_share(scene: Scene) -> None:
    deployer = scene.until_canary("5,pause,50")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 900)
    assert scene.share == 5
    assert scene.canary.held_for == "a person has to end this step"
    scene.say(Decision.PROMOTE)
    scene.pass_by(deployer, 15)
    assert scene.share == 50
    assert scene.canary.unjudged == ()


def test_testers_have_it_before_any_client(scene: Scene) -> None:
    scene.verdict = always(CanaryVerdict.NO_DATA)
    deployer = scene.until_canary("pause,5")
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 300)
    exposed = scene.exposure
    assert exposed is not None
    assert (exposed.share_percent, exposed.mirrored_percent) == (0, 0)
    assert exposed.is_for(scene.canary.key.encode())
    assert not exposed.is_for(b"d2")
    assert not exposed.is_for(b"")
    scene.say(Decision.PROMOTE)
    scene.pass_by(deployer, 15)
    assert scene.share == 5
    assert scene.canary.unjudged == ()


def test_nobody_comes(scene: Scene) -> None:
    scene.set(canary__hold_minutes=5.0)
    with pytest.raises(CanaryUndecided, match="a person has to end this step"):
        scene.deploy("5,pause")
    rolled_back(scene, CanaryUndecided, blamed=False)


def test_what_is_said_in_the_moment_of_a_look_is_not_lost_and_fails_nobody(scene: Scene) -> None:
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")

    def judged(watched: Watched) -> CanaryVerdict:
        if len(scene.watched) == 1:
            scene.say(Decision.PAUSE)
        return CanaryVerdict.FAIL

    scene.verdict = judged
    scene.world.later(15)
    pause_s = deployer.look_at_canary(MODEL, "d2")
    assert pause_s is not None
    assert pause_s < 1
    assert scene.record.failure is None
    assert scene.canary.told["what"] == "pause"
    with pytest.raises(VerificationFailed):
        scene.pass_by(deployer, 30)


def test_a_watch_that_comes_first_does_not_lose_what_is_said(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    control = CanaryControl(scene.world.settings, MODEL, lambda: scene.world.now)
    append, late = type(scene.world.folder.journal).append, [True]

    def second(journal: object, record: Deployment, after: Deployment | None) -> Deployment:
        if late.pop() if late else False:
            scene.world.later(40)
            deployer.look_at_canary(MODEL, "d2")
        return append(journal, record, after)  # type: ignore[arg-type]

    monkeypatch.setattr(type(scene.world.folder.journal), "append", second)
    assert control.decide(Decision.PAUSE, by="me").canary is not None
    monkeypatch.undo()
    assert scene.canary.told["what"] == "pause"
    assert scene.canary.judgment["verdict"] == "pass", "nor what the watch saw"


def test_there_is_nothing_to_say_of_what_is_not_under_way(scene: Scene) -> None:
    with pytest.raises(NotFound, match="No canary of best_model is under way"):
        scene.say(Decision.ABORT)
    deployer = scene.until_canary("5")
    with pytest.raises(InvalidInput, match="has not begun"):
        scene.say(Decision.PROMOTE)
    with pytest.raises(InvalidInput, match="is not paused"):
        scene.say(Decision.RESUME)
    with pytest.raises(NotFound, match="deployment d2, not other"):
        CanaryControl(scene.world.settings, MODEL, lambda: scene.world.now).decide(
            Decision.ABORT, by="me", deploy_id="other"
        )
    deployer.canary(MODEL, "d2")
    with pytest.raises(NotFound, match="triton-deploy rollback best_model --deploy-id d2") as told:
        scene.say(Decision.ABORT)
    assert "is tried" in told.value.message
    deployer.commit(MODEL, "d2")
    with pytest.raises(NotFound):
        scene.say(Decision.PAUSE)


def test_it_is_still_superseded_who_is(scene: Scene) -> None:
    deployer = scene.until_canary("5")
    deployer.look_at_canary(MODEL, "d2")
    scene.say(Decision.PAUSE)
    deployer.rollback(MODEL, "d2")
    with pytest.raises(Superseded):
        deployer.look_at_canary(MODEL, "d2")


def test_a_deploy_that_is_stopped_in_its_canary_says_so(scene: Scene) -> None:
    """Before: that its process was killed, or nobody went on."""

    def stopped(seconds: float) -> None:
        raise KeyboardInterrupt

    scene._sleep = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        scene.deploy("5")
    record = scene.record
    assert record.failure is not None
    assert (record.state, record.failure.error) == (
        State.ROLLED_BACK,
        "Whoever stopped the deploy (Ctrl-C or SIGTERM) rolled it back.",
    )
    assert not record.failure.blames_artifact


def test_a_gap_in_the_watch_is_said_with_its_length(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    deployer = scene.until_canary("5")
    deployer.look_at_canary(MODEL, "d2")
    scene.world.later(140)
    deployer.look_at_canary(MODEL, "d2")
    assert "no process watched the canary for 140 s, so its share had ended" in caplog.text


# What is printed


def command(scene: Scene, *words: str) -> int:
    return cli.main(["canary", *words, MODEL, "--quiet"])


@pytest.fixture
def on_the_command_line(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    from ml_code.triton_deploy.deploy import canary_control

    class Clock:
        @staticmethod
        def now(zone: object) -> object:
            return scene.world.now

    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(scene.world.root))
    monkeypatch.setattr(
        canary_decisions,
        "CanaryControl",
        lambda settings, model: canary_control.CanaryControl(settings, model, lambda: scene.world.now),
    )
    monkeypatch.setattr(canary_decisions, "datetime", Clock)
    return scene


def test_status_says_where_it_stands_and_how_testers_get_it(
    on_the_command_line: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = on_the_command_line
    scene.verdict = always(CanaryVerdict.NO_DATA)
    deployer = scene.until_canary("5,pause,50")
    assert command(scene, "status") == 0
    assert "it has not begun" in capsys.readouterr().out
    deployer.look_at_canary(MODEL, "d2")
    scene.pass_by(deployer, 150)
    assert command(scene, "status") == 0
    held = scene.world.now - timedelta(seconds=30)
    assert capsys.readouterr().out.splitlines() == [
        "best_model: version 2 beside version 1, deployment d2",
        "  step 1 of 2: 5 % answered by the candidate, 2.5 of 2 minutes, then it waits for a person",
        "  judged: no_data: so the test says",
        f"  it waits since {held:%Y-%m-%dT%H:%M:%S}.000Z, until {held + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}.000Z at most: "
        "a person has to end this step",
        f"  testers get it with the header X-Model-Candidate: {scene.canary.key}",
    ]
    assert command(scene, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["canary"]["key"] == scene.canary.key


def test_what_is_said_is_answered_with_what_comes_of_it(
    on_the_command_line: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = on_the_command_line
    deployer = scene.until_canary("5,50")
    deployer.look_at_canary(MODEL, "d2")
    scene.world.later(15)
    assert command(scene, "pause", "--reason", "wait") == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "The canary of version 2 of best_model is paused: its step does not end by itself, and waits 60 minutes"
    )
    assert "said: pause, by " in out
    assert command(scene, "promote") == 0
    assert "ends at the next look, unless the candidate is bad." in capsys.readouterr().out
    scene.world.later(100)
    assert command(scene, "abort") == 0
    out = capsys.readouterr().out
    assert "is aborted: no client gets it any more" in out
    assert "Nobody watches it at the moment" in out
    assert scene.canary.key not in out
    assert command(scene, "abort") == 3
    assert "was aborted by " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdict", "said"),
    [(CanaryVerdict.NO_DATA, "put aside, and not refused"), (CanaryVerdict.FAIL, "quarantined")],
)
def test_status_says_what_is_held_against_a_candidate_and_what_is_not(
    on_the_command_line: Scene, capsys: pytest.CaptureFixture[str], verdict: CanaryVerdict, said: str
) -> None:
    scene = on_the_command_line
    scene.set(canary__hold_minutes=0.0)
    scene.verdict = always(verdict)
    with pytest.raises(DeployError):
        scene.deploy("5")
    cli.main(["status", MODEL, "--quiet"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "2.failed_" in line]
    assert line.strip().startswith(f"{said}: 2.failed_")


def test_without_a_canary_the_command_says_so(
    on_the_command_line: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(on_the_command_line, "status") == 3
    assert "No canary of best_model is under way." in capsys.readouterr().err
