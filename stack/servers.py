"""The embedded stack as an object: start it, ask for its addresses, kill a process on purpose, stop it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ml_code.triton_deploy.rules.names import PLAIN_PATH, needs_quoting

from . import services as known
from .claim import Claim
from .errors import StackError
from .ports import check_free, free_ports
from .site import Service, Site
from .startup import await_all, bring_up, until_ready
from .supervision import ProcessState, Supervisor

REPO = Path(__file__).resolve().parents[1]
DEPLOY_DAG = "mlflow_to_triton_deploy"


class Stack:
    """Real servers on 127.0.0.1, supervised.

    supervisord restarts a process that dies. All processes end with the thread that called ``start``,
    whatever ends that thread, so call ``start`` from a thread that lives as long as the stack should.

    Services are ``s3``, ``postgres``, ``mlflow`` (needs ``s3``), ``triton``, ``triton-staging``,
    ``airflow`` (needs ``postgres``), ``triggerer`` (needs ``airflow``), ``gateway`` (needs ``triton``),
    ``events`` (needs ``mlflow`` and ``airflow``) and, only when they are named, ``prometheus`` (needs
    ``gateway``), and ``redis`` and ``worker`` (see ``stack.distributed``). With ``triton-staging`` every
    deploy tries its candidate there first. A process has the name of its service, except
    ``airflow-api-server``, ``airflow-scheduler``, ``airflow-dag-processor`` and ``airflow-triggerer``.
    """

    def __init__(
        self,
        state_dir: Path,
        services: Collection[str] = known.SERVICES,
        *,
        ports: Mapping[str, int] | None = None,
        model_repository: Path | None = None,
        dags: Path = REPO / "dags",
        dag_ids: Collection[str] = (DEPLOY_DAG,),
        # A deploy writes complete configurations. Without this argument each load starts a process that
        # takes a second or more to find nothing to add.
        triton_args: Sequence[str] = ("--disable-auto-complete-config",),
        environment: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda line: None,
        repo: Path = REPO,
        fresh: bool = False,
    ) -> None:
        """Describe a stack; starts nothing.

        Args:
            state_dir: folder for data, logs and secrets; a later stack on the same folder goes on with them.
            services: the services that ``start`` may start; by default it starts all of them.
            ports: a port for each name in ``stack.ports.DEFAULT_PORTS``; default: free ones.
            model_repository: Triton's model repository; default: ``<state_dir>/model-repo``.
            dags: the folder that Airflow parses.
            dag_ids: DAGs that must be parsed before Airflow counts as ready.
            triton_args: further arguments of every ``tritonserver``, staging included.
            environment: further variables for every process, Airflow's tasks included.
            report: called with a line when a service is ready.
            repo: the checkout.
            fresh: delete the files of an earlier stack in ``state_dir`` at the start.

        Raises:
            StackError: a service is unknown or lacks another, or no port is free.
        """
        state_dir = state_dir.absolute()
        self._site = Site(
            repo=repo,
            state_dir=state_dir,
            model_repository=(model_repository or state_dir / "model-repo").absolute(),
            dags=dags,
            dag_ids=dag_ids,
            ports=ports or free_ports(),
            triton_args=triton_args,
            extra=environment or {},
        )
        known.check_names(services)
        self._names = set(services)
        self._report = report
        self._fresh = fresh
        self._claim = Claim(state_dir)
        self._services: dict[str, Service] = {}
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def start(self, services: Collection[str] | None = None, timeout_s: float = 180) -> None:
        """Start ``services`` (default: all) together and return when each is ready.

        May be called again for further services. If the first call fails, no process is left running.

        Raises:
            StackError: another stack has the state directory, a port is taken, a process ended, or a
                service was not ready in time. The text names the process and its log, with the last lines.
        """
        names = [name for name in known.KNOWN if name in (services or self._names)]
        first = self._supervisor is None
        try:
            supervisor = self._supervisor or self._start_supervisor()
            check_free(self._site.ports, (p for n in names for p in self._services[n].ports))
            steps = {name: bring_up(supervisor, self._services[name], self._before(name)) for name in names}
            await_all(supervisor, self._services, steps, timeout_s, self._report)
        except BaseException:
            if first:
                self.stop()
            raise

    def stop(self) -> None:
        """Stop every process and return when none is left; does nothing if the stack does not run."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        self._claim.give_back()

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a deployer, trainer or client of this stack, and Airflow's settings."""
        return known.client_environment(self._site, self._names)

    @property
    def airflow_login(self) -> tuple[str, str]:
        """User name and password of Airflow's administrator."""
        return self._site.airflow_login

    @property
    def events_secret(self) -> str:
        """The key with which MLflow signs its webhooks."""
        return self._site.secret("events")

    @property
    def model_repository(self) -> Path:
        """Triton's model repository."""
        return self._site.model_repository

    def url(self, name: str) -> str:
        """Return the address of a port, for example ``s3`` or ``triton[-staging][-grpc|-metrics]``.

        The form is ``http://host:port``; for gRPC ``host:port``, as gRPC clients expect it.
        """
        return self._site.url(name)

    def log_path(self, name: str) -> Path:
        """Return the log file of process ``name``."""
        return self._running.log_path(name)

    def states(self) -> dict[str, ProcessState]:
        """Return the state of every process by name, as supervisord reports it."""
        return self._running.states()

    def pid(self, name: str) -> int:
        """Return the id of process ``name``; 0 when it does not run."""
        return self.states()[name].pid

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to process ``name``, not to its children; supervisord restarts a process that dies.

        Raises:
            ProcessLookupError: the process does not run.
        """
        pid = self.pid(name)
        if not pid:
            raise ProcessLookupError(f"{name} does not run")
        os.kill(pid, number)

    def stop_process(self, name: str) -> None:
        """Stop process ``name`` with its children, until ``start_process``."""
        self._running.stop_process(name)

    def start_process(self, name: str, timeout_s: float | None = 60) -> None:
        """Start process ``name`` and wait until its service is ready; with a timeout of ``None`` do not wait.

        Raises:
            StackError: the service is not ready in time.
        """
        self._running.start_process(name)
        if timeout_s is not None:
            self.wait_ready(self._service_of(name), timeout_s)

    def restart(self, name: str, timeout_s: float = 60) -> None:
        """Stop and start process ``name``, and wait until its service is ready.

        Raises:
            StackError: the service is not ready in time.
        """
        self.stop_process(name)
        self.start_process(name, timeout_s)

    def wait_ready(self, service: str, timeout_s: float = 60) -> None:
        """Wait until ``service`` is ready; supervisord may restart its processes meanwhile.

        Raises:
            StackError: the service is not ready in time, or supervisord gave up on one of its processes.
        """
        steps = {service: until_ready(self._running, self._services[service], restarts=True)}
        await_all(self._running, self._services, steps, timeout_s)

    @property
    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise StackError("the stack does not run")
        return self._supervisor

    def _start_supervisor(self) -> Supervisor:
        for path in (self._site.repo, self._site.state_dir, self._site.model_repository):
            if odd := needs_quoting(str(path)):
                raise StackError(
                    f"{str(path)!r} has {odd} in it: Triton can't start models there, it does not quote the path for its shell. "
                    f"Nothing was started; use a path of {PLAIN_PATH} only"
                )
        self._site.state_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
        # Take the claim before the first write or delete: another stack may be running on these files.
        self._claim.take()
        if self._fresh:
            self._claim.clear()
        self._services = known.build(self._site, self._names)
        programs = [program for service in self._services.values() for program in service.all]
        self._supervisor = Supervisor(self._site.state_dir, programs, self._claim)
        self._supervisor.start()
        return self._supervisor

    def _before(self, name: str) -> list[Service]:
        return [self._services[other] for other in self._services[name].after if other in self._services]

    def _service_of(self, process: str) -> str:
        for name, service in self._services.items():
            if process in [program.name for program in service.programs]:
                return name
        raise StackError(f"no process {process!r}")
