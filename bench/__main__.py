"""``python -m bench``: run the benchmarks, keep the raw values as JSON, print the tables."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import gateway, memory, swaps
from bench.machine import facts
from bench.series import Series, summaries, table, to_json

BENCHES: dict[str, Callable[[bool], list[Series]]] = {
    "swaps": swaps.run,
    "memory": memory.run,
    "gateway": gateway.run,
}
"""What each measures; it starts the servers that it needs, and is told whether a few rounds are enough."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few rounds only: to try it, not to cite it")
    parser.add_argument(
        "--output", type=Path, help="write the raw values and the machine's facts here, as JSON"
    )
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(BENCHES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    # A deploy tells of its steps; here only what is wrong is of interest.
    logging.disable(logging.INFO)
    measured: dict[str, Any] = {
        "at_utc": f"{datetime.now(UTC):%Y-%m-%d}",
        "quick": options.quick,
        "machine": facts(),
    }
    measured["benches"] = {}
    for name in options.names or BENCHES:
        print(f"{name} ...", flush=True)
        began_s = time.monotonic()
        series = BENCHES[name](options.quick)
        measured["benches"][name] = to_json(series)
        print(table(summaries(series)), flush=True)
        print(f"  {name}: {time.monotonic() - began_s:.0f} s", flush=True)
    if options.output:
        options.output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
