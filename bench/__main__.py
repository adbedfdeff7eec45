"""``python -m bench``: run the benchmarks, keep the raw values as JSON, print the tables."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from . import (
    airflow,
    deploy,
    gateway,
    local_backend,
    memory,
    replicas,
    scale,
    swaps,
    transfer,
)
from . import compare as comparison
from .claims import CLAIMS
from .machine import facts
from .series import Series, from_json, summaries, table, to_json

BENCHES: dict[str, Callable[[bool], list[Series]]] = {
    "deploy": deploy.run,
    "transfer": transfer.run,
    "gateway": gateway.run,
    "local": local_backend.run,
    "airflow": airflow.run,
    "swaps": swaps.run,
    "memory": memory.run,
    "scale": scale.run,
    "replicas": replicas.run,
}
"""Each benchmark starts the servers that it needs; its argument is True for a few rounds only."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.compare:
        old, new = options.compare
        return _compare(old, new, options.tolerance)
    if unknown := sorted(set(options.names) - set(BENCHES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    # Deploys log their steps, and some deploys fail on purpose.
    logging.disable(logging.ERROR)
    failed = _measure(options.names or BENCHES, options.quick, options.output)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
        return 1
    if options.output:
        _part(options.output).replace(options.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few rounds only: to try it, not to cite it")
    parser.add_argument(
        "--output", type=Path, help="write the raw values and the machine's facts here, as JSON"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="measure nothing: compare the ratios of two runs that --output wrote; exits 1 if a claimed one differs too much",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=comparison.TOLERANCE,
        help="how far a claimed ratio may be from the other run's, as a share (default: %(default)s)",
    )
    return parser


def _measure(names: Iterable[str], quick: bool, output: Path | None) -> list[str]:
    """Run benchmarks, print their tables and write the values; return the names of failed benchmarks."""
    measured: dict[str, Any] = {
        "at_utc": f"{datetime.now(UTC):%Y-%m-%d}",
        "quick": quick,
        "machine": facts(),
        "benches": {},
    }
    failed = []
    for name in names:
        print(f"{name} ...", flush=True)
        began_s = time.monotonic()
        try:
            # MLflow's client sets the address of one benchmark's server in the environment of the next.
            with mock.patch.dict(os.environ):
                series = BENCHES[name](quick)
        except Exception:
            # Go on with the other benchmarks: the run is long and unattended.
            traceback.print_exc()
            failed.append(name)
            continue
        measured["benches"][name] = to_json(series)
        if output:
            _part(output).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        print(table(summaries(series)), flush=True)
        print(f"  {name}: {time.monotonic() - began_s:.0f} s", flush=True)
    return failed


def _part(output: Path) -> Path:
    """Return the file for the values of an incomplete run; the file stays if a benchmark fails."""
    return output.with_name(f".{output.name}.part")


def _compare(old: Path, new: Path, tolerance: float) -> int:
    """Print the ratios of two files; return 1 if a claimed ratio differs by more than the tolerance."""
    before, after = (
        {name: from_json(series) for name, series in json.loads(path.read_text("utf-8"))["benches"].items()}
        for path in (old, new)
    )
    claimed = [(claim.bench, claim.series, claim.versus) for claim in CLAIMS if claim.versus]
    compared = comparison.compare(before, after, claimed)
    print(comparison.table(compared, tolerance))
    apart = sum(not one.holds(tolerance) for one in compared)
    print(
        f"{apart} of {len(claimed)} claimed ratios differ by more than {tolerance:.0%} or were not measured"
    )
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
