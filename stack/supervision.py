"""supervisord (supervisord.org) under our guard: configuration, start, stop, XML-RPC calls."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from . import launch
from .claim import Claim
from .errors import StackError

# sockaddr_un holds 107 bytes; supervisord first binds the path with its pid appended.
_LONGEST_SOCKET_PATH = 96
# The groups of processes, and supervisord's priority: the first to stop has the highest.
_GROUPS = {"state": 1, "stack": 2}


@dataclass(frozen=True)
class Program:
    """One process to supervise.

    Attributes:
        name: unique; names its log file, ``<name>.log``.
        argv: the command and its arguments.
        env: its whole environment.
        stop_group: send the stop signal to the whole process group, not to the process alone.
        stop_wait_s: seconds between the stop signal and SIGKILL.
        stop_signal: name of the stop signal, as supervisord writes it.
        one_shot: the process is meant to end; supervisord does not restart it.
        keeps_state: other processes need this one to end well, so it is stopped last.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    stop_group: bool = True
    stop_wait_s: int = 10
    stop_signal: str = "TERM"
    one_shot: bool = False
    keeps_state: bool = False

    @property
    def group(self) -> str:
        """Name of the process group in supervisord."""
        return "state" if self.keeps_state else "stack"


@dataclass(frozen=True)
class ProcessState:
    """The state of a process, as supervisord reports it.

    Attributes:
        state: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED or FATAL, as in
            supervisord.org/subprocess.html.
        pid: process id; 0 when the process does not run.
        exit_status: exit status of the last run; -1 when a signal ended it.
    """

    state: str
    pid: int
    exit_status: int


class Supervisor:
    """A supervisord of our own, whose files are below ``state_dir``.

    supervisord and its programs end with the thread that called ``start``, whatever ends that thread.
    """

    def __init__(self, state_dir: Path, programs: Sequence[Program], claim: Claim | None = None) -> None:
        """Prepare; starts nothing.

        Args:
            state_dir: folder for its files.
            programs: the programs that it may start.
            claim: the claim on the state directory; pass one that is already taken.
        """
        self._claim = claim or Claim(state_dir)
        self._dir = state_dir
        self._programs = programs
        self._run_dir = state_dir / "run"
        self._socket = self._run_dir / "supervisor.sock"
        self._guard: subprocess.Popen[bytes] | None = None

    def log_path(self, name: str) -> Path:
        """Return the log file of process ``name``, or of ``supervisord``."""
        return self._dir / "logs" / f"{name}.log"

    def start(self, timeout_s: float = 20) -> None:
        """Start supervisord with no process running yet.

        Raises:
            StackError: the path of the state directory is too long for a socket, another stack uses the
                directory, or supervisord does not come up.
        """
        if len(os.fsencode(self._socket)) > _LONGEST_SOCKET_PATH:
            raise StackError(f"{self._dir}: this path is too long for a Unix socket; use a shorter one")
        self._claim.take()
        try:
            spec = self._write_files()
            with self.log_path("supervisord").open("ab") as log:
                # In a session of its own, so that Ctrl-C reaches only this process, which stops supervisord
                # in order.
                self._guard = subprocess.Popen(
                    launch.command("guard", spec),
                    cwd=self._run_dir,
                    env={**os.environ, launch.PARENT: str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[self._claim.fileno()],
                )
            self._await_socket(timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop every process, then supervisord; does nothing if supervisord does not run."""
        if self._guard is not None:
            self._guard.terminate()
            while self._guard.returncode is None:
                # A second Ctrl-C must not return the user to the shell before all processes have stopped.
                with contextlib.suppress(KeyboardInterrupt):
                    self._guard.wait()
            self._guard = None
        self._claim.give_back()

    def states(self) -> dict[str, ProcessState]:
        """Return the state of every process, by name.

        Raises:
            StackError: supervisord does not answer.
        """
        return {
            info["name"]: ProcessState(info["statename"], info["pid"], info["exitstatus"])
            for info in self._call("getAllProcessInfo")
        }

    def start_process(self, name: str) -> None:
        """Start ``name`` and return when its process is spawned; no effect if ``name`` runs."""
        self._call("startProcess", self._full(name), False, done=_ALREADY_STARTED)

    def stop_process(self, name: str) -> None:
        """Stop ``name`` and its process group, and return when ``name`` has ended."""
        self._call("stopProcess", self._full(name), True, done=_NOT_RUNNING)

    def _full(self, name: str) -> str:
        group = next((program.group for program in self._programs if program.name == name), "stack")
        return f"{group}:{name}"

    def _call(self, method: str, *args: object, done: int | None = None) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        server = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(server.supervisor, method)(*args)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == done:
                return None
            raise StackError(f"supervisord: {method}{args}: {fault.faultString}") from fault
        except OSError as error:
            log = self.log_path("supervisord")
            raise StackError(f"supervisord does not answer ({error}); see {log}") from error
        finally:
            transport.close()

    def _write_files(self) -> Path:
        (self._dir / "logs").mkdir(exist_ok=True)
        self._socket.unlink(missing_ok=True)
        (self._run_dir / "supervisord.conf").write_text(render_config(self._programs))
        for program in self._programs:
            _write_spec(self._run_dir / f"{program.name}.json", program.argv, program.env)
        argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", "supervisord.conf"]
        return _write_spec(self._run_dir / "supervisord.json", argv, os.environ)

    def _await_socket(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.states()
                return
            except StackError:
                assert self._guard is not None
                if self._guard.poll() is not None or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)


def render_config(programs: Sequence[Program]) -> str:
    """Return supervisord's configuration: no program starts by itself, and a program that dies is restarted.

    This format has its own rules of quoting and expansion. So argv and environment of a program stay in a
    JSON file beside the configuration, and paths are relative to the folder that supervisord runs in.
    """
    # Without this line supervisord warns a root user that it did not drop privileges.
    user = "user=root\n" if os.geteuid() == 0 else ""
    head = f"""\
[unix_http_server]
file=supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
nodaemon=true
silent=true
{user}logfile=../logs/supervisord.log
pidfile=supervisord.pid
"""
    return head + "".join([*map(_render_group, _GROUPS, repeat(programs)), *map(_render_program, programs)])


def _render_group(name: str, programs: Sequence[Program]) -> str:
    members = ",".join(program.name for program in programs if program.group == name)
    return (
        f"""
[group:{name}]
programs={members}
priority={_GROUPS[name]}
"""
        if members
        else ""
    )


def _render_program(program: Program) -> str:
    command = shlex.join(launch.command("run", Path(f"{program.name}.json"))).replace("%", "%%")
    return f"""
[program:{program.name}]
command={command}
autostart=false
autorestart={"false" if program.one_shot else "true"}
startsecs={0 if program.one_shot else 1}
stopasgroup={str(program.stop_group).lower()}
killasgroup=true
stopsignal={program.stop_signal}
stopwaitsecs={program.stop_wait_s}
redirect_stderr=true
stdout_logfile=../logs/{program.name}.log
stdout_logfile_maxbytes=50MB
stdout_logfile_backups=1
"""


def _write_spec(path: Path, argv: Sequence[str], env: Mapping[str, str]) -> Path:
    # The file has secrets in it, so only its owner may read it.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"argv": list(argv), "env": dict(env)}, file, indent=1)
    return path


# supervisor.xmlrpc.Faults
_ALREADY_STARTED = 60
_NOT_RUNNING = 70
