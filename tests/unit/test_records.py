"""The transition table and what is written of it."""

import json
from dataclasses import replace
from datetime import timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_code.triton_deploy.errors import IllegalTransition
from ml_code.triton_deploy.rules.deployment import (
    STEP_AFTER,
    TRANSITIONS,
    Deployment,
    Failure,
    State,
    advance,
)
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.release import Release, next_release
from ml_code.triton_deploy.rules.writer import to_json
from tests.support.recorded import LIVE, NOW, RECORD


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


def test_every_state_that_is_not_an_end_leads_to_an_end() -> None:
    def ends(state: State) -> set[State]:
        return set().union(*(ends(after) for after in TRANSITIONS[state])) or {state}

    for state, after in TRANSITIONS.items():
        if after:
            assert ends(state) <= {State.COMMITTED, State.ROLLED_BACK}
            assert State.ROLLED_BACK in ends(state)


def test_after_the_decision_to_roll_back_nothing_commits() -> None:
    assert TRANSITIONS[State.ROLLING_BACK] == {State.ROLLED_BACK}


def test_a_step_is_due_in_every_state_on_the_way() -> None:
    on_the_way = {state for state, after in TRANSITIONS.items() if after} - {State.ROLLING_BACK}
    assert set(STEP_AFTER) == on_the_way


@given(st.sampled_from(list(State)), st.sampled_from(list(State)))
def test_advance_takes_the_edges_of_the_table_and_no_other(before: State, after: State) -> None:
    record = replace(RECORD, state=before)
    if after in TRANSITIONS[before]:
        assert advance(record, after, NOW).state is after
    else:
        with pytest.raises(IllegalTransition, match=str(after)):
            advance(record, after, NOW)


def test_advance_notes_the_time_and_the_facts() -> None:
    later = advance(RECORD, State.MATERIALIZED, NOW + timedelta(seconds=2), digest="abc")
    assert later.digest == "abc"
    assert later.times_utc == {
        "pinned": "2026-01-02T03:04:05.000Z",
        "materialized": "2026-01-02T03:04:07.000Z",
    }
    assert RECORD.state is State.PINNED


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(
            RECORD, failure=Failure(step="load", kind="k", error="e", at_utc="t"), smoke={"latency_ms": 0.5}
        ),
    ],
)
def test_a_deployment_reads_back_as_it_was_written(record: Deployment) -> None:
    assert Deployment.from_json(to_json(record)) == record


def test_a_release_reads_back_as_it_was_written() -> None:
    assert Release.from_json(to_json(LIVE)) == LIVE


def test_fields_of_a_newer_writer_are_passed_over() -> None:
    assert Release.from_json(json.dumps({**json.loads(to_json(LIVE)), "new": 1})) == LIVE


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", to_json(LIVE)[:40]])
def test_a_torn_record_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Release.from_json(text)


def test_the_first_release() -> None:
    release = next_release(replace(RECORD, base_generation=0), None, NOW, keep_warm=1)
    assert (release.generation, release.previous_version, release.warm_versions) == (1, None, ())


@pytest.mark.parametrize(("keep_warm", "warm"), [(0, ()), (1, (2,)), (2, (2, 1)), (9, (2, 1))])
def test_the_next_release_keeps_the_last_versions_warm(keep_warm: int, warm: tuple[int, ...]) -> None:
    release = next_release(RECORD, LIVE, NOW, keep_warm)
    assert release.generation == 8
    assert release.previous_version == 2
    assert release.warm_versions == warm
    assert release.loaded_versions == (3, *warm)


def test_a_version_deployed_over_itself_keeps_what_it_replaced() -> None:
    again = replace(RECORD, pinned=replace(RECORD.pinned, version=2))
    release = next_release(again, LIVE, NOW, 1)
    assert release.previous_version == 1
    assert release.warm_versions == (1,)


def test_times_are_utc() -> None:
    assert utc_text(NOW.astimezone(timezone(timedelta(hours=5)))) == "2026-01-02T03:04:05.000Z"
