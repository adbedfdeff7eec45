"""The embedded stack: its servers answer, it stops whole, it says what went wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError

from ml_code.triton_deploy.clients.triton import GrpcTriton
from stack import Stack, StackError, services
from stack.__main__ import services_here
from stack.ports import free_ports
from stack.services.tritons import STAGING
from stack.site import Service, Site
from stack.supervision import Program, Supervisor
from tests.support.lazily import lazily
from tests.support.servers.debian_packages import unpacked
from tests.support.servers.processes import processes_of
from tests.support.servers.prometheus_server import program
from tests.support.servers.tritons import TritonServer
from tests.support.waiting import eventually

mlflow = lazily("mlflow")

pytestmark = pytest.mark.integration


ECHO = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def execute(self, requests):
        return []
"""


def s3_is_up(stack: Stack) -> bool:
    # Without a signature it says 400.
    return requests.get(stack.url("s3"), timeout=5).status_code == 400


# what runs


def test_s3_wants_the_keys(stack: Stack) -> None:
    environment = stack.environment

    def client(secret_key: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret_key,
            region_name=environment["AWS_DEFAULT_REGION"],
        )

    buckets = client(environment["AWS_SECRET_ACCESS_KEY"]).list_buckets()["Buckets"]
    assert "mlflow" in [bucket["Name"] for bucket in buckets]
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client("wrong").list_buckets()


@pytest.mark.parametrize("location", [None, "s3://mlflow/direct"], ids=["proxied", "direct"])
def test_mlflow_keeps_artifacts_on_s3_both_ways(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, location: str | None
) -> None:
    for name, value in stack.environment.items():
        if location or not name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    mlflow().set_tracking_uri(stack.url("mlflow"))
    client = mlflow().MlflowClient()
    experiment = client.create_experiment(str(uuid.uuid4()), artifact_location=location)
    run = client.create_run(experiment).info
    payload = os.urandom(1000)
    (tmp_path / "a.bin").write_bytes(payload)

    client.log_artifact(run.run_id, str(tmp_path / "a.bin"))

    scheme, _, path = run.artifact_uri.partition(":/")
    assert scheme == ("s3" if location else "mlflow-artifacts")
    back = client.download_artifacts(run.run_id, "a.bin", str(tmp_path.joinpath("back")))
    assert Path(back).read_bytes() == payload
    if not location:
        presigned = f"{stack.url('mlflow')}/api/2.0/mlflow-artifacts/presigned/{path}/a.bin"
        url = requests.get(presigned, timeout=10).json()["url"]
        assert url.startswith(stack.url("s3"))
        assert requests.get(url, timeout=10).content == payload


def test_triton_loads_what_it_is_told_to_and_has_metrics(stack: Stack) -> None:
    unknown = requests.post(f"{stack.url('triton')}/v2/repository/models/none/load", timeout=10)
    assert "failed to load 'none'" in unknown.json()["error"]
    metrics = requests.get(f"{stack.url('triton-metrics')}/metrics", timeout=10)
    assert "nv_" in metrics.text


def test_a_staging_triton_runs_beside_the_one_that_serves_and_begins_empty(tmp_path: Path) -> None:
    model = tmp_path / "model-repo/echo"
    (model / "1").mkdir(parents=True)
    (model / "1/model.py").write_text(ECHO)
    (model / "config.pbtxt").write_text('backend: "python"\n')
    with Stack(tmp_path, ["triton", STAGING]) as stack:
        serving, staging = (GrpcTriton(stack.url(f"{name}-grpc"), 10) for name in ("triton", STAGING))
        assert (serving.loaded(), staging.loaded()) == ({"echo": (1,)}, {})
        assert serving.about() == staging.about()
        assert "echo" in staging.folders()
        # Both load it, each in processes and shared memory of its own.
        staging.load("echo", 20)
        assert staging.loaded() == serving.loaded()
        stack.kill(STAGING)
        eventually(lambda: stack.states()[STAGING].state == "RUNNING", "it is started again", 60)
        stack.wait_ready(STAGING)
        assert (serving.loaded(), staging.loaded()) == ({"echo": (1,)}, {})


# faults


