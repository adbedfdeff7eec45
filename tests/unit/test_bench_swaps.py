"""What is counted of the answers that clients got while a version was swapped in."""

import math

import pytest

from bench import counting
from bench.steady_clients import Answer
from bench.swaps import Action, Window

OLD, NEW = 1, 2


def asked_every_10_ms(versions: list[int], begin_s: float = 0.0, takes_s: float = 0.002) -> list[Answer]:
    """Answers of these versions, 0 for a failure."""
    times = [begin_s + 0.01 * number for number in range(len(versions))]
    return [
        Answer(asked_s, asked_s + takes_s, version) for asked_s, version in zip(times, versions, strict=True)
    ]


def test_the_time_ends_when_the_last_client_has_the_version() -> None:
    first = asked_every_10_ms([OLD, NEW, NEW, NEW])
    last = asked_every_10_ms([OLD, OLD, OLD, NEW])
    assert counting.until_all_ms([first, last], NEW, 0.005) == pytest.approx(27)


@pytest.mark.parametrize("between", [OLD, 0])
def test_a_client_that_gets_something_else_once_more_does_not_have_the_version_yet(between: int) -> None:
    answers = asked_every_10_ms([OLD, NEW, between, NEW, NEW])
    assert counting.until_all_ms([answers], NEW, 0.0) == pytest.approx(32)


@pytest.mark.parametrize("versions", [[NEW, NEW, OLD], [NEW, 0], []])
def test_there_is_no_time_when_a_client_does_not_have_the_version_at_the_end(versions: list[int]) -> None:
    with pytest.raises(LookupError, match="version 2"):
        counting.until_all_ms([asked_every_10_ms([OLD, NEW]), asked_every_10_ms(versions)], NEW, 0.0)


def test_only_what_the_new_version_answered_before_its_verification_is_unverified() -> None:
    answers = asked_every_10_ms([OLD, NEW, 0, NEW, NEW])
    assert counting.unverified(answers, NEW, verified_s=0.035) == 2
    assert counting.unverified(answers, NEW, verified_s=0.012) == 0
    assert counting.unverified(answers, NEW, verified_s=math.inf) == 3
    assert counting.unverified(answers, 3, verified_s=math.inf) == 0


def test_a_request_is_slow_when_it_took_over_a_tenth_of_a_second() -> None:
    answers = [Answer(1.0, 1.0 + took_s, OLD) for took_s in (0.09, 0.11, 0.3)] + [Answer(1.0, 1.2, 0)]
    assert counting.slow(answers) == 3
    assert counting.slowest_ms(answers) == pytest.approx(300)
    assert counting.failed(answers) == 1


def test_a_window_counts_what_all_clients_saw() -> None:
    asked = [asked_every_10_ms([OLD, 0, NEW]), asked_every_10_ms([OLD, NEW, NEW], takes_s=0.2)]
    window = Window(asked, Action(version=NEW, verified_s=0.1, since_s=0.0))
    assert window.counts == {"requests": 6, "failed": 1, "over 100 ms": 3, "unverified": 1}
    assert window.value_ms == pytest.approx(210)


def test_a_deploy_that_failed_took_until_it_was_undone() -> None:
    undone = Action(version=NEW, verified_s=math.inf, since_s=0.1, returned_s=0.6)
    window = Window([asked_every_10_ms([OLD, NEW, OLD])], undone)
    assert window.value_ms == pytest.approx(500)
    assert window.counts["unverified"] == 1


def test_when_nothing_is_done_nothing_is_unverified() -> None:
    window = Window([asked_every_10_ms([OLD, OLD], takes_s=0.15)], None)
    assert window.value_ms == pytest.approx(150)
    assert window.counts == {"requests": 2, "failed": 0, "over 100 ms": 2, "unverified": 0}
