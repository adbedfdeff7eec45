"""What is said of the memory that was sampled."""

import os

import pytest

from bench.memory import growth, memory_mib, sample


def test_steady_growth_is_given_for_a_hundred_swaps() -> None:
    assert growth([100 + 0.5 * number for number in range(21)], samples_a_unit=4) == (2.0,) * 11


def test_what_is_freed_again_is_no_growth() -> None:
    assert set(growth([100.0, 130.0] * 10, samples_a_unit=4)) == {0.0}


def test_two_samples_give_one_figure() -> None:
    assert growth([100.0, 101.0], samples_a_unit=4) == (4.0,)


def test_memory_is_sampled_before_the_first_swap_and_after_every_25th() -> None:
    swapped: list[int] = []
    samples = sample(swapped.append, lambda: {"server": float(len(swapped))}, 60)
    assert [one["server"] for one in samples] == [0, 25, 50]
    assert swapped == list(range(60))


def test_the_memory_of_a_process_is_that_of_the_system() -> None:
    with open("/proc/self/status", encoding="utf-8") as status:
        (line,) = (line for line in status if line.startswith("VmRSS"))
    found = memory_mib(os.getpid())
    assert found["server"] == pytest.approx(int(line.split()[1]) / 1024, rel=0.2)
    assert found["all"] >= found["server"]