def test_a_killed_process_is_started_again(
    triton_server: Callable[..., TritonServer], tmp_path: Path
) -> None:
    server = triton_server(tmp_path)
    stack, first = server.stack, server.pid
    # Before that, supervisord calls it a failed start and has other rules.
    eventually(lambda: stack.states()["triton"].state == "RUNNING")

    stack.kill("triton")
    eventually(lambda: stack.pid("triton") not in (0, first))
    stack.wait_ready("triton")

    assert requests.get(f"{stack.url('triton')}/v2/health/live", timeout=10).ok


def test_a_stopped_process_stays_away_until_it_is_started(tmp_path: Path) -> None:
    with Stack(tmp_path, ["s3"]) as stack:
        stack.stop_process("s3")
        assert stack.pid("s3") == 0
        with pytest.raises(requests.ConnectionError):
            requests.get(stack.url("s3"), timeout=5)
        with pytest.raises(ProcessLookupError, match="s3 does not run"):
            stack.kill("s3")

        stack.start_process("s3")
        assert s3_is_up(stack)

        first = stack.pid("s3")
        stack.restart("s3")
        assert stack.pid("s3") != first


def test_data_and_keys_outlive_the_stack(tmp_path: Path) -> None:
    with Stack(tmp_path, ["s3"]) as stack:
        before = stack.environment["AWS_SECRET_ACCESS_KEY"]
    with Stack(tmp_path, ["s3"]) as stack:
        assert stack.environment["AWS_SECRET_ACCESS_KEY"] == before


# what cannot start


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    ports = free_ports()
    with socket.create_server(("127.0.0.1", ports["triton-grpc"])):
        stack = Stack(tmp_path, ["s3", "triton"], ports=ports)
        with pytest.raises(StackError) as error:
            stack.start()
    assert str(error.value) == (
        f"port {ports['triton-grpc']} (triton-grpc) is taken:"
        " stop what listens there or set STACK_TRITON_GRPC_PORT to another port"
    )
    assert not processes_of(tmp_path)


def test_a_server_that_ends_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    stack = Stack(tmp_path, ["s3", "triton"], triton_args=["--no-such-option"])
    with pytest.raises(StackError, match=r"triton ended") as error:
        stack.start()
    log = tmp_path / "logs/triton.log"
    assert str(log) in str(error.value)
    assert log.read_text().splitlines()[-1] in str(error.value)
    assert not processes_of(tmp_path)


def test_a_server_that_is_late_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(site: Site, names: Collection[str]) -> dict[str, Service]:
        # A server that is quick enough to be ready at the first question would make this a race.
        built = services_as_they_are(site, names)
        return {name: replace(service, probe=lambda: "it naps") for name, service in built.items()}

    services_as_they_are = services.build
    monkeypatch.setattr(services, "build", late)
    with pytest.raises(StackError, match=r"s3 is not ready after 0.3 s: it naps") as error:
        Stack(tmp_path, ["s3"]).start(timeout_s=0.3)
    assert str(tmp_path / "logs/s3.log") in str(error.value)
    assert not processes_of(tmp_path)


@pytest.mark.parametrize("fresh", [False, True])
def test_two_stacks_cannot_share_a_state_directory_and_the_first_is_not_harmed(
    tmp_path: Path, fresh: bool
) -> None:
    with Stack(tmp_path, ["s3", "triton"]) as stack:
        before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if "logs" not in path.parts}
        with pytest.raises(StackError, match=rf"a stack is running in .* \(pid {os.getpid()}\)"):
            Stack(tmp_path, ["s3", "triton"], fresh=fresh).start()
        assert before == {
            path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if "logs" not in path.parts
        }
        assert s3_is_up(stack)


# nothing is left behind


