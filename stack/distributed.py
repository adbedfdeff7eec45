"""Airflow as on several machines: a center, and hosts that share only the model repository."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from .ports import free_ports
from .servers import DEPLOY_DAG, REPO, Stack
from .services.tritons import STAGING

_OF_ONE_HOST = ("AIRFLOW_HOME", "NO_PROXY")


class Distributed:
    """A center and several hosts.

    The center has PostgreSQL, Redis, S3, MLflow, a staging Triton, and Airflow with Celery. Each host has a
    worker, a Triton and a gateway. The hosts are processes of this machine with folders of their own.
    Airflow knows them as ``host-1``, ``host-2`` and so on. Each host is a ``Stack``, so a test can kill and
    stop its processes.

    Attributes:
        center: the stack of the center.
        hosts: the stacks of the hosts.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        count: int = 2,
        ports: Mapping[str, int] | None = None,
        dags: Path = REPO / "dags",
        dag_ids: Collection[str] = (DEPLOY_DAG,),
        environment: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Describe center and hosts; starts nothing.

        Args:
            state_dir: folder for all files; the model repository is ``model-repo`` in it.
            count: number of hosts.
            ports: a port for each name in ``stack.ports.DEFAULT_PORTS``, for the center and the first host;
                default: free ones.
            dags: the folder that Airflow parses.
            dag_ids: DAGs that must be parsed before Airflow counts as ready.
            environment: further variables for every process.
            report: called with a line when a service is ready.

        Raises:
            StackError: no port is free.
        """
        first = dict(ports or free_ports())
        sites = [first, *(free_ports() for _ in range(count - 1))]
        repository = state_dir.absolute() / "model-repo"
        addresses = {
            "TRITON_DEPLOY_REPOSITORY": str(repository),
            "TRITON_DEPLOY_GRPC_URLS": ",".join(f"127.0.0.1:{site['triton-grpc']}" for site in sites),
            "GATEWAY_TRITON_URLS": ",".join(f"127.0.0.1:{site['triton']}" for site in sites),
            **(environment or {}),
        }
        self.center = Stack(
            state_dir / "center",
            ["s3", "mlflow", STAGING, "airflow", "postgres", "redis"],
            ports=first,
            model_repository=repository,
            dags=dags,
            dag_ids=dag_ids,
            environment=addresses,
            report=report,
        )
        self._report = report
        self._repository = repository
        self._sites = sites
        self._state_dir = state_dir
        self.hosts: list[Stack] = []

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def start(self, timeout_s: float = 300) -> None:
        """Start the center, then the hosts; return when all are ready. A failed start leaves no process.

        Args:
            timeout_s: longest wait for the center, and for each host, seconds.

        Raises:
            StackError: the center or a host did not start.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self.center.start(timeout_s=timeout_s)
            self.hosts = [self._host(number) for number in range(len(self._sites))]
            for host in self.hosts:
                host.start(timeout_s=timeout_s)
            undo.pop_all()

    def stop(self) -> None:
        """Stop center and hosts, all at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Stack.stop, [*self.hosts, self.center]))

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a deployer, trainer or client."""
        return self.center.environment

    @property
    def gateways(self) -> list[str]:
        """``host:port`` of every gateway."""
        return [urlsplit(host.url("gateway")).netloc for host in self.hosts]

    def _host(self, number: int) -> Stack:
        name = f"host-{number + 1}"
        # A host gets the center's secrets and addresses, but has folders of its own.
        given = {key: value for key, value in self.center.environment.items() if key not in _OF_ONE_HOST}
        return Stack(
            self._state_dir / name,
            ["triton", "gateway", "worker"],
            ports=self._sites[number],
            model_repository=self._repository,
            environment=given,
            report=lambda line: self._report(f"{name}: {line}"),
        )
