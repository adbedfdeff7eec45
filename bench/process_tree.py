"""What a process and those that it started use of the machine."""

from __future__ import annotations

from pathlib import Path

MIB = 1 << 20


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process and all below it; a page that several processes share is divided among them (PSS)."""
    return sum(resident_bytes(Path(f"/proc/{one}/smaps_rollup").read_text()) for one in tree(pid))


def tree(pid: int) -> list[int]:
    """Return the ids of a process and all below it."""
    children = [
        int(child)
        for listing in Path(f"/proc/{pid}/task").glob("*/children")
        for child in listing.read_text().split()
    ]
    return [pid, *(below for child in children for below in tree(child))]


def resident_bytes(smaps_rollup: str) -> int:
    """Return the proportional set size, given ``/proc/PID/smaps_rollup``."""
    for line in smaps_rollup.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return 1024 * int(value.split()[0])
    raise ValueError("there is no Pss in smaps_rollup")
