"""Airflow on several hosts that share only the model repository: CeleryExecutor, PostgreSQL, Redis, two Tritons, two gateways."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest
import requests
from celery import Celery

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from stack import Stack
from stack.__main__ import distributed_summary
from stack.debian_packages import NotDebian12
from stack.distributed import Distributed
from stack.servers import DEPLOY_DAG, REPO
from stack.services import postgres, redis
from stack.services.tritons import STAGING
from tests.support.airflow.dag_copies import QUICK_RETRIES, dags_with_copies
from tests.support.airflow.models import ALL_WENT_WELL, TASKS, Model, deployed, failed_at, good, hanging_load
from tests.support.airflow.runs import AirflowServer
from tests.support.airflow.settings import PARSED_ONCE, RECONCILE_DAG, SOON_MISSED
from tests.support.models import files, golden, times
from tests.support.servers.gateways import Traffic
from tests.support.servers.publisher import Publisher
from tests.support.waiting import eventually

# Two hosts, Celery and Redis take minutes.
pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(600)]

REVERT_DAG = "revert_triton"
QUEUE = "default"
LIMIT_S = 240


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distributed]:
    try:
        redis.installation(REPO)
    except NotDebian12 as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("distributed")
    distributed = Distributed(
        home,
        dags=dags_with_copies(home / "dags"),
        dag_ids=[DEPLOY_DAG, QUICK_RETRIES, REVERT_DAG, RECONCILE_DAG],
        # What nobody asks for is not run: it would take the workers' time.
        environment={**SOON_MISSED, **PARSED_ONCE, "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True"},
    )
    with distributed:
        AirflowServer(distributed.center, RECONCILE_DAG).pause()
        for dag_id in (DEPLOY_DAG, QUICK_RETRIES, REVERT_DAG):
            AirflowServer(distributed.center, dag_id).pause(False)
        yield distributed


class Hosts:
    """Says which hosts' workers take tasks; one that is told to stop ends what it has begun."""

    def __init__(self, platform: Distributed) -> None:
        self.platform = platform
        self._control = Celery(broker=platform.environment["AIRFLOW__CELERY__BROKER_URL"]).control

    def only(self, *names: str) -> None:
        for name in ("host-1", "host-2"):
            order = self._control.add_consumer if name in names else self._control.cancel_consumer
            order(QUEUE, destination=[f"airflow@{name}"], reply=True, timeout=2)

    def of(self, name: str) -> Stack:
        return self.platform.hosts[int(name.removeprefix("host-")) - 1]

    def lose(self, name: str) -> None:
        """Kill the worker with everything that it runs, as when its machine is lost, and leave it so."""
        worker = psutil.Process(self.of(name).pid("worker"))
        # Stopped first, so that none begins another meanwhile.
        for process in (tree := [worker, *worker.children(recursive=True)]):
            process.suspend()
        for process in tree:
            process.kill()

        def stopped() -> bool:
            # One that has ended and is about to be started again takes no order.
            self.of(name).stop_process("worker")
            return self.of(name).states()["worker"].state == "STOPPED"

        eventually(stopped, "the worker stays away")


@pytest.fixture
def hosts(platform: Distributed) -> Iterator[Hosts]:
    found = Hosts(platform)
    yield found
    for name in ("host-1", "host-2"):
        found.of(name).start_process("worker", timeout_s=LIMIT_S)
    found.only("host-1", "host-2")


@pytest.fixture
def live(platform: Distributed) -> Model:
    """A model whose version 1 is live on both Tritons."""
    # Any host's variables name both Tritons; the URLs are those of its own.
    model = deployed(platform.hosts[0])
    assert len(model.settings.triton.grpc_urls) == 2
    return model


def served(model: Model, platform: Distributed) -> list[set[int]]:
    """The versions that the public name means, on each Triton."""
    found = []
    for host in platform.hosts:
        elsewhere = Model(host)
        found.append(elsewhere.ready_versions(model.name))
    return found


