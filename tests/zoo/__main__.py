"""``python -m tests.zoo [GROUP|NAME|GROUP/NAME ...]``: deploy and ask cases, print each verdict, and keep them in docs/zoo.json."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from tests.zoo import GROUPS, cases_of
from tests.zoo.case import Case
from tests.zoo.enclosure import enclosure
from tests.zoo.verdicts import FILE, NOT_CARRIED, Outcome, Verdict, record


def chosen(wanted: list[str]) -> list[Case]:
    """Return the cases that the command line names; all of them when it names none."""
    groups = [group for group in GROUPS if group in wanted]
    names = set(wanted) - set(groups)
    searched = GROUPS if names or not wanted else groups
    found = [case for group in searched for case in cases_of(group)]
    if not wanted:
        return found
    picked = [c for c in found if c.group in groups or {c.name, f"{c.group}/{c.name}"} & names]
    if missing := names - {c.name for c in picked} - {f"{c.group}/{c.name}" for c in picked}:
        raise SystemExit(f"no such group or case: {', '.join(sorted(missing))}")
    return picked


def told(verdict: Verdict) -> str:
    """Return a verdict as a line."""
    ways = sorted({said for said in verdict.ways.values() if said.startswith(NOT_CARRIED)})
    notes = " | ".join(filter(None, [verdict.cause, *ways]))
    return (
        f"{verdict.outcome.upper():13} {verdict.group}/{verdict.name} {verdict.took_s:.1f} s {notes}".rstrip()
    )


def main() -> int:
    """Return 1 when a case is WRONG."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("wanted", nargs="*", metavar="GROUP|NAME")
    parser.add_argument("--output", type=Path, default=FILE, help="where verdicts are kept")
    options = parser.parse_args()
    seen: Counter[Outcome] = Counter()
    with tempfile.TemporaryDirectory(prefix="zoo-") as home, enclosure(Path(home)) as zoo:
        for case in chosen(options.wanted):
            verdict = zoo.judge(case)
            seen[verdict.outcome] += 1
            print(told(verdict), flush=True)
            record([verdict], options.output)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(seen.items())))
    return 1 if seen[Outcome.WRONG] else 0


if __name__ == "__main__":
    raise SystemExit(main())
