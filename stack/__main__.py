"""`python -m stack up`, `python -m stack up-distributed` and `python -m stack demo`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from . import Stack, StackError
from . import services as known
from .distributed import Distributed
from .ports import configured_ports, setting
from .servers import REPO
from .services import prometheus
from .services.tritons import STAGING
from .supervision import ProcessState

_WATCH_S = 1.0
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
_AGAIN_S = 0.05


def services_here() -> list[str]:
    """Return the services that ``up`` starts.

    Without Prometheus no release bakes, so no task waits in a triggerer, and ``up`` starts none. The
    receiver follows aliases.
    """
    if prometheus.installed() is not None:
        return list(known.WITH_PROMETHEUS)
    return [name for name in known.SERVICES if name != "triggerer"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="start the stack and leave it running")
    up_parser.add_argument("--state-dir", type=Path, default=REPO / ".stack")
    distributed_parser = commands.add_parser("up-distributed", help="the same with Redis and two hosts")
    distributed_parser.add_argument("--state-dir", type=Path, default=REPO / ".stack" / "distributed")
    commands.add_parser("demo", help="the main job, end to end", add_help=False)
    arguments, rest = parser.parse_known_args(argv)
    try:
        _listen_for_the_end()
        if arguments.command == "demo":
            demo = importlib.import_module("stack.demo")
            return int(demo.main(rest))
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        return {"up": up, "up-distributed": up_distributed}[arguments.command](arguments.state_dir)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 130


def up(state_dir: Path) -> int:
    """Run the stack in the foreground until Ctrl-C.

    Returns:
        0 after Ctrl-C.

    Raises:
        StackError: the stack does not start, or supervisord gave up on a process.
    """
    stack = Stack(state_dir, services_here(), ports=configured_ports(), report=print)
    with _until_interrupted(stack, state_dir) as env_file:
        print(summary(stack, env_file), flush=True)
        watch(stack)
    return 0


def up_distributed(state_dir: Path) -> int:
    """Run the center and its hosts in the foreground until Ctrl-C.

    Returns:
        0 after Ctrl-C.

    Raises:
        StackError: the center or a host does not start, or supervisord gave up on a process.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    distributed = Distributed(state_dir, ports=configured_ports(), report=print)
    with _until_interrupted(distributed, state_dir) as env_file:
        print(distributed_summary(distributed, env_file), flush=True)
        watch(distributed.center, *distributed.hosts)
    return 0


@contextlib.contextmanager
def _until_interrupted(servers: Stack | Distributed, state_dir: Path) -> Iterator[Path]:
    """Start the servers, yield the file with their environment, and stop them at the end or at Ctrl-C."""
    try:
        print("starting (the first time takes longest) ...", flush=True)
        servers.start()
        yield write_env_file(state_dir, servers.environment)
    except KeyboardInterrupt:
        print("\nstopping ...", flush=True)
    finally:
        servers.stop()
    print("stopped")


def write_env_file(state_dir: Path, environment: dict[str, str]) -> Path:
    """Write a file for the shell's ``source`` that only its owner can read; return its path."""
    path = state_dir / "env"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        for name, value in environment.items():
            file.write(f"export {name}={shlex.quote(value)}\n")
    return path


def summary(stack: Stack, env_file: Path) -> str:
    """Return the text that ``up`` prints when all services are ready."""
    username, password = stack.airflow_login
    grpc, metrics = stack.url("triton-grpc"), f"{stack.url('triton-metrics')}/metrics"
    staging = f"{stack.url(STAGING)}  (gRPC {stack.url(f'{STAGING}-grpc')}; serves nobody: a candidate is tried there first)"
    key, secret = (stack.environment[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    metrics_at = (
        stack.url("prometheus")
        if "prometheus" in stack.states()
        else "no prometheus on PATH (Debian: apt-get install prometheus): no release bakes"
    )
    return f"""
  Airflow   {stack.url("airflow")}  (user {username}, password {password})
  MLflow    {stack.url("mlflow")}
  Triton    {stack.url("triton")}  (gRPC {grpc}, metrics {metrics})
  Staging   {staging}
  Gateway   {stack.url("gateway")}  (what is live; /docs)
  Events    {stack.url("events")}  (deploys best_model when its alias A is set in MLflow)
  Metrics   {metrics_at}
  S3        {stack.url("s3")}  (key {key}, secret {secret})
  models    {stack.model_repository}
  logs      {env_file.parent / "logs"}

  In another shell:  source {shlex.quote(str(env_file))}
  Other ports:       {setting("mlflow")}=5001 make up
  Ctrl-C stops everything.
"""


def distributed_summary(distributed: Distributed, env_file: Path) -> str:
    """Return the text that ``up-distributed`` prints when all services are ready."""
    center = distributed.center
    username, password = center.airflow_login
    hosts = "".join(
        f"""
  host-{number}    Triton {host.url("triton")} (gRPC {host.url("triton-grpc")}), gateway {host.url("gateway")}
            logs {host.log_path("worker").parent}, those of its tasks in airflow-tasks"""
        for number, host in enumerate(distributed.hosts, 1)
    )
    return f"""
  Airflow   {center.url("airflow")}  (user {username}, password {password}; logs of tasks are on their hosts)
  MLflow    {center.url("mlflow")}
  Staging   {center.url(STAGING)}  (gRPC {center.url(f"{STAGING}-grpc")})
  models    {center.model_repository}
  logs      {center.log_path("airflow-scheduler").parent}
{hosts}

  In another shell:  source {shlex.quote(str(env_file))}
  Ctrl-C stops everything.
"""


def watch(*stacks: Stack) -> None:
    """Report each process that supervisord restarts, until it gives up on one.

    Raises:
        StackError: supervisord gave up on a process.
    """
    before = [stack.states() for stack in stacks]
    while True:
        time.sleep(_WATCH_S)
        before = [_watched(stack, states) for stack, states in zip(stacks, before, strict=True)]


def _watched(stack: Stack, before: dict[str, ProcessState]) -> dict[str, ProcessState]:
    now = stack.states()
    for name, state in now.items():
        if state.state == "FATAL":
            raise StackError(f"{name} keeps dying: {stack.log_path(name)}")
        if state.pid and state.pid != before[name].pid:
            print(f"{name} died and was started again: {stack.log_path(name)}", flush=True)
    return now


def _listen_for_the_end() -> None:
    """Turn Ctrl-C and SIGTERM into a KeyboardInterrupt, also a signal that came while Python was starting."""
    for number in _ENDS:
        signal.signal(number, _interrupt)
    sys.unraisablehook = _interrupt_again
    # make blocks SIGINT for this process, because before this line Ctrl-C would print a traceback. A shell
    # script starts background jobs with SIGINT ignored.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupt_again(dropped: Any) -> None:
    """Send the signal again if a finalizer got it: Python drops the exceptions of finalizers.

    Many finalizers run during the imports of a start.
    """
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(dropped)


if __name__ == "__main__":
    sys.exit(main())
