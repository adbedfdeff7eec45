"""Starts services in parallel and waits until they are ready, without fixed waits; names a failed process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from .errors import StackError
from .site import Service
from .supervision import ProcessState, Supervisor

_POLL_S = 0.1
_LOG_LINES = 25
_UP = ("STARTING", "RUNNING")


def bring_up(supervisor: Supervisor, service: Service, after: Iterable[Service] = ()) -> Iterator[str]:
    """Start ``service`` once the services of ``after`` are ready; yield the missing part until it is ready.

    Raises:
        StackError: one of its processes ended.
    """
    for other in after:
        while missing := other.probe():
            yield missing
    if service.first is not None:
        supervisor.start_process(service.first.name)
        yield from _until_done(supervisor, service.first.name)
    for number, program in enumerate(service.programs):
        if program.name in service.held:
            before = replace(service, programs=service.programs[:number], probe=service.held[program.name])
            yield from until_ready(supervisor, before, restarts=False)
        supervisor.start_process(program.name)
    yield from until_ready(supervisor, service, restarts=False)


def until_ready(supervisor: Supervisor, service: Service, *, restarts: bool) -> Iterator[str]:
    """Yield the missing part until ``service`` is ready.

    Args:
        restarts: allow processes to die, as long as supervisord restarts them.

    Raises:
        StackError: one of its processes ended.
    """
    pids: dict[str, int] = {}
    while True:
        states = {p.name: supervisor.states()[p.name] for p in service.programs}
        for name, state in states.items():
            if state.state == "FATAL" or not (restarts or _is_same(pids, name, state)):
                raise StackError(f"{name} ended{_status(state)}{tail(supervisor.log_path(name))}")
        missing = service.probe()
        down = [name for name, state in states.items() if state.state not in _UP]
        if missing is None and not down:
            return
        yield missing or f"{', '.join(down)} not running"


def await_all(
    supervisor: Supervisor,
    services: Mapping[str, Service],
    pending: dict[str, Iterator[str]],
    timeout_s: float,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Advance the iterators of ``pending``, one for each service, in turn until all have ended.

    Raises:
        StackError: a service is not ready after ``timeout_s`` seconds; the text names the missing part.
    """
    began = time.monotonic()
    while pending:
        for name, steps in list(pending.items()):
            missing = next(steps, None)
            spent = time.monotonic() - began
            if missing is None:
                del pending[name]
                report(f"{name} is ready after {spent:.1f} s")
            elif spent > timeout_s:
                logs = (tail(supervisor.log_path(p.name)) for p in services[name].programs)
                late = f"{name} is not ready after {timeout_s:g} s: {missing}"
                raise StackError(late + "".join(logs))
        if pending:
            time.sleep(_POLL_S)


def tail(log: Path) -> str:
    """Return the path of a log file and its last lines."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"\n--- the end of {log}", *lines[-_LOG_LINES:]])


def _until_done(supervisor: Supervisor, name: str) -> Iterator[str]:
    while (state := supervisor.states()[name]).state in _UP:
        yield f"{name} has not finished"
    if state.state != "EXITED" or state.exit_status != 0:
        raise StackError(f"{name} failed{_status(state)}{tail(supervisor.log_path(name))}")


def _is_same(pids: dict[str, int], name: str, state: ProcessState) -> bool:
    return state.state in _UP and pids.setdefault(name, state.pid) == state.pid


def _status(state: ProcessState) -> str:
    return f" with status {state.exit_status}" if state.exit_status > 0 else ""
