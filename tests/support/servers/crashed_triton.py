"""Ends a tritonserver as a crash inside its process does: with every socket that it has.

It imports nothing of the project: the test-only backend loads it by its path into Triton's environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

MARK = "test.hurts"
"""Key in the ``metadata_props`` of an ONNX file: the fault of the model.

``load``, ``warmup``, ``switch``, ``smoke_engine``, ``smoke_public``, ``client``: when the server is ended;
``load_later``: when a load that hangs goes on. ``hang_load``, ``hang_infer``: what does not end.
``stub_dies``: the stub ends at its start, and the server goes on.
"""
HANGS_WHILE = "TEST_HANGS_WHILE"
"""A variable of the server, which names a file: what hangs goes on when that is gone."""
REACHED, CALM = ".reached", ".calm"
"""Endings of two more names: whoever hangs makes the one; while there is the other, no mark means anything."""

SERVER, STUB = "tritonserver", "triton_python"
"""Linux's names of the processes; it keeps 15 letters of a name."""
LONGEST_END_S = 10.0


class Status(NamedTuple):
    """A process as ``/proc`` has it."""

    name: str
    state: str
    parent: int


def status_of(pid: int) -> Status | None:
    """Return None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return Status(name, state, int(parent))


def server_above(pid: int) -> int:
    """Return the process id of the tritonserver that a process is, or that started it; RuntimeError when there is none."""
    while pid > 1 and (status := status_of(pid)) is not None:
        if status.name == SERVER:
            return pid
        pid = status.parent
    raise RuntimeError(f"no {SERVER} has started this process: nothing was ended")


def end_server(server: int, number: signal.Signals = signal.SIGSEGV) -> None:
    """End a tritonserver, and when it is gone its stubs, the calling process last.

    Stubs inherit the server's sockets and outlive it for seconds, in which clients see a silence in place
    of a connection that ended. NVIDIA's ``onnxruntime`` backend has no such processes.

    Args:
        server: its process id.
        number: the signal.

    Raises:
        RuntimeError: that process is no tritonserver; nothing was ended.
    """
    status = status_of(server)
    if status is None or status.name != SERVER:
        raise RuntimeError(f"process {server} is no {SERVER}: nothing was ended")
    stubs = _stubs_of(server)
    os.kill(server, number)
    deadline = time.monotonic() + LONGEST_END_S
    while (status := status_of(server)) is not None and status.state != "Z" and time.monotonic() < deadline:
        time.sleep(0.001)
    for stub in sorted(stubs, key=lambda pid: pid == os.getpid()):
        found = status_of(stub)
        if found is not None and found.name.startswith(STUB):
            with contextlib.suppress(ProcessLookupError):
                os.kill(stub, signal.SIGKILL)


def _stubs_of(server: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = [(pid, status_of(pid)) for pid in pids]
    return [pid for pid, s in found if s is not None and s.parent == server and s.name.startswith(STUB)]
