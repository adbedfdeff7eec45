"""Facts from the project's documents, for tests that check them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

AIRFLOW = Path(__file__).resolve().parents[2] / "docs/airflow.md"


@dataclass(frozen=True)
class WayOut:
    """A row of the table in docs/airflow.md: an event in a run, and its outcome.

    Attributes:
        what: what happens.
        id: the row's id, by which a test names it.
        rollback: whether the rollback task runs: yes or no.
        run: the run's state: failed, success or running.
        deploy: the deploy's end: committed or rolled back.
        by: who brings it there: the run or reconcile.
    """

    what: str
    id: str
    rollback: str
    run: str
    deploy: str
    by: str


def ways_out() -> dict[str, WayOut]:
    """Return the rows of the table in docs/airflow.md by their ids."""
    lines = [line for line in AIRFLOW.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]
    found = {row.id: row for row in (WayOut(*cells[:6]) for cells in rows)}
    assert len(found) == len(rows), "two rows have one id"
    return found


def prose(document: Path) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as forges and the site make them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return {
        name if not found[:at].count(name) else f"{name}-{found[:at].count(name)}"
        for at, name in enumerate(found)
    }
