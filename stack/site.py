"""A server as data, and the site: the folders, ports and secrets that all servers share."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .readiness import Probe
from .supervision import Program

LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Service:
    """A server.

    Attributes:
        programs: its processes, started together.
        probe: returns None when the server is ready, else a text with the missing part.
        ports: the names of the ports that it listens on.
        first: a process that has to succeed before ``programs`` start.
        after: services that have to be ready before ``first``; services that the stack lacks are ignored.
        held: a probe that holds a program back until it is ready, by the program's name; the programs
            before it already run.
    """

    programs: Sequence[Program]
    probe: Probe
    ports: Sequence[str]
    first: Program | None = None
    after: Sequence[str] = ()
    held: Mapping[str, Probe] = field(default_factory=dict)

    @property
    def all(self) -> list[Program]:
        """Every process, ``first`` included."""
        return [*([self.first] if self.first else []), *self.programs]


@dataclass(frozen=True)
class Site:
    """The folders, ports and secrets of one stack.

    Attributes:
        repo: the checkout; has ``dags/``, ``.venv-triton/`` and ``stack/triton_backends/``.
        state_dir: the folder that the servers write to, except for the model repository.
        model_repository: the repository of the serving Triton and of the staging Triton.
        dags: the folder that Airflow parses.
        dag_ids: the DAGs without which Airflow is not ready.
        ports: the port of each name in ``stack.ports.DEFAULT_PORTS``.
        triton_args: further arguments of every ``tritonserver``, staging included.
        extra: further environment variables of every process.
    """

    repo: Path
    state_dir: Path
    model_repository: Path
    dags: Path
    dag_ids: Collection[str]
    ports: Mapping[str, int]
    triton_args: Sequence[str] = ()
    extra: Mapping[str, str] = field(default_factory=dict)

    def url(self, name: str) -> str:
        """Return the address of port ``name``; for gRPC without a scheme, as gRPC clients expect it."""
        address = f"{LOCAL}:{self.ports[name]}"
        return address if name.endswith("-grpc") else f"http://{address}"

    def secret(self, name: str) -> str:
        """Return secret ``name``: 32 random bytes, URL-safe base64, kept in the state directory."""
        path = self.state_dir / "secrets" / name
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_text(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
        return path.read_text()

    @property
    def airflow_login(self) -> tuple[str, str]:
        """User name and password of Airflow's administrator."""
        return "admin", self.secret("airflow-password")[:16]