def test_stop_leaves_no_process(tmp_path: Path) -> None:
    with Stack(tmp_path, ["s3", "triton"]):
        assert len(processes_of(tmp_path)) >= 4  # the guard, supervisord, two servers
    assert not processes_of(tmp_path)


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
DAEMON = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True); time.sleep(600)"
PARENT = """
import json, os, signal, sys, time
from pathlib import Path
from stack.supervision import Program, Supervisor
from stack.services.tritons import STAGING
# Whoever runs the tests with nohup ignores it, and this process would, too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
programs = [Program(name, argv, dict(os.environ), stop_wait_s=1) for name, argv in json.loads(sys.argv[2])]
supervisor = Supervisor(Path(sys.argv[1]), programs)
supervisor.start()
for program in programs:
    supervisor.start_process(program.name)
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A parent of supervised processes: one ignores SIGTERM, one has a child in another session."""
    programs = [
        ("stubborn", [sys.executable, "-c", STUBBORN]),
        ("daemon", [sys.executable, "-c", DAEMON, STUBBORN]),
    ]
    argv = [sys.executable, "-c", PARENT, str(tmp_path), json.dumps(programs)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        eventually(lambda: len(processes_of(tmp_path)) == 5)
        yield parent
        parent.kill()
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_when_the_parent_dies_nothing_is_left(
    family: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    family.send_signal(number)
    eventually(lambda: not processes_of(tmp_path))


def test_when_supervisord_is_killed_nothing_is_left(family: subprocess.Popen[str], tmp_path: Path) -> None:
    (supervisord,) = (pid for pid in processes_of(tmp_path) if "supervisor.supervisord" in command_line(pid))
    os.kill(supervisord, signal.SIGKILL)
    eventually(lambda: not processes_of(tmp_path))
    assert family.poll() is None


def test_what_a_killed_program_leaves_in_its_process_group_ends(tmp_path: Path) -> None:
    """As the workers of a scheduler, which would keep its lock on the database; a child in a session of its own stays."""
    child = f"subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=own)"
    parent = f"import subprocess, sys, time\nfor own in (True, False): {child}\ntime.sleep(600)"
    supervisor = Supervisor(
        tmp_path, [Program("p", [sys.executable, "-c", parent], dict(os.environ), one_shot=True)]
    )
    supervisor.start()
    try:
        supervisor.start_process("p")
        eventually(lambda: len(processes_of(tmp_path)) == 5)
        guard_supervisord_and_daemon = 3
        os.kill(supervisor.states()["p"].pid, signal.SIGKILL)
        eventually(lambda: len(processes_of(tmp_path)) == guard_supervisord_and_daemon)
        (daemon,) = (pid for pid in processes_of(tmp_path) if "SIG_IGN" in command_line(pid))
        assert os.getsid(daemon) == daemon
    finally:
        supervisor.stop()
    assert not processes_of(tmp_path)


def test_a_supervisor_that_is_gone_is_reported(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [Program("p", [sys.executable, "-c", STUBBORN], {})])
    supervisor.start()
    supervisor.stop()
    with pytest.raises(StackError, match=r"supervisord does not answer .*supervisord\.log"):
        supervisor.states()


def test_what_is_installed_makes_no_difference_to_what_is_unpacked() -> None:
    """The library is installed where the tests run, more often than not."""
    libraries = [path.name for path in unpacked("nginx", ["nginx"]).rglob("lib*.so.*")]
    assert any(name.startswith("libssl.so") for name in libraries)
    assert not any(name.startswith("libc.so") for name in libraries), "every Debian has its own"


# the command


def test_prometheus_runs_where_it_is_installed_and_sees_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{program('prometheus').parent}:{os.environ['PATH']}")
    assert "prometheus" in services_here()
    with Stack(tmp_path, ["triton", STAGING, "gateway", "prometheus"]) as stack:
        url = stack.environment["TRITON_DEPLOY_PROMETHEUS_URL"]

        def seen() -> dict[str, str]:
            targets = requests.get(f"{url}/api/v1/targets", timeout=10).json()["data"]["activeTargets"]
            return {target["labels"]["job"]: target["health"] for target in targets}

        eventually(lambda: seen() == dict.fromkeys(("triton", STAGING, "gateway", "deployments"), "up"), 60)
        rules = requests.get(f"{url}/api/v1/rules", timeout=10).json()["data"]["groups"]
        assert {group["name"] for group in rules} == {
            *("gateway", "triton", "direct", "both"),
            *("objectives", "burn rates"),
            *("serving", "staging", "deployments"),
        }

        def counted_in(job: str) -> list[Any]:
            query = {"query": f'{{__name__=~"nv_.+", job="{job}"}}'}
            found: list[Any] = requests.get(f"{url}/api/v1/query", params=query, timeout=10).json()["data"][
                "result"
            ]
            return found

        # It has as many to tell, and they would be added to those of the Tritons that serve.
        assert "nv_" in requests.get(f"{stack.url(f'{STAGING}-metrics')}/metrics", timeout=10).text
        eventually(lambda: counted_in("triton"), "the Triton that serves is counted", 60)
        assert counted_in(STAGING) == []


def test_without_prometheus_nothing_asks_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not {"prometheus", "triggerer"} & set(services_here())
