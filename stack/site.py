"""A server and the place where servers are, for those who say what each server is."""

import base64
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stack.readiness import Probe
from stack.supervision import Program

LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Service:
    """A server.

    Attributes:
        programs: its processes, started together.
        probe: None when it is ready, or what is missing.
        ports: the names of the ports that it listens on.
        first: a process that has to succeed before `programs` start.
        after: services that have to be ready before `first`, those of them that the stack has.
        held: what has to be there before a program is started, by the program's name; those before it run by then.
    """

    programs: Sequence[Program]
    probe: Probe
    ports: Sequence[str]
    first: Program | None = None
    after: Sequence[str] = ()
    held: Mapping[str, Probe] = field(default_factory=dict)

    @property
    def all(self) -> list[Program]:
        """Every process, `first` included."""
        return [*([self.first] if self.first else []), *self.programs]


@dataclass(frozen=True)
class Site:
    """Where everything is.

    Attributes:
        repo: the checkout; has `dags/`, `.venv-triton/` and `stack/triton_backends/`.
        state_dir: everything that the servers write, except the model repository.
        model_repository: what Triton serves, and where the staging Triton finds candidates.
        dags: the folder that Airflow parses.
        dag_ids: the DAGs without which Airflow is not ready.
        ports: the port of each name in `stack.ports.DEFAULT_PORTS`.
        triton_args: further arguments of `tritonserver`, the staging one's too.
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
        """Return the address of port `name`; without a scheme for gRPC, as its clients want it."""
        address = f"{LOCAL}:{self.ports[name]}"
        return address if name.endswith("-grpc") else f"http://{address}"

    def secret(self, name: str) -> str:
        """Return secret `name`: 32 random bytes, URL-safe base64, kept in the state directory."""
        path = self.state_dir / "secrets" / name
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_text(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
        return path.read_text()

    @property
    def airflow_login(self) -> tuple[str, str]:
        """User name and password of Airflow's administrator."""
        return "admin", self.secret("airflow-password")[:16]
