"""How long a transfer waits for its server: rules of time, with a clock that the test moves."""

from __future__ import annotations

import pytest

from ml_code.triton_deploy.clients.http import SilentServer
from ml_code.triton_deploy.clients.transfer_pace import FIRST_PAUSE_S, LONGEST_PAUSE_S, Pace, Repeats

SILENCE_S, RATE = 10.0, 100


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(SILENCE_S, RATE, clock)


def test_silence_ends_it(pace: Pace, clock: Clock) -> None:
    with pace.waiting():
        clock.now_s += 9
        assert pace.left_s() == pytest.approx(1)
        clock.now_s += 1
        assert pace.left_s() == 0
    error = pace.given_up("S3")
    assert isinstance(error, SilentServer)
    assert "nothing came for 10 s" in error.message


def test_every_byte_ends_a_silence_and_fast_enough_bytes_go_on_for_ever(pace: Pace, clock: Clock) -> None:
    with pace.waiting():
        for _ in range(100):
            clock.now_s += 9.9
            pace.arrived(2 * RATE * 10)
            assert pace.left_s() == pytest.approx(SILENCE_S)


def test_drops_do_not_keep_it_going(pace: Pace, clock: Clock) -> None:
    waited_s = 0
    with pace.waiting():
        while pace.left_s() and waited_s < 1000:
            clock.now_s += 1
            waited_s += 1
            pace.arrived(RATE - 1)
    assert waited_s == SILENCE_S
    error = pace.given_up("S3 at http://s3")
    assert not isinstance(error, SilentServer)
    assert "S3 at http://s3 sends too slowly: 990 bytes came in 10.0 s, 1000 were to come" in error.message
    assert "TRITON_DEPLOY_TRANSFER_MIN_BYTES_PER_S" in error.hint


def test_a_file_is_over_in_the_time_that_its_size_takes_at_the_slowest_pace(pace: Pace, clock: Clock) -> None:
    """A burst at the beginning does not pay for drops later."""
    began_s, size = clock.now_s, 50_000
    with pace.waiting():
        pace.arrived(size // 2)
        while pace.left_s() and clock.now_s < began_s + 10_000:
            clock.now_s += 1
            pace.arrived(1)
    assert clock.now_s - began_s <= SILENCE_S + size / RATE


def test_zero_takes_any_pace(clock: Clock) -> None:
    pace = Pace(SILENCE_S, 0, clock)
    with pace.waiting():
        for _ in range(100):
            clock.now_s += 9
            pace.arrived(1)
            assert pace.left_s()


def test_time_in_which_nobody_waits_for_the_server_is_not_the_servers(pace: Pace, clock: Clock) -> None:
    with pace.waiting():
        clock.now_s += 5
    clock.now_s += 1000
    assert pace.left_s() == pytest.approx(5)
    with pace.waiting(), pace.waiting():
        clock.now_s += 4
    assert pace.left_s() == pytest.approx(1), "two that wait at once wait once"


def test_a_transfer_of_which_a_stream_failed_is_over(pace: Pace) -> None:
    assert pace.left_s()
    pace.stop()
    assert pace.left_s() == 0
    assert not pace.pause(60), "nobody sleeps on"


def recorded_pauses(pace: Pace, chance: float) -> tuple[Repeats, list[float]]:
    pauses: list[float] = []
    pace.pause = lambda seconds: bool(pauses.append(seconds)) or True  # type: ignore[method-assign]
    return Repeats(pace, lambda: chance), pauses


def test_pauses_double_up_to_a_limit_and_begin_anew_after_progress(pace: Pace) -> None:
    repeats, pauses = recorded_pauses(pace, 1.0)
    for progressed in (False, False, False, False, False, True, False):
        assert repeats.go_on(progressed=progressed)
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.0, 0.2, 0.4])
    assert (FIRST_PAUSE_S, LONGEST_PAUSE_S) == (0.2, 2.0)


def test_streams_do_not_come_back_together(pace: Pace) -> None:
    repeats, pauses = recorded_pauses(pace, 0.0)
    repeats.go_on(progressed=False)
    assert pauses == pytest.approx([0.1])


@pytest.mark.parametrize(("asked_s", "waits_s"), [(3.0, 3.0), (3600.0, SILENCE_S / 2), (0.0, 0.2)])
def test_what_a_server_asks_for_is_kept_within_the_limit(pace: Pace, asked_s: float, waits_s: float) -> None:
    repeats, pauses = recorded_pauses(pace, 1.0)
    repeats.go_on(progressed=False, asked_s=asked_s)
    assert pauses == pytest.approx([waits_s])