def wait_until_known(gateway: str, model: str) -> None:
    """A gateway looks for models that are new once a second."""
    url = f"http://{gateway}/model-info/{model}"
    with requests.Session() as session:
        session.trust_env = False
        eventually(lambda: session.get(url, timeout=30).ok, f"{url} knows what is live")


def steps_on(airflow: AirflowServer, run_id: str) -> dict[str, str]:
    """The host that ran each step of a deploy."""
    where = airflow.hosts(run_id)
    return {task: where[task] for task in TASKS.values()}


def has_log(host: Stack, run_id: str, task: str) -> bool:
    folder = host.log_path("worker").parent / "airflow-tasks"
    return any(folder.glob(f"*/run_id={run_id}/task_id={task}/*.log"))


def assert_settled(model: Model, platform: Distributed, serving: int) -> None:
    """Nothing is left to be done, and both Tritons serve the version."""
    found = Reconciler(model.settings).run(model.name)
    assert (found.live, found.problems, found.under_way) == (serving, (), "")
    assert served(model, platform) == [{serving}, {serving}]


def test_a_deploy_a_rollback_and_a_revert_by_tasks_on_both_hosts(
    live: Model, platform: Distributed, hosts: Hosts
) -> None:
    airflow = AirflowServer(platform.center)
    for address in platform.gateways:
        wait_until_known(address, live.name)
    with ExitStack() as asking:
        traffic = [
            asking.enter_context(Traffic(address, live.name, per_second=20, clients=1))
            for address in platform.gateways
        ]
        live.register()
        hosts.only("host-1")
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            hosts.only("host-2")
        run = airflow.ended(run_id, limit_s=LIMIT_S)
        assert run.tasks == ALL_WENT_WELL
        first, second = ["snapshot", "materialize", "load"], ["ready", "smoke", "commit"]
        assert steps_on(airflow, run_id) == {
            **{TASKS[step]: "host-1" for step in first},
            **{TASKS[step]: "host-2" for step in second},
        }
        for task, name in steps_on(airflow, run_id).items():
            assert has_log(hosts.of(name), run_id, task)
        assert not has_log(hosts.of("host-2"), run_id, TASKS["load"]), "the hosts share a folder"
        assert served(live, platform) == [{2}, {2}]

        live.register(files(times(3), triton__golden_json=golden(7)))
        hosts.only("host-1", "host-2")
        run_id = airflow.deploy(model=live.name, deploy_id="d3")
        run = airflow.ended(run_id, limit_s=LIMIT_S)
        # In the staging Triton, before either of the two has it.
        assert run.tasks == failed_at("load")
        assert served(live, platform) == [{2}, {2}]

        hosts.only("host-1")
        revert = AirflowServer(platform.center, REVERT_DAG)
        run_id = revert.deploy(model=live.name)
        assert revert.ended(run_id, limit_s=LIMIT_S).state == "success"
        assert revert.hosts(run_id) == {"revert": "host-1"}
        assert_settled(live, platform, serving=1)
    for seen in traffic:
        seen.assert_unnoticed()
        assert seen.seen.versions == {1, 2}


def test_what_up_distributed_says_is_there(platform: Distributed, tmp_path: Path) -> None:
    text = distributed_summary(platform, tmp_path / "env")
    urls = re.findall(r"http://127\.0\.0\.1:\d+", text)
    assert urls == [
        *(platform.center.url(name) for name in ("airflow", "mlflow", STAGING)),
        *(host.url(name) for host in platform.hosts for name in ("triton", "gateway")),
    ]
    folders = re.findall(r"(?:models|logs) +(/[^\s,]+)", text)
    assert len(folders) == 2 + len(platform.hosts)
    assert all(Path(folder).is_dir() for folder in folders)
    assert "(user admin, password " in text


