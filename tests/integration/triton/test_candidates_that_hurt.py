"""Candidates that end, hang or fool the Triton that has them, on real Tritons behind a real gateway whose clients never stop asking.

A row is what a candidate does, a column is what serves: one Triton or two, with a staging Triton or without. Each cell deploys the candidate while
clients ask 50 times a second, and goes on until all is as before. A request failed if it was not answered 200 by the live version within 5 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest

from ml_code.triton_deploy.rules.canary import canary_of
from ml_code.triton_deploy.rules.deployment import State
from stack import Stack
from tests.support.faults.figures import record, say
from tests.support.servers.fleet import LATER, Ended, Fleet
from tests.support.servers.gateways import Gateway
from tests.support.servers.hurtful_candidates import Artifact, marked, output_is_input
from tests.support.servers.steady_clients import PER_SECOND, SteadyClients

pytestmark = pytest.mark.integration

SETTLED_S = 20.0
"""Longest wait, after the last deploy, until every Triton serves again."""
WATCHED_S = 2.0
"""Clients go on so long after that."""
ABANDONED_S = 15.0
"""So long nobody looks after a deploy whose process was killed."""
CANARY_S = 8.0
DEPLOYS_ALONE = 3
"""With one Triton alone the same bytes come so often."""


@dataclass(frozen=True)
class Column:
    """What serves.

    Attributes:
        tritons: how many serve.
        staging: whether one more serves nobody.
    """

    tritons: int
    staging: bool

    @property
    def alone(self) -> bool:
        return self.tritons == 1 and not self.staging


@dataclass(frozen=True)
class Row:
    """What a candidate does.

    Attributes:
        candidate: makes its files, given its version; None: there is none, a Triton ends by itself.
        hangs_s: its deadline, where it does not end a Triton but hangs, seconds.
        ends: whether it ends the Triton that meets it.
        met_by_staging: whether the staging Triton meets it before clients do.
        canary: whether it gets a share of the clients before its commit.
        killed: whether the process that deploys it is killed.
        blamed: whether the model is at fault: it goes into quarantine, and is not taken again.
    """

    candidate: Callable[[int], Artifact] | None
    hangs_s: float = 0.0
    ends: bool = True
    met_by_staging: bool = True
    canary: bool = False
    killed: bool = False
    blamed: bool = True


COLUMNS = {
    "two and staging": Column(2, staging=True),
    "two": Column(2, staging=False),
    "one and staging": Column(1, staging=True),
    "one": Column(1, staging=False),
}
ROWS = {
    "crash at load": Row(partial(marked, "load")),
    "crash at warm-up": Row(partial(marked, "warmup")),
    "crash at the switch": Row(partial(marked, "switch")),
    "crash at smoke by the engine": Row(partial(marked, "smoke_engine")),
    "crash at smoke by the public name": Row(partial(marked, "smoke_public")),
    "crash at the first client request": Row(partial(marked, "client"), met_by_staging=False),
    "crash during a canary, two gateways": Row(partial(marked, "client"), met_by_staging=False, canary=True),
    "crash at load, its worker killed": Row(partial(marked, "load_later"), killed=True, blamed=False),
    "load that never ends": Row(partial(marked, "hang_load"), hangs_s=5, ends=False, blamed=False),
    "inference that never ends": Row(partial(marked, "hang_infer"), hangs_s=3, ends=False, blamed=False),
    "output = input": Row(output_is_input, ends=False),
    "stub that dies": Row(partial(marked, "stub_dies"), ends=False, blamed=False),
    "nothing, a Triton is killed": Row(None, met_by_staging=False, blamed=False),
}
IN_MAKE_TEST = [("two and staging", "crash at load")]


@dataclass
class Seen:
    """What became of a cell.

    Attributes:
        requests: of clients.
        failed: how many failed.
        why: what the first of them got.
        endings: of the deploys.
        starts: of each serving Triton.
        staging_starts: of the staging Triton.
        back_s: seconds from the end of the last deploy until every Triton served; None: they did not.
        blamed: kinds of the failures for which the candidate is in quarantine, those that are its fault.
        suspected: the same, on suspicion.
    """

    requests: int = 0
    failed: int = 0
    why: str = ""
    endings: list[Ended] = field(default_factory=list)
    starts: tuple[int, ...] = ()
    staging_starts: int = 0
    back_s: float | None = None
    blamed: list[str] = field(default_factory=list)
    suspected: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, object]:
        return {
            "requests": self.requests,
            "failed": self.failed,
            "starts": sum(self.starts),
            "starts_of_staging": self.staging_starts,
            "deploys": ", ".join(ended.how for ended in self.endings) or "none",
            "deploy_s_max": round(max((ended.took_s for ended in self.endings), default=0.0), 1),
        }


class Cell:
    """One row in one column."""

    def __init__(self, fleet: Fleet, row: Row, deploys: int) -> None:
        self._fleet, self._row, self._deploys = fleet, row, deploys
        self._changes: dict[str, str] = {}
        self.seen = Seen()

    def run(self) -> Seen:
        """Let it happen while clients ask, until every Triton serves what was live; then look at everything."""
        fleet, seen = self._fleet, self.seen
        before, kept, live = fleet.starts(), fleet.quarantined(), fleet.live
        with ExitStack() as around:
            more: list[Gateway] = []
            if self._row.canary:
                second, prometheus = around.enter_context(fleet.second_gateway())
                more, self._changes = [second], {"bake__prometheus_url": prometheus.url}
            clients = fleet.clients(*more)
            try:
                with clients:
                    with fleet.holding():
                        self._happen(live)
                        seen.back_s = fleet.await_serving(live, SETTLED_S)
                        time.sleep(WATCHED_S)
                    stuck = self._all_is_as_before(live)
            finally:
                self._count(clients, before, set(kept))
        for triton in stuck:
            # As the problem says.
            triton.restart("triton")
        return seen

    def _happen(self, live: int) -> None:
        fleet, row = self._fleet, self._row
        if row.candidate is None:
            fleet.end_one()
            return
        version = fleet.publish(row.candidate)
        for number in range(self._deploys):
            if number:
                # Else it would end nobody.
                fleet.await_serving(live, SETTLED_S)
            if number == DEPLOYS_ALONE - 1:
                fleet.publish(row.candidate, version)
            request = fleet.request(canary_of("50", 0, CANARY_S / 60) if row.canary else None)
            if row.killed and not number:
                self.seen.endings.append(fleet.deploy_and_kill(request))
                self._abandoned()
            else:
                self.seen.endings.append(fleet.deploy(request, **self._changes))

    def _abandoned(self) -> None:
        """Nobody goes on with it; then the reconcile that comes every five minutes, and the one after the lease."""
        time.sleep(ABANDONED_S)
        self._fleet.reconcile()
        assert self._fleet.answers() == [self._fleet.live] * len(self._fleet.serving), "an emergency lasts"
        self._fleet.reconcile(LATER)

    def _all_is_as_before(self, live: int) -> list[Stack]:
        """What has hung goes on by now, and reconcile may come before it and after it. Returns Tritons that are to be restarted."""
        fleet = self._fleet
        stuck = fleet.await_reconciled(SETTLED_S)
        assert fleet.live == live
        assert fleet.answers() == [live] * len(fleet.serving)
        left = {found.state for found in fleet.folder.journal.all()} - {State.COMMITTED, State.ROLLED_BACK}
        assert left == set()
        return stuck

    def _count(self, clients: SteadyClients, before: tuple[int, ...], kept: set[str]) -> None:
        fleet, seen = self._fleet, self.seen
        seen.requests, seen.failed = clients.requests, len(clients.failed)
        seen.why = f"{clients.failed[0]}" if clients.failed else ""
        starts = [now - then for now, then in zip(fleet.starts(), before, strict=True)]
        seen.starts, seen.staging_starts = (
            tuple(starts[: len(fleet.serving)]),
            sum(starts[len(fleet.serving) :]),
        )
        for name, failure in fleet.quarantined().items():
            if name not in kept:
                of = seen.suspected if failure.get("suspect") else seen.blamed
                if failure.get("suspect") or failure.get("blames_artifact"):
                    of.append(failure["kind"])
        print(seen)


@pytest.fixture(scope="module", params=COLUMNS)
def column(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def fleet(column: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    has = COLUMNS[column]
    with Fleet(tmp_path_factory.mktemp("fleet"), has.tritons, staging=has.staging) as running:
        yield running


def hold_to_what_is_promised(column: Column, row: Row, seen: Seen) -> None:
    """The promise to the clients, cell by cell."""
    starts = sum(seen.starts)
    if row.candidate is None:
        assert starts == 1, "somebody ended it"
        assert column.tritons == 1 or seen.failed == 0, seen.why
        return
    assert seen.back_s is not None, "not every Triton serves"
    if column.alone:
        assert starts <= 1, f"{starts} starts by {len(seen.endings)} deploys of the same bytes"
        return
    if column.staging and row.met_by_staging:
        assert starts == 0, "only the staging Triton meets it"
        assert seen.failed == 0, seen.why
        return
    assert starts <= 1, f"{seen.starts} starts"
    if column.tritons == 2:
        assert seen.failed <= row.hangs_s * PER_SECOND, seen.why


def hold_to_who_is_blamed(column: Column, row: Row, seen: Seen) -> None:
    """What the record and the quarantine say."""
    hows = {ended.how for ended in seen.endings}
    assert "committed" not in hows
    if not row.blamed:
        assert seen.blamed == [], "nobody is to be blamed"
    elif not row.ends:
        assert hows <= {"artifact_rejected", "quarantined"}, "it is refused before any Triton has it"
    elif row.ends and column.staging and row.met_by_staging:
        assert seen.blamed == ["ended_triton"]
    elif row.ends and not row.canary:
        assert seen.suspected == ["ended_triton"]


def run_cell(fleet: Fleet, column: str, row: str) -> Seen:
    cell = Cell(fleet, ROWS[row], DEPLOYS_ALONE if COLUMNS[column].alone and ROWS[row].candidate else 1)
    try:
        seen = cell.run()
        hold_to_what_is_promised(COLUMNS[column], ROWS[row], seen)
        hold_to_who_is_blamed(COLUMNS[column], ROWS[row], seen)
        fleet.await_staging()
        fleet.deploy_good()
    except BaseException:
        fleet.heal()
        raise
    return seen


@pytest.mark.parametrize(("column", "row"), IN_MAKE_TEST, indirect=["column"])
def test_no_candidate_takes_away_what_serves(fleet: Fleet, column: str, row: str) -> None:
    say("candidates", f"{row}: {column}", run_cell(fleet, column, row).figures)


@pytest.mark.soak
@pytest.mark.parametrize("row", ROWS)
def test_every_row_in_every_column(fleet: Fleet, column: str, row: str) -> None:
    record("candidates", f"{row}: {column}", run_cell(fleet, column, row).figures)
