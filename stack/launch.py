"""Starts a process that cannot outlive the stack. Run as a script; needs the standard library only.

``launch.py run SPEC`` becomes the program that the JSON file SPEC describes (``argv``, ``env``).
``launch.py guard SPEC`` runs that program as a child and, when the child ends, kills every process that it
left behind.

Both ask the kernel for a SIGTERM when their parent dies, so a ``kill -9`` of the Python process that
started the stack, or of supervisord, takes all servers down. The guard is a subreaper (prctl(2),
PR_SET_CHILD_SUBREAPER): an orphan below it, even in a session of its own, becomes its child, and the guard
finds it at the end. When a program dies, the guard kills the rest of its process group, with all
descendants, within a second: a killed scheduler would leave workers that hold its locks in the database.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PARENT = "STACK_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 30
_POLL_S = 0.5


def command(mode: str, spec: Path) -> list[str]:
    """Return the argv that runs this file in ``mode`` (``run`` or ``guard``) on ``spec``."""
    return [sys.executable, "-I", "-S", __file__, mode, str(spec)]


def main(mode: str, spec: str) -> None:
    """Run a mode, see the module; this process becomes the program, or exits."""
    _tie_to_parent()
    if mode == "guard":
        sys.exit(_guard(Path(spec)))
    program = json.loads(Path(spec).read_text())
    os.execvpe(program["argv"][0], program["argv"], {**program["env"], PARENT: str(os.getpid())})


def _tie_to_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # If the parent died before that call, the kernel sends no signal.
    if os.getppid() != int(os.environ[PARENT]):
        sys.exit("launch: the parent is gone")


def _guard(spec: Path) -> int:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(command("run", spec), env={**os.environ, PARENT: str(os.getpid())})

    def stop(_signal: int, _frame: FrameType | None) -> None:
        os.kill(child.pid, signal.SIGTERM)
        signal.alarm(_GRACE_S)

    signal.signal(signal.SIGALRM, lambda *_: os.kill(child.pid, signal.SIGKILL))
    signal.signal(signal.SIGTERM, stop)
    status = _reap_until(child.pid)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.alarm(0)
    _kill_what_is_left()
    return os.waitstatus_to_exitcode(status) & 0xFF


def _reap_until(last: int) -> int:
    # Only now: the child must not inherit a blocked SIGCHLD.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == last:
            return status
        if not pid:
            _kill_orphans_of_the_dead(last)
            signal.sigtimedwait([signal.SIGCHLD], _POLL_S)


def _kill_orphans_of_the_dead(living: int) -> None:
    # Supervisord makes each program the leader of a process group.
    for pid in _children(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            leader = os.getpgid(pid)
            if pid not in (living, leader) and not Path(f"/proc/{leader}").exists():
                for descendant in [*_descendants(pid), pid]:
                    os.kill(descendant, signal.SIGKILL)


def _kill_what_is_left() -> None:
    # The children of a killed child become children of this process, so the loop ends when the whole tree
    # is gone.
    while True:
        for pid in _children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield from _descendants(child)
        yield child


def _children(parent: int) -> Iterator[int]:
    if Path("/proc/thread-self/children").exists():
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                yield from map(int, children.read_text().split())
        return
    # This kernel does not list children: read the parent of every process.
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            yield int(stat.parent.name)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
