"""A real Ceph RADOS Gateway on 127.0.0.1: the S3 server that tests of S3 semantics run against.

A throw-away cluster of one monitor, one OSD whose objects live in memory, and one gateway with the
beast frontend, from the packages of Debian 12 (Ceph 16.2). Nothing is installed into the system:
apt downloads and checks the packages, `dpkg -x` unpacks them into a cache folder.
"""

import http.client
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from tests.support.servers.debian_packages import unpacked

START_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.02
LOG_TAIL_LINES = 8

_PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
# What else they depend on serves disks and the `ceph` command.
_NEEDED = ("lib", "ceph-", "radosgw")


class GatewayStartError(RuntimeError):
    """A process of the cluster failed or was too slow; the message ends with the logs' ends."""


class RadosGateway:
    """A running gateway with one user; a context manager that starts and stops the cluster.

    Leaving the context, however it is left, ends every process; the same happens when the thread
    that started them dies. Objects are gone then; the logs stay in `state_dir/logs`.

    Attributes:
        endpoint_url: `http://127.0.0.1:<port>`; to be addressed in path style. Set while running.
        access_key: access key of the one user.
        secret_key: secret key of that user.
    """

    access_key = "rgw-test-access-key"
    secret_key = "rgw-test-secret-key"
    endpoint_url: str

    def __init__(
        self,
        state_dir: Path,
        capacity_bytes: int = 4 * 1024**3,
    ) -> None:
        """Describe a gateway; `__enter__` starts it.

        Args:
            state_dir: empty or missing folder for configuration, monitor data (some MB) and logs.
            capacity_bytes: memory that objects may take; writes hang when 95 % are used, and what
                is deleted or overwritten counts for another 10 to 20 s.
        """
        self._state_dir = state_dir.resolve()
        self._capacity_bytes = capacity_bytes
        self._stop = ExitStack()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Start the cluster and wait until it answers.

        Raises:
            GatewayStartError: a process ended early or `START_TIMEOUT_S` passed.
            FileExistsError: `state_dir` holds an earlier cluster.
        """
        self._root = unpacked("ceph", _PACKAGES, _NEEDED)
        self._deadline = time.monotonic() + START_TIMEOUT_S
        for name in ("logs", "mon", "osd"):
            (self._state_dir / name).mkdir(parents=True)
        with ExitStack() as stop:
            self._start(stop)
            self._stop = stop.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End every process of the cluster."""
        self._stop.close()

    def _start(self, stop: ExitStack) -> None:
        with _reserved_port() as port:
            self._create_cluster(mon_address=f"v2:127.0.0.1:{port}/0")
            self._daemon(stop, "ceph-mon", "--id=a")
            self._wait_until(lambda: _accepts_connections(port))
        self._daemon(stop, "ceph-osd", "--id=0")
        # The first client creates the gateway's pools, so this returns when the OSD serves them.
        self._run(
            *("radosgw-admin", "--conf", self._conf, "user", "create"),
            *("--uid=test", "--display-name=test"),
            *(f"--access-key={self.access_key}", f"--secret-key={self.secret_key}"),
        )
        with _reserved_port() as port:
            frontend = f"--rgw-frontends=beast endpoint=127.0.0.1:{port}"
            self._daemon(stop, "radosgw", "--name=client.rgw", frontend)
            self._wait_until(lambda: _answers_http(port))
        self.endpoint_url = f"http://127.0.0.1:{port}"

    @property
    def _conf(self) -> str:
        return str(self._state_dir / "ceph.conf")

    def _create_cluster(self, mon_address: str) -> None:
        """Write the configuration, and the maps that make the OSD known without a command."""
        fsid = str(uuid.uuid4())
        Path(self._conf).write_text(self._configuration(fsid, mon_address))
        monmap, osdmap = str(self._state_dir / "monmap"), str(self._state_dir / "osdmap")
        mon = ("--fsid", fsid, "--addv", "a", f"[{mon_address}]")
        self._run("monmaptool", "--create", *mon, monmap)
        self._run("osdmaptool", "--conf", self._conf, "--createsimple", "1", osdmap)
        maps = ("--monmap", monmap, "--osdmap", osdmap)
        self._run("ceph-mon", "--conf", self._conf, "--id=a", "--mkfs", *maps)
        self._run("ceph-osd", "--conf", self._conf, "--id=0", "--mkfs", "--no-mon-config")

    def _configuration(self, fsid: str, mon_address: str) -> str:
        state, libraries = self._state_dir, next(self._root.glob("usr/lib/*-linux-gnu"))
        return f"""[global]
fsid = {fsid}
mon host = [{mon_address}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
mon data = {state}/mon
osd data = {state}/osd
run dir = {state}
admin socket =
plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
osd class dir = {libraries}/rados-classes
log file =
log to stderr = true
mon cluster log file = {state}/logs/cluster.log

# Nothing but this machine reaches the cluster. The gateway's default mode needs cephx.
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc

# One OSD, no replicas.
osd objectstore = memstore
memstore device bytes = {self._capacity_bytes}
osd crush chooseleaf type = 0
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off

# Changes of the maps are otherwise collected for a second each: 11 s for the first client.
paxos propose interval = 0.02
paxos min wait = 0.01
# A client that asks before the OSD is up otherwise looks again after 5 s.
objecter tick interval = 0.1
# The monitor otherwise ends itself on a disk that is 95 % full.
mon data avail crit = 0
# Overwritten objects are otherwise held for two hours.
rgw gc obj min wait = 10
rgw gc processor period = 10
"""

    def _run(self, program: str, *arguments: str) -> None:
        with ExitStack() as stop:
            process = self._spawn(stop, program, *arguments)
            self._wait_until(lambda: process.poll() is not None)
        if process.returncode != 0:
            raise self._start_error(f"{program} ended with {process.returncode}")

    def _daemon(self, stop: ExitStack, program: str, *arguments: str) -> None:
        daemon = self._spawn(stop, program, "--conf", self._conf, "--foreground", *arguments)
        self._daemons[program] = daemon

    def _spawn(self, stop: ExitStack, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        # setpriv, since a hook between fork and exec is unsafe in a process that has threads.
        with_parent = ("setpriv", "--pdeathsig", "KILL", "--")
        with (self._state_dir / "logs" / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(
                [*with_parent, str(self._root / "usr" / "bin" / program), *arguments],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops the cluster
            )
        stop.callback(process.wait)
        stop.callback(process.kill)  # nothing in a cluster for tests is worth a slow shutdown
        return process

    def _environment(self) -> dict[str, str]:
        patterns = ("usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/ceph", "lib/*-linux-gnu")
        folders = [str(folder) for pattern in patterns for folder in self._root.glob(pattern)]
        return {"PATH": os.defpath, "LD_LIBRARY_PATH": ":".join(folders)}

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            for program, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise self._start_error(f"{program} ended with {daemon.returncode}")
            if time.monotonic() > self._deadline:
                raise self._start_error(f"it was not ready in {START_TIMEOUT_S:g} s")
            time.sleep(POLL_INTERVAL_S)

    def _start_error(self, reason: str) -> GatewayStartError:
        # Newest last: that is the log to read first.
        logs = sorted((self._state_dir / "logs").iterdir(), key=lambda log: log.stat().st_mtime_ns)
        tails = [_last_lines(log) for log in logs]
        return GatewayStartError("\n".join([f"the RADOS Gateway did not start: {reason}", *tails]))


def _last_lines(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line]
    return "\n".join([f"--- {log} (last lines)", *lines[-LOG_TAIL_LINES:]])


@contextmanager
def _reserved_port() -> Iterator[int]:
    """Keep a free TCP port from everyone but a server that sets SO_REUSEADDR, as Ceph's do."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        port: int = reservation.getsockname()[1]
        yield port


def _accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers_http(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
