"""What a document of the project says, for tests that hold it to the truth."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

AIRFLOW = Path(__file__).resolve().parents[1] / "docs/airflow.md"


@dataclass(frozen=True)
class WayOut:
    """A row of the table in docs/airflow.md: something that happens to a run, and what comes of it.

    Attributes:
        what: what happens.
        rollback: whether the rollback task runs: yes or no.
        run: the run's state: failed, success or running.
        deploy: the deploy's end: committed or rolled back.
        by: who brings it there: the run or reconcile.
    """

    what: str
    rollback: str
    run: str
    deploy: str
    by: str

    @property
    def test_name(self) -> str:
        """What the name of the test that shows it begins with."""
        return "test_" + re.sub(r"\W+", "_", self.what.lower()).strip("_")


def ways_out() -> list[WayOut]:
    """Return the rows of the table in docs/airflow.md."""
    lines = [line for line in AIRFLOW.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [WayOut(*cells[:5]) for cells in rows]