def test_a_worker_is_lost_in_mid_deploy_and_another_goes_on(
    live: Model, platform: Distributed, hosts: Hosts
) -> None:
    """Its Triton goes on; Airflow misses the worker's heartbeat, and the next try is the other host's."""
    airflow = AirflowServer(platform.center, QUICK_RETRIES)
    live.register()
    with live.client() as client:
        hosts.only("host-1")
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            hosts.only("host-2")
            hosts.lose("host-1")
        run = airflow.ended(run_id, limit_s=LIMIT_S)
        assert run.tasks == ALL_WENT_WELL
        assert airflow.tries(run_id, TASKS["load"]) == 2
        assert steps_on(airflow, run_id) == {
            **dict.fromkeys(TASKS.values(), "host-2"),
            TASKS["snapshot"]: "host-1",
            TASKS["materialize"]: "host-1",
        }
        assert live.state("d2") is State.COMMITTED
        assert_settled(live, platform, serving=2)
        seen = client.seen()
    assert seen.failures == ()
    assert seen.distinct == ((1, 1.0), (2, 2.0))


def test_postgres_is_restarted_in_mid_deploy(live: Model, platform: Distributed, hosts: Hosts) -> None:
    """Whatever Airflow makes of it, the deploy comes to an end, and clients never notice."""
    airflow = AirflowServer(platform.center)
    live.register()
    with live.client() as client:
        hosts.only("host-1", "host-2")
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            platform.center.restart("postgres")
        platform.center.wait_ready("airflow", LIMIT_S)
        run = airflow.ended(run_id, limit_s=LIMIT_S)
        assert run.tasks == ALL_WENT_WELL
        assert_settled(live, platform, serving=2)
        seen = client.seen()
    assert seen.failures == ()
    assert seen.distinct == ((1, 1.0), (2, 2.0))


# Backup and restore, as docs/operations.md has it


class Backup:
    """What docs/operations.md says to keep: the model repository, and MLflow's database."""

    def __init__(self, platform: Distributed, folder: Path) -> None:
        self._repository = platform.center.model_repository
        self._archive, self._dump = folder / "model-repo.tar", folder / "mlflow.dump"
        self._programs = postgres.programs()
        self._server = platform.environment["MLFLOW_BACKEND_STORE_URI"].rpartition("/")[0]

    def take(self) -> None:
        self._run("tar", "--create", "--file", self._archive, "--directory", self._repository, ".")
        self._run(
            self._programs / "pg_dump", "--format=custom", "--file", self._dump, f"{self._server}/mlflow"
        )

    def restore_repository(self) -> None:
        self._run("tar", "--extract", "--file", self._archive, "--directory", self._repository)

    def restore_registry(self) -> None:
        self._run(
            self._programs / "pg_restore",
            *("--clean", "--if-exists", "--dbname"),
            f"{self._server}/mlflow",
            self._dump,
        )

    def lose_registry(self) -> None:
        with psycopg.connect(f"{self._server}/mlflow", autocommit=True) as database:
            database.execute("DROP SCHEMA public CASCADE")
            database.execute("CREATE SCHEMA public")

    def _run(self, *argv: str | Path) -> None:
        done = subprocess.run([*map(str, argv)], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_what_was_lost_is_restored_from_a_backup_and_served_again(
    live: Model, platform: Distributed, tmp_path: Path
) -> None:
    """Version 3 was deployed after the backup: what is restored is what serves, on Tritons that served something else."""
    live.register()
    live.deploy()
    backup = Backup(platform, tmp_path)
    backup.take()
    live.register()
    live.deploy()
    assert served(live, platform) == [{3}, {3}]

    for lost in [live.path, *live.path.parent.glob(f"{live.name}.v*")]:
        shutil.rmtree(lost)
    backup.lose_registry()
    backup.restore_repository()
    backup.restore_registry()

    found = Reconciler(live.settings).run(live.name, deep=True)
    assert (found.live, found.problems) == (2, ())
    assert_settled(live, platform, serving=2)
    # MLflow forgot version 3, too: the next one has its number again.
    assert Publisher(platform.environment).publish(live.name, good(3), alias="A") == 3
    Deployer(live.settings).deploy(DeployRequest(model=live.name, alias="A", deploy_id="after"))
    assert_settled(live, platform, serving=3)
