"""The port of each server on 127.0.0.1."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterable, Mapping

from .errors import StackError

DEFAULT_PORTS: Mapping[str, int] = {
    "s3": 9000,
    "mlflow": 5000,
    "triton": 8000,
    "triton-grpc": 8001,
    "triton-metrics": 8002,
    "triton-staging": 8020,
    "triton-staging-grpc": 8021,
    "triton-staging-metrics": 8022,
    "airflow": 8080,
    "gateway": 8100,
    "events": 8110,
    "prometheus": 9090,
    "postgres": 5432,
    "redis": 6379,
}

FREE_RANGE = range(10_000, 32_000)
"""The ports that ``free_ports`` picks from.

The range is below the kernel's range for outgoing connections (32768 up), so that a picked port stays free
until its server binds it some seconds later. Processes that pick ports at the same time set this to ranges
that don't overlap.
"""


def setting(name: str) -> str:
    """Return the environment variable that sets the port ``name``: ``STACK_TRITON_GRPC_PORT``."""
    return f"STACK_{name.upper().replace('-', '_')}_PORT"


def configured_ports(environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Return the port of each name in ``DEFAULT_PORTS``: from the environment, else the default.

    Raises:
        StackError: a setting is not a port number, or two names share one port.
    """
    ports = {name: _parse(environment, name) for name in DEFAULT_PORTS}
    for name, port in ports.items():
        twins = [other for other in ports if ports[other] == port]
        if len(twins) > 1:
            settings = " and ".join(setting(twin) for twin in twins)
            raise StackError(f"port {port} is given twice: by {settings}; {name} needs its own")
    return ports


def free_ports() -> dict[str, int]:
    """Return a free port for each name in ``DEFAULT_PORTS``; all different.

    Raises:
        StackError: no free port was found.
    """
    candidates = (p for p in random.sample(FREE_RANGE, 1000) if _is_free(p))
    ports = dict(zip(DEFAULT_PORTS, candidates, strict=False))
    if len(ports) < len(DEFAULT_PORTS):
        raise StackError(f"no free port between {FREE_RANGE.start} and {FREE_RANGE.stop}")
    return ports


def check_free(ports: Mapping[str, int], names: Iterable[str]) -> None:
    """Check that nothing listens on the ports of ``names``.

    Raises:
        StackError: a port is taken; the text names all taken ports and their settings.
    """
    taken = [name for name in names if not _is_free(ports[name])]
    if taken:
        lines = [
            f"port {ports[name]} ({name}) is taken: stop what listens there"
            f" or set {setting(name)} to another port"
            for name in taken
        ]
        raise StackError("\n".join(lines))


def _parse(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(setting(name)) or str(DEFAULT_PORTS[name])
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise StackError(f"{setting(name)}={text!r} is not a port number between 1 and 65535")
    return int(text)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # The servers set this option, too: a port whose last connections are in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
