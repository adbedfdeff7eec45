"""Memory and writes of a process and its descendants."""

from __future__ import annotations

import contextlib
from pathlib import Path

MIB = 1 << 20


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants, with shared pages divided among processes (PSS)."""
    return sum(resident_bytes(Path(f"/proc/{one}/smaps_rollup").read_text()) for one in tree(pid))


def tree(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    children: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children += map(int, listing.read_text().split())
    return [pid, *(below for child in children for below in tree(child))]


def written_bytes(pid: int) -> int:
    """Return the bytes that a process and its descendants have written to file systems on disks."""
    return sum(_written_by(one) for one in tree(pid))


def _written_by(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def resident_bytes(smaps_rollup: str) -> int:
    """Return the proportional set size, given ``/proc/PID/smaps_rollup``."""
    for line in smaps_rollup.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return 1024 * int(value.split()[0])
    raise ValueError("there is no Pss in smaps_rollup")
