"""How much of a sweep runs: in ``make test`` a sample, in ``make soak`` all of it.

FAULTS_SEED chooses the sample and all that is random; the output and ``docs/reliability.json`` have the
seed. Without it ``make test`` takes the same one each time, so that a change is judged by what it changes,
and ``make soak`` another one each time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator

import pytest

from tests.support.faults import figures

SEED = int(os.environ.get("FAULTS_SEED") or 1)
EXTENT = pytest.mark.parametrize("complete", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["sample", "complete"])  # fmt: skip


def on_real_servers(names: Iterable[str]) -> pytest.MarkDecorator:
    """Return the parameters ``name``, ``after`` and ``complete`` of sweeps whose points take seconds: of each name one turn is sampled."""
    turns = [(name, bool(number % 2)) for number, name in enumerate(names)]
    return pytest.mark.parametrize(
        ("name", "after", "complete"),
        [
            *(pytest.param(*turn, False, id=f"{_id(*turn)}-sample") for turn in turns),
            *(
                pytest.param(name, after, True, id=f"{_id(name, after)}-complete", marks=pytest.mark.soak)
                for name, _ in turns
                for after in (False, True)
            ),
        ],
    )


def _id(name: str, after: bool) -> str:
    return f"{name}-{'after' if after else 'before'}"


class Sweep:
    """The points of one sweep, numbered from 1, all of them or a sample.

    Args:
        what: the fault at each point.
        name: the operation in which it happens.
        complete: whether all points are tried.
        step: a sample has one point of this many.
        complete_step: of so many one is tried when all are wanted and all would be too many.
    """

    def __init__(self, what: str, name: str, *, complete: bool, step: int, complete_step: int = 1) -> None:
        self.what, self.name = what, name
        self.random = random.Random(f"{SEED} {what} {name}")
        self.tried = 0
        self._complete = complete
        self._step = complete_step if complete else step
        self._first = self.random.randrange(self._step) + 1

    def points(self) -> Iterator[int]:
        """Yield the numbers of points; the caller ends the iteration."""
        at = self._first
        while True:
            yield at
            self.tried += 1
            at += self._step

    def ended(self, **counted: int) -> None:
        """Say how many points were tried, each of which had to be well, and what else was counted; keep it if they were all."""
        keep = figures.record if self._complete else figures.say
        keep(self.what, self.name, {"points": self.tried, "one_in": self._step, "seed": SEED, **counted})
