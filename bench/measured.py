"""Runs a command and writes its cost: ``python -I -S measured.py FILE COMMAND…``; FILE gets a JSON object.

This is a process of its own, because Linux counts the memory of the parent into the peak of a child. This
process has loaded little more than the interpreter, so the peak is that of the command.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """The cost of a process.

    Attributes:
        status: exit status.
        began_s, ended_s: start and end, seconds since the epoch.
        wall_s: seconds from start to end.
        cpu_s: seconds of processor time, in all threads.
        peak_mib: largest resident memory, MiB.
        written_bytes: bytes written to file systems on disks; a file system in memory does not count.
    """

    status: int
    began_s: float
    ended_s: float
    wall_s: float
    cpu_s: float
    peak_mib: float
    written_bytes: int


def main() -> int:
    """Run the command; return its exit status."""
    target, command = Path(sys.argv[1]), sys.argv[2:]
    began_s, started_s = time.time(), time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, used = os.wait4(child, 0)
    wall_s = time.perf_counter() - started_s
    code = os.waitstatus_to_exitcode(status)
    cost = Cost(
        status=code,
        began_s=began_s,
        ended_s=time.time(),
        wall_s=wall_s,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_mib=used.ru_maxrss / 1024,
        written_bytes=used.ru_oublock * 512,
    )
    target.write_text(json.dumps(vars(cost)), encoding="utf-8")
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
