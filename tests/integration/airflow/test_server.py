"""The Airflow of the embedded stack: it has the DAGs, answers many at once, and listens on this machine only."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from stack import Stack
from stack.airflow_api import AirflowApi
from tests.support.airflow.settings import RECONCILE_DAG
from tests.support.servers.processes import processes_of

pytestmark = pytest.mark.integration


def test_airflow_has_parsed_the_deploy_dag_and_its_tasks_get_the_deployers_environment(
    stack_with_airflow: Stack,
) -> None:
    url = stack_with_airflow.url("airflow")
    username, password = stack_with_airflow.airflow_login
    login = {"username": username, "password": password}
    token = requests.post(f"{url}/auth/token", json=login, timeout=10).json()["access_token"]
    dag = requests.get(
        f"{url}/api/v2/dags/mlflow_to_triton_deploy",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    ).json()
    assert dag["is_paused"] is False

    scheduler = stack_with_airflow.pid("airflow-scheduler")
    given = Path(f"/proc/{scheduler}/environ").read_bytes().decode().split("\0")
    wanted = {f"{name}={value}" for name, value in stack_with_airflow.environment.items()}
    assert wanted <= set(given)


def test_airflow_answers_many_writers_at_once(stack_with_airflow: Stack) -> None:
    """Its API server waits on its event loop for a connection to the database while who has one waits for that loop."""

    def write(_: int) -> None:
        api = AirflowApi(stack_with_airflow.url("airflow"), stack_with_airflow.airflow_login)
        for _ in range(5):
            api.pause(RECONCILE_DAG)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(write, range(32)))


def test_every_server_listens_on_this_machine_only(stack_with_airflow: Stack) -> None:
    ours = processes_of(stack_with_airflow.log_path("s3").parents[1])
    inodes = {inode for pid in ours for inode in _socket_inodes(pid)}
    listening = [
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[9] in inodes
    ]
    assert len(listening) >= 6
    mapped = "0000000000000000FFFF00000100007F"
    assert {address.rpartition(":")[0] for address in listening} <= {"0100007F", mapped}


def _socket_inodes(pid: int) -> set[str]:
    links = (str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
