"""Each thing that the field gets wrong, provoked on the real servers: the doctor names the cause and what to do, and hangs on none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.doctor import DoctorVerdict, Finding, examine
from ml_code.triton_deploy.doctor.probe import PREFIX
from ml_code.triton_deploy.errors import DeployError
from stack import Stack, StackError
from stack.ports import free_ports
from stack.services.tritons import STAGING
from tests.support.models import times
from tests.support.servers.publisher import Publisher
from tests.support.servers.relays import Reply, answering, ask_for_host, relay_to, silent_server
from tests.support.servers.tritons import TritonServer, triton_without_control
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

COMMAND = str(Path(sys.executable).with_name("triton-deploy"))
FITTING = {
    "TRITON_DEPLOY_MAX_OPSET": "21",
    "TRITON_DEPLOY_MAX_IR_VERSION": "10",
    "TRITON_DEPLOY_PROMETHEUS_URL": "",
    "TRITON_DEPLOY_GATEWAY_URLS": "",
}
"""What the Triton of this stack would take with NVIDIA's own backend; and none of what does not run here: see test_doctor_prometheus.py."""


class Patient:
    """The stack's set-up, to be spoilt."""

    def __init__(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack = stack
        self._monkeypatch = monkeypatch
        self._environment: Mapping[str, str] = {**stack.environment, **FITTING}

    def examined(self, *, clock: Callable[[], float] = time.time, **changes: str | None) -> list[Finding]:
        """What a doctor finds with some variables changed; None unsets one."""
        environment = {**self._environment, **changes}
        # boto3 reads the process's own variables.
        for name, value in environment.items():
            if value is None:
                self._monkeypatch.delenv(name, raising=False)
            else:
                self._monkeypatch.setenv(name, value)
        found = examine(clock=clock)
        root = Path(self.stack.environment["TRITON_DEPLOY_REPOSITORY"])
        assert not list(root.glob(f"{PREFIX}*"))
        return found


@pytest.fixture
def patient(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Patient:
    return Patient(stack, monkeypatch)


def said(found: list[Finding], check: str, verdict: DoctorVerdict, *words: str) -> Finding:
    """Assert that a check came to a verdict in so many words, of the cause or the fix."""
    of_check = [one for one in found if one.check == check and one.verdict is verdict]
    for one in of_check:
        if all(word in f"{one.what} {one.fix}" for word in words):
            assert one.fix or verdict in (DoctorVerdict.OK, DoctorVerdict.UNKNOWN)
            return one
    listing = "\n".join(f"{one.verdict} {one.check}: {one.what} [{one.fix}]" for one in found)
    pytest.fail(f"no {verdict} of {check} with {words} in:\n{listing}")


def fine(found: list[Finding], *checks: str) -> None:
    """Assert that these checks have nothing to say against the set-up."""
    assert set(checks) <= {one.check for one in found}
    assert [
        one
        for one in found
        if one.check in checks and one.verdict in (DoctorVerdict.FAILED, DoctorVerdict.WARNING)
    ] == []


@pytest.fixture
def experiment(stack: Stack) -> Iterator[Callable[[str], str]]:
    """Makes an experiment at a location, and deletes it at the end; returns its name."""
    url = f"{stack.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments"
    made: list[str] = []

    def make(location: str) -> str:
        name = f"doctor-{uuid.uuid4().hex[:8]}"
        answer = requests.post(
            f"{url}/create", json={"name": name, "artifact_location": location}, timeout=30
        )
        answer.raise_for_status()
        made.append(answer.json()["experiment_id"])
        return name

    yield make
    for experiment_id in made:
        requests.post(f"{url}/delete", json={"experiment_id": experiment_id}, timeout=30).raise_for_status()


# The command


def test_a_healthy_set_up_is_found_healthy_and_left_as_it_was(stack: Stack) -> None:
    before = sorted(stack.model_repository.iterdir())
    run = subprocess.run(
        [COMMAND, "doctor", "--json"],
        env={**os.environ, **stack.environment, **FITTING},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = [Finding(**{**one, "verdict": DoctorVerdict(one["verdict"])}) for one in json.loads(run.stdout)]
    fine(found, "settings", "MLflow", "artifacts", "S3", "repository", "Triton", "staging Triton", "clocks")
    said(found, "staging Triton", DoctorVerdict.UNKNOWN, "There is none", "TRITON_DEPLOY_STAGING_GRPC_URL")
    said(found, "Triton", DoctorVerdict.OK, "sees the folder", str(stack.model_repository))
    said(found, "MLflow", DoctorVerdict.OK, "It knows logged models")
    said(found, "clocks", DoctorVerdict.UNKNOWN, "Triton tells no time")
    assert sorted(stack.model_repository.iterdir()) == before


def test_a_failed_check_is_shown_with_what_to_do_and_the_exit_code(stack: Stack) -> None:
    run = subprocess.run(
        [COMMAND, "doctor"],
        env={**os.environ, **stack.environment, **FITTING, "MLFLOW_S3_ENDPOINT_URL": "minio:9000"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 7, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith("FAILED")]
    assert "MLFLOW_S3_ENDPOINT_URL='minio:9000' is not an http:// or https:// URL" in lines[number]
    assert lines[number + 1].strip() == "What to do: Write it with its scheme, for example http://minio:9000."
    assert any(line.startswith("not checked") and "MLFLOW_S3_ENDPOINT_URL" in line for line in lines)
    assert any(line.startswith("ok") and "sees the folder" in line for line in lines), (
        "the others are checked"
    )


def test_a_doctor_that_is_stopped_leaves_no_probe(stack: Stack, tmp_path: Path) -> None:
    # Triton never sees this folder, so the probe is there for seconds.
    environment = {**os.environ, **stack.environment, "TRITON_DEPLOY_REPOSITORY": str(tmp_path)}
    with subprocess.Popen([COMMAND, "doctor"], env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(not any(probe.iterdir()) for probe in tmp_path.glob(f"{PREFIX}*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


# MLflow


def test_a_tracking_uri_without_a_scheme_is_named(patient: Patient) -> None:
    found = patient.examined(MLFLOW_TRACKING_URI="mlflow:5000")
    said(found, "settings", DoctorVerdict.FAILED, "MLFLOW_TRACKING_URI='mlflow:5000'", "http://mlflow:5000")
    said(found, "MLflow", DoctorVerdict.UNKNOWN, "MLFLOW_TRACKING_URI")
    fine(found, "Triton", "repository")


def test_an_mlflow_that_is_down_is_named_and_stops_nothing(patient: Patient) -> None:
    found = patient.examined(MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    said(
        found,
        "MLflow",
        DoctorVerdict.FAILED,
        "MLflow at http://127.0.0.1:1 can't be reached",
        "MLFLOW_TRACKING_URI",
    )
    # The cause is told once.
    said(found, "artifacts", DoctorVerdict.UNKNOWN, "MLflow can't be asked", "see MLflow, above")
    said(found, "S3", DoctorVerdict.UNKNOWN, "MLflow can't be asked", "see MLflow, above")
    said(found, "clocks", DoctorVerdict.UNKNOWN, "The clock of MLflow can't be read", "see MLflow, above")
    assert sum("can't be reached" in one.what for one in found) == 1
    assert not any("deploy again" in one.fix for one in found)
    fine(found, "settings", "Triton", "repository", "clocks")


def test_an_mlflow_and_a_triton_that_are_silent_are_given_up(patient: Patient) -> None:
    with silent_server() as mlflow, silent_server() as triton:
        started = time.monotonic()
        found = patient.examined(
            MLFLOW_TRACKING_URI=f"http://{mlflow}",
            TRITON_DEPLOY_GRPC_URLS=triton,
            TRITON_DEPLOY_MLFLOW_TIMEOUT_S="1",
            TRITON_DEPLOY_SWITCH_TIMEOUT_S="1",
        )
    assert time.monotonic() - started < 45
    said(found, "MLflow", DoctorVerdict.FAILED, f"MLflow at http://{mlflow} did not answer in time")
    said(found, "Triton", DoctorVerdict.FAILED, f"Triton at {triton}")
    said(found, "Triton", DoctorVerdict.UNKNOWN, "No Triton answers")
    fine(found, "repository")


def test_a_host_name_that_mlflow_does_not_serve_is_named(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_host(monkeypatch, "mlflow.example:5000")
    found = patient.examined()
    said(found, "MLflow", DoctorVerdict.FAILED, "refuses this host name", "--allowed-hosts")


def test_a_server_older_than_mlflow_3_is_one_warning(patient: Patient) -> None:
    """What it has is deployed: a team that has none newer gets a green doctor."""

    def aged(reply: Reply) -> None:
        if "logged-models" in reply.path:
            reply.headers["content-type"] = "text/html"
            reply.replace_body(b"<!doctype html><title>404 Not Found</title>", 404)
        elif reply.path == "/version":
            reply.replace_body(b"2.22.0")

    with relay_to(patient.stack.environment["MLFLOW_TRACKING_URI"]) as relay:
        relay.spoil = aged
        found = patient.examined(MLFLOW_TRACKING_URI=relay.url)
    said(found, "MLflow", DoctorVerdict.WARNING, "is 2.22.0", "no logged models", "Upgrade")
    assert [one.verdict for one in found if one.check == "MLflow"] == [DoctorVerdict.WARNING]
    assert not [one for one in found if one.verdict is DoctorVerdict.FAILED]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ("denies access", "MLFLOW_TRACKING_TOKEN")),
        (404, ("answers logged-models with 404", "MLFLOW_TRACKING_URI")),
    ],
)
def test_a_server_that_denies_access_or_is_no_mlflow_is_named(
    patient: Patient, status: int, words: tuple[str, ...]
) -> None:
    with answering(status, b"<!doctype html><title>Not for you</title>") as url:
        found = patient.examined(MLFLOW_TRACKING_URI=url)
    said(found, "MLflow", DoctorVerdict.UNKNOWN, f"{url} does not say its version ({status})")
    said(found, "MLflow", DoctorVerdict.FAILED, url, *words)
    said(found, "S3", DoctorVerdict.UNKNOWN, "MLflow can't be asked")
    fine(found, "Triton", "repository")


@contextmanager
def mlflow_without_artifacts(folder: Path, root: str) -> Iterator[str]:
    """A real MLflow that hands out no artifacts and gives experiments a place of its own machine."""
    port = free_ports()["mlflow"]
    argv = [sys.executable, "-m", "mlflow", "server", "--no-serve-artifacts", "--default-artifact-root", root]
    argv += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 150
        while not _answers(f"{url}/health"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def test_an_mlflow_whose_artifacts_only_its_own_machine_can_read_is_named(
    patient: Patient, tmp_path: Path
) -> None:
    with mlflow_without_artifacts(tmp_path, "file:///E:/mlruns") as url:
        found = patient.examined(MLFLOW_TRACKING_URI=url)
    said(found, "artifacts", DoctorVerdict.WARNING, "can't hand out artifacts", "--serve-artifacts")
    said(
        found,
        "artifacts",
        DoctorVerdict.FAILED,
        "'Default' at file:///E:/mlruns/0",
        "a file:// URL of a Windows drive",
        "only the machine that logged them can read",
        "--artifacts-destination",
        "triton-deploy init",
    )
    fine(found, "MLflow", "S3")


def test_experiments_at_places_that_cant_be_read_are_listed(
    patient: Patient, experiment: Callable[[str], str]
) -> None:
    kinds = {
        "file:///srv/mlruns": "a file:// URL",
        "E:\\mlruns\\1": "a path on a Windows drive",
        "mlruns\\1": "a path with back-slashes",
        "./mlruns/1": "a path without a scheme",
        "s3://bucket/../other": "it is no location",
    }
    names = {experiment(location): kind for location, kind in kinds.items()}
    found = patient.examined()
    for name, kind in names.items():
        said(found, "artifacts", DoctorVerdict.WARNING, f"{name!r} at", kind, "log into another one")
    fine(found, "MLflow", "Triton")


def test_an_mlflow_that_cant_reach_its_own_store_is_named(patient: Patient) -> None:
    with relay_to(patient.stack.environment["MLFLOW_TRACKING_URI"]) as relay:
        relay.spoil = lambda reply: (
            reply.replace_body(b'{"error_code": "INTERNAL_ERROR", "message": "NoSuchBucket"}', 500)
            if "mlflow-artifacts" in reply.path
            else None
        )
        found = patient.examined(MLFLOW_TRACKING_URI=relay.url)
    said(found, "artifacts", DoctorVerdict.FAILED, "NoSuchBucket", "MLflow's artifact store (S3) runs")


# S3


@pytest.fixture
def direct(stack: Stack) -> None:
    """An experiment keeps its artifacts in the stack's bucket itself."""
    Publisher(stack.environment)._experiment(direct=True)


@pytest.mark.usefixtures("direct")
def test_keys_that_are_missing_or_wrong_are_named(patient: Patient) -> None:
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    fine(patient.examined(), "S3")
    found = patient.examined(AWS_SECRET_ACCESS_KEY="wrong")
    said(found, "S3", DoctorVerdict.FAILED, "denies access to s3://mlflow", *keys)
    found = patient.examined(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, HOME="/nonexistent")
    said(found, "S3", DoctorVerdict.FAILED, "Unable to locate credentials", "s3://mlflow", *keys)


def test_a_bucket_that_is_missing_is_named(patient: Patient, experiment: Callable[[str], str]) -> None:
    name = experiment("s3://nobody-made-this/x")
    found = patient.examined()
    said(
        found,
        "artifacts",
        DoctorVerdict.WARNING,
        f"{name!r} at s3://nobody-made-this/x",
        "s3://nobody-made-this/x for every deployer",
    )
    found = patient.examined(TRITON_DEPLOY_ARTIFACT_ROOTS="s3://mlflow,s3://nobody-made-this")
    said(
        found,
        "S3",
        DoctorVerdict.FAILED,
        "has no bucket for s3://nobody-made-this",
        "triton-deploy init --bucket",
    )


@pytest.mark.usefixtures("direct")
def test_an_s3_that_is_down_is_named(patient: Patient) -> None:
    found = patient.examined(MLFLOW_S3_ENDPOINT_URL="http://127.0.0.1:1")
    said(
        found,
        "S3",
        DoctorVerdict.FAILED,
        "S3 at http://127.0.0.1:1 can't be reached",
        "MLFLOW_S3_ENDPOINT_URL",
    )
    said(found, "clocks", DoctorVerdict.UNKNOWN, "The clock of S3 can't be read")
    fine(found, "MLflow", "artifacts", "Triton")


# The repository and the Tritons


def test_a_repository_that_is_no_folder_is_named(patient: Patient, tmp_path: Path) -> None:
    found = patient.examined(TRITON_DEPLOY_REPOSITORY=str(tmp_path / "missing"))
    said(
        found,
        "repository",
        DoctorVerdict.FAILED,
        "is not a folder on this machine",
        "TRITON_DEPLOY_REPOSITORY",
    )
    fine(found, "MLflow", "artifacts")
    assert not (tmp_path / "missing").exists()


def test_a_repository_in_a_path_that_triton_does_not_quote_is_named(patient: Patient, tmp_path: Path) -> None:
    (tmp_path / "my models").mkdir()
    found = patient.examined(TRITON_DEPLOY_REPOSITORY=str(tmp_path / "my models"))
    said(found, "repository", DoctorVerdict.FAILED, "has a space in it", "Move the repository")


def test_a_repository_that_triton_does_not_share_is_named(patient: Patient, tmp_path: Path) -> None:
    found = patient.examined(TRITON_DEPLOY_REPOSITORY=str(tmp_path))
    said(
        found,
        "Triton",
        DoctorVerdict.FAILED,
        f"does not see a folder that was made in {tmp_path}",
        "it serves another repository",
        "--model-repository",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_triton_without_model_control_and_on_another_repository_is_named(
    patient: Patient, tmp_path: Path
) -> None:
    (tmp_path / "repository").mkdir()
    shared = patient.stack.url("triton-grpc")
    with triton_without_control(tmp_path, tmp_path / "repository") as other:
        found = patient.examined(TRITON_DEPLOY_GRPC_URLS=f"{shared},{other}")
    said(found, "Triton", DoctorVerdict.FAILED, f"Triton at {other} refused", "--model-control-mode=explicit")
    said(found, "Triton", DoctorVerdict.FAILED, f"Triton at {other} does not see", "1 of 2 Tritons do")
    said(found, "Triton", DoctorVerdict.OK, f"Triton at {shared} sees the folder")


def test_a_triton_that_is_down_is_named(patient: Patient) -> None:
    found = patient.examined(TRITON_DEPLOY_GRPC_URLS="127.0.0.1:1")
    said(
        found,
        "Triton",
        DoctorVerdict.FAILED,
        "Triton at 127.0.0.1:1 can't be reached",
        "TRITON_DEPLOY_GRPC_URLS",
    )
    fine(found, "MLflow", "repository")


CONFIG = """
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]
"""


def plain_model(repository: Path, name: str, content: bytes, config: str = CONFIG) -> None:
    """A folder that Triton loads without the library."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    (repository / name / "1/model.onnx").write_bytes(content)


def test_a_triton_that_a_failed_candidate_makes_unready_is_named(
    patient: Patient, triton_server: Callable[..., TritonServer], tmp_path: Path
) -> None:
    plain_model(tmp_path, "serves", times(2).SerializeToString())
    server = triton_server(tmp_path, "--strict-readiness=true")
    client = GrpcTriton(server.grpc_url, 10)
    changes = {"TRITON_DEPLOY_GRPC_URLS": server.grpc_url, "TRITON_DEPLOY_REPOSITORY": str(tmp_path)}
    plain_model(tmp_path, "broken", b"no model")
    assert client.is_ready()
    with pytest.raises(DeployError):
        client.load("broken", 20)
    assert not client.is_ready()
    found = patient.examined(**changes)
    said(
        found,
        "Triton",
        DoctorVerdict.WARNING,
        f"Triton at {server.grpc_url} serves serves and says that it is not ready because of broken",
        "--strict-readiness=false",
    )
    # What serves is asked, and answers all the same.
    assert client.ready_versions("serves") == (1,)


@pytest.mark.parametrize("exits", [True, False])
def test_what_is_said_of_exit_on_error_is_so(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, exits: bool
) -> None:
    """A Triton with the default ends at its start over a folder that no Triton can read; one that is started as the doctor says serves."""
    repository = tmp_path / "model-repo"
    plain_model(repository, "serves", times(2).SerializeToString())
    plain_model(repository, "serves.v2", times(3).SerializeToString(), "# Not this one yet.\nunreadable {")
    arguments = [f"--exit-on-error={str(exits).lower()}"]
    # A path that is short enough for a socket.
    state = tmp_path_factory.mktemp("exits")
    stack = Stack(state, ["triton"], model_repository=repository, triton_args=arguments)
    if exits:
        with pytest.raises(StackError, match="triton ended"):
            stack.start()
    else:
        with stack:
            assert GrpcTriton(stack.url("triton-grpc"), 10).loaded() == {"serves": (1,)}


# The staging Triton


@pytest.fixture(scope="module")
def staging(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A staging Triton on the stack's repository."""
    home = tmp_path_factory.mktemp("staging")
    with Stack(home, [STAGING], model_repository=stack.model_repository) as running:
        yield running


def staged(url: str, **others: str) -> dict[str, str]:
    return {"TRITON_DEPLOY_STAGING_GRPC_URL": url, **others}


def test_a_staging_triton_is_found_healthy_and_what_cant_be_shown_is_said(
    patient: Patient, staging: Stack
) -> None:
    found = patient.examined(**staged(staging.url(f"{STAGING}-grpc")))
    fine(found, "staging Triton", "Triton")
    said(found, "staging Triton", DoctorVerdict.OK, "lets models be loaded")
    said(found, "staging Triton", DoctorVerdict.OK, "It is empty")
    said(found, "staging Triton", DoctorVerdict.OK, "the version and the extensions of the 1 that serve")
    said(found, "staging Triton", DoctorVerdict.OK, "It sees the folder", str(patient.stack.model_repository))
    said(found, "staging Triton", DoctorVerdict.UNKNOWN, "GPU", "by hand")
    said(found, "Triton", DoctorVerdict.UNKNOWN, "--exit-on-error=true", "--exit-on-error=false")


def test_what_is_left_in_a_staging_triton_is_named(
    patient: Patient, staging: Stack, request: pytest.FixtureRequest
) -> None:
    name = f"left-{uuid.uuid4().hex[:8]}"
    plain_model(patient.stack.model_repository, name, times(2).SerializeToString())
    request.addfinalizer(lambda: shutil.rmtree(patient.stack.model_repository / name))
    url = staging.url(f"{STAGING}-grpc")
    client = GrpcTriton(url, 10)
    client.load(name, 20)
    found = patient.examined(**staged(url))
    said(found, "staging Triton", DoctorVerdict.WARNING, f"It has {name} (READY)", "--load-model")
    client.unload(name, 20)
    eventually(lambda: not client.states()[name].is_held, "it is empty")
    said(patient.examined(**staged(url)), "staging Triton", DoctorVerdict.OK, "It is empty")


def test_a_triton_that_serves_is_no_staging_triton(patient: Patient) -> None:
    host, _, port = patient.stack.url("triton-grpc").partition(":")
    assert host != "localhost"
    found = patient.examined(**staged(f"localhost:{port}"))
    said(
        found,
        "staging Triton",
        DoctorVerdict.FAILED,
        f"localhost:{port} is the Triton at {host}:{port}, which serves",
    )


def test_a_staging_triton_on_another_repository_is_named(
    patient: Patient, staging: Stack, tmp_path: Path
) -> None:
    found = patient.examined(**staged(staging.url(f"{STAGING}-grpc"), TRITON_DEPLOY_REPOSITORY=str(tmp_path)))
    said(found, "staging Triton", DoctorVerdict.FAILED, "another repository", "--model-repository")


def test_a_staging_triton_that_is_away_counts_as_it_is_needed(patient: Patient) -> None:
    found = patient.examined(**staged("127.0.0.1:1"))
    said(found, "staging Triton", DoctorVerdict.FAILED, "can't be reached", "TRITON_DEPLOY_STAGING_GRPC_URL")
    fine(found, "Triton", "repository")
    found = patient.examined(**staged("127.0.0.1:1", TRITON_DEPLOY_STAGING="optional"))
    said(found, "staging Triton", DoctorVerdict.WARNING, "can't be reached", "Deploys go on without it")


def test_limits_that_tritons_onnx_runtime_does_not_reach_are_named(patient: Patient) -> None:
    found = patient.examined(TRITON_DEPLOY_MAX_OPSET="26")
    said(
        found,
        "Triton",
        DoctorVerdict.WARNING,
        "Triton 2.51.0 has ONNX Runtime 1.19",
        "TRITON_DEPLOY_MAX_OPSET=21",
    )


# Clocks


def test_a_clock_that_is_off_is_named_against_every_server(patient: Patient) -> None:
    found = patient.examined(clock=lambda: time.time() + 300)
    for whose in ("MLflow", "S3", "the model repository's file system"):
        said(
            found, "clocks", DoctorVerdict.FAILED, f"The clock of {whose} is", "behind this machine's", "NTP"
        )
    fine(found, "Triton", "repository")
