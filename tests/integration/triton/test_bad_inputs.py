"""What a user may get wrong, and what may be broken, on the real stack and through the command line.

Each time: an exit code, a message that names what to do, within its deadline; and nothing changed.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.deploy.deployer import Deployer, DeployRequest
from ml_code.triton_deploy.errors import NotFound, Unavailable
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from stack import Stack
from tests.support.fakes import ones
from tests.support.models import external, files, golden, times, unknown_operator
from tests.support.servers.blocked_storage import blocked
from tests.support.servers.publisher import Publisher
from tests.support.servers.relays import Reply, relay_to, silent_server
from tests.support.servers.tritons import triton_without_control
from tests.support.settings import changed

pytestmark = pytest.mark.integration

COMMAND = str(Path(sys.executable).with_name("triton-deploy"))
START_S = 8.0
"""What starting the command and importing may take on a busy machine; limits are on top of it."""

INVALID, REJECTED, DOWN = 3, 4, 5


@dataclass(frozen=True)
class Ended:
    """A command that ran: exit code, what it printed as JSON, its log and how long it took."""

    code: int
    said: Mapping[str, Any]
    log: str
    seconds: float


def deploy(model: str, environment: Mapping[str, str | None], *options: str) -> Ended:
    """Run the command line; None unsets a variable."""
    env = {**os.environ, **environment}
    started = time.monotonic()
    run = subprocess.run(
        [COMMAND, "deploy", model, "--json", *options],
        env={name: value for name, value in env.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    seconds = time.monotonic() - started
    assert "Traceback" not in run.stderr, run.stderr
    return Ended(run.returncode, json.loads(run.stdout), run.stderr, seconds)


def refused(ended: Ended, code: int, kind: str, *words: str, within_s: float = 0) -> None:
    """Assert how a deploy ended: ``words`` must be in the message or in what to do."""
    assert (ended.code, ended.said["error"]) == (code, kind), ended.log
    text = f"{ended.said['message']}\n  What to do: {ended.said['hint']}"
    assert text in ended.log
    for word in words:
        assert word in text
    assert ended.seconds < START_S + within_s


@dataclass
class Live:
    """A model that serves, and everything that must stay as it is when a deploy of it fails."""

    stack: Stack
    model: str
    publisher: Publisher
    triton: GrpcTriton

    @property
    def environment(self) -> dict[str, str | None]:
        return {**self.stack.environment, "TRITON_DEPLOY_ALIAS_WAIT_S": "0"}

    @property
    def folder(self) -> Path:
        return self.stack.model_repository / self.model

    def publish(self, artifact: Mapping[str, bytes], **options: Any) -> int:
        return self.publisher.publish(self.model, artifact, **options)

    def publish_times(self, factor: float, **options: Any) -> int:
        return self.publish(files(times(factor), triton__golden_json=golden(factor)), **options)

    def deploy(self, *options: str, **environment: str | None) -> Ended:
        return deploy(self.model, {**self.environment, **environment}, *options)

    def serves(self) -> tuple[int, float]:
        answer = self.triton.infer(self.model, ones(), 5)
        return answer.version, float(answer.outputs["y"][0, 0])

    def state(self) -> dict[str, Any]:
        """What clients and operators see, byte for byte; records, leases and the quarantine are the failure's own."""
        kept = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and not _of_the_failure(path.relative_to(self.folder))
        }
        engines = sorted(path.name for path in self.stack.model_repository.glob(f"{self.model}.v*"))
        loaded = {engine: self.triton.ready_versions(engine) for engine in engines}
        return {"files": kept, "engines": loaded, "serves": self.serves()}

    @property
    def quarantine(self) -> set[str]:
        return {path.name for path in self.folder.glob("*.failed_*")}

    def failure(self, version: int) -> dict[str, Any]:
        (path,) = self.folder.glob(f"{version}.failed_*")
        content: dict[str, Any] = json.loads((path / "failure.json").read_text())
        return content

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        before = self.state()
        assert "current.json" in before["files"]
        yield
        assert self.state() == before

    def works_again(self, factor: float = 7.0) -> None:
        """The next good deploy succeeds."""
        version = self.publish_times(factor)
        ended = self.deploy()
        assert ended.code == 0, ended.log
        assert self.serves() == (version, factor)


def _of_the_failure(path: Path) -> bool:
    return path.parts[0] in ("deployments", "leases") or ".failed_" in path.parts[0]


@pytest.fixture(scope="module")
def live(stack: Stack) -> Live:
    """Version 1 of a model serves; the tests share it, since each leaves it serving."""
    model = f"bad-{uuid.uuid4().hex[:10]}"
    live = Live(stack, model, Publisher(stack.environment), GrpcTriton(stack.url("triton-grpc"), 10))
    live.publish_times(1.0)
    ended = live.deploy()
    assert ended.code == 0, ended.log
    return live


# MLflow


def test_an_alias_that_is_not_set_fails_at_once_when_told_so(live: Live) -> None:
    with live.unchanged():
        ended = live.deploy("--alias", "never-set")
    refused(ended, INVALID, "alias_not_found", live.model, "never-set", "set_registered_model_alias")


def test_an_alias_that_is_set_while_the_deploy_waits_is_deployed(live: Live) -> None:
    version = live.publish_times(3.0, alias=None)
    later = threading.Timer(3.0, live.publisher.set_alias, (live.model, "late", version))
    later.start()
    try:
        ended = live.deploy(
            "--alias", "late", TRITON_DEPLOY_ALIAS_WAIT_S="30", TRITON_DEPLOY_ALIAS_POLL_S="0.2"
        )
    finally:
        later.join()
    assert ended.code == 0, ended.log
    assert live.serves() == (version, 3.0)
    assert "is not set yet" in ended.log


def test_an_unknown_model_is_named_and_leaves_nothing(live: Live) -> None:
    before = set(live.stack.model_repository.iterdir())
    with live.unchanged():
        ended = deploy("nobody-registered-this", {**live.environment, "TRITON_DEPLOY_ALIAS_WAIT_S": "300"})
    refused(ended, INVALID, "not_found", "nobody-registered-this", "MLFLOW_TRACKING_URI")
    assert set(live.stack.model_repository.iterdir()) == before


@pytest.mark.parametrize("model", ["../x", "a/b", "a.b", "", "x\n", "x" * 101, "é"])
def test_a_name_that_could_leave_the_repository_is_refused(live: Live, model: str) -> None:
    before = {path for folder in (live.folder.parent, live.folder.parents[1]) for path in folder.iterdir()}
    ended = deploy(model, live.environment)
    refused(ended, INVALID, "invalid_input", repr(model), "model name", "letters, digits")
    assert {
        path for folder in (live.folder.parent, live.folder.parents[1]) for path in folder.iterdir()
    } == before


@pytest.mark.parametrize("alias", ["../x", "latest", "v12", "a b", ""])
def test_an_alias_that_mlflow_cant_have_is_refused(live: Live, alias: str) -> None:
    with live.unchanged():
        ended = live.deploy("--alias", alias)
    refused(ended, INVALID, "invalid_input", repr(alias), "alias", "'latest' and 'v<number>'")


def test_an_mlflow_that_is_down_is_named_with_its_variable(live: Live) -> None:
    with live.unchanged():
        ended = live.deploy(MLFLOW_TRACKING_URI="http://127.0.0.1:1", TRITON_DEPLOY_ALIAS_WAIT_S="300")
    refused(
        ended,
        DOWN,
        "unavailable",
        "MLflow at http://127.0.0.1:1",
        "refused",
        "MLFLOW_TRACKING_URI",
        within_s=1,
    )


def test_an_mlflow_that_hangs_is_given_up_at_the_time_limit(live: Live) -> None:
    with live.unchanged(), silent_server() as host:
        ended = live.deploy(MLFLOW_TRACKING_URI=f"http://{host}", TRITON_DEPLOY_MLFLOW_TIMEOUT_S="1")
    refused(
        ended,
        DOWN,
        "unavailable",
        f"MLflow at http://{host} did not answer in time",
        "MLFLOW_TRACKING_URI",
        within_s=1,
    )


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL"])
@pytest.mark.parametrize("url", ["127.0.0.1:5000", "localhost:9000", "minio", "ftp://host", "http://"])
def test_an_endpoint_without_a_scheme_is_refused_with_the_spelling(
    live: Live, variable: str, url: str
) -> None:
    ended = live.deploy(**{variable: url})
    refused(ended, INVALID, "misconfigured", variable, repr(url), "http://")


def test_a_place_in_s3_that_nobody_named_is_refused_and_the_line_that_it_tells_helps(live: Live) -> None:
    version = live.publish_times(4.5, direct=True)
    line = "TRITON_DEPLOY_ARTIFACT_ROOTS=s3://mlflow/direct"
    with live.unchanged():
        ended = live.deploy(TRITON_DEPLOY_ARTIFACT_ROOTS=None)
        refused(ended, INVALID, "misconfigured", "s3://mlflow/direct/", line)
        ended = live.deploy(TRITON_DEPLOY_ARTIFACT_ROOTS="s3://mlflow/dir")
        refused(ended, INVALID, "misconfigured", "not below s3://mlflow/dir ")
    name, _, value = line.partition("=")
    assert live.deploy(**{name: value}).code == 0
    assert live.serves() == (version, 4.5)


def test_a_user_and_password_in_mlflows_address_stand_nowhere(live: Live) -> None:
    live.publish_times(4.6)
    with live.unchanged():
        ended = live.deploy(MLFLOW_TRACKING_URI="http://someone:s3cret-word@127.0.0.1:1")
    refused(ended, DOWN, "unavailable", "MLflow at http://127.0.0.1:1 can't be reached")
    assert "s3cret" not in ended.log + str(ended.said)


def test_no_mlflow_at_all_is_named(live: Live) -> None:
    ended = live.deploy(MLFLOW_TRACKING_URI=None)
    refused(ended, INVALID, "misconfigured", "MLFLOW_TRACKING_URI is not set", "http://")


# S3


@pytest.mark.parametrize("direct", [False, True], ids=["proxied", "direct"])
def test_an_s3_that_is_down_is_named_and_the_next_deploy_works(live: Live, direct: bool) -> None:
    version = live.publish_times(4.0, direct=direct)
    with live.unchanged():
        live.stack.stop_process("s3")
        try:
            ended = live.deploy()
        finally:
            live.stack.start_process("s3")
    names = ("MLFLOW_S3_ENDPOINT_URL", live.stack.url("s3")) if direct else ("MLflow", "artifact store (S3)")
    refused(ended, DOWN, "unavailable", *names, within_s=12)
    assert "<" not in ended.said["message"]
    assert live.deploy().code == 0
    assert live.serves() == (version, 4.0)


KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def test_wrong_keys_are_an_access_denied_that_names_the_variables(live: Live) -> None:
    live.publish_times(2.0, direct=True)
    with live.unchanged():
        ended = live.deploy(AWS_SECRET_ACCESS_KEY="wrong-secret")
        refused(ended, INVALID, "access_denied", "s3://mlflow/direct", live.stack.url("s3"), KEYS)
        assert "wrong-secret" not in ended.log
        ended = live.deploy(AWS_ACCESS_KEY_ID="nobody")
        refused(ended, INVALID, "access_denied", KEYS)


def test_no_keys_are_an_access_denied_that_names_the_variables(live: Live) -> None:
    live.publish_times(2.0, direct=True)
    with live.unchanged():
        ended = live.deploy(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, HOME="/nonexistent")
    refused(ended, INVALID, "access_denied", "no S3 credentials", KEYS, within_s=10)


def cut(reply: Reply) -> None:
    reply.sent_bytes = len(reply.body) // 2


def shorten(reply: Reply) -> None:
    reply.headers.pop("content-range", None)
    reply.replace_body(reply.body[: len(reply.body) // 2], 200)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut, "broke the connection off"),
        (shorten, "is not what was listed: it has 57 bytes, 114 were listed"),
    ],
    ids=["cut", "shorter"],
)
def test_an_artifact_truncated_in_transit_is_not_the_models_fault(
    live: Live, spoil: Callable[[Reply], None], says: str
) -> None:
    version = live.publish_times(5.0, direct=True)
    quarantined = live.quarantine
    with live.unchanged(), relay_to(live.stack.url("s3")) as relay:
        relay.spoil = lambda reply: spoil(reply) if "model.onnx?" in reply.path else None
        # It is asked for again for so long.
        ended = live.deploy(MLFLOW_S3_ENDPOINT_URL=relay.url, TRITON_DEPLOY_TRANSFER_TIMEOUT_S="2")
    refused(ended, DOWN, "unavailable", relay.url, says, "deploy again", within_s=2)
    assert live.quarantine == quarantined
    assert live.deploy().code == 0, "the same files, without the relay"
    assert live.serves() == (version, 5.0)


@pytest.fixture
def in_process(live: Live, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Deployer]:
    """Makes deployers with the stack's settings, changed as asked, for what happens between two steps."""
    for name, value in live.environment.items():
        monkeypatch.setenv(name, value or "")
    return lambda **changes: Deployer(changed(Settings.from_env(), **changes))


def test_files_replaced_after_the_snapshot_are_not_deployed(
    live: Live, in_process: Callable[..., Deployer]
) -> None:
    live.publish_times(6.0, direct=True)
    quarantined = live.quarantine
    deployer, deploy_id = in_process(), f"replaced-{uuid.uuid4().hex[:8]}"
    with live.unchanged():
        record = deployer.snapshot(DeployRequest(model=live.model, alias="A", deploy_id=deploy_id))
        bucket, _, prefix = record.pinned.artifact_uri.removeprefix("s3://").partition("/")
        live.publisher.s3.put_object(Bucket=bucket, Key=f"{prefix}/model.onnx", Body=b"shorter")
        try:
            with pytest.raises(NotFound, match="changed since the snapshot") as failure:
                deployer.materialize(live.model, deploy_id)
        finally:
            deployer.rollback(live.model, deploy_id)
    assert "Deploy again" in failure.value.hint
    assert live.quarantine == quarantined, "the whole upload must not be refused later"
    live.works_again()


# The artifact


GOOD = times(2.0).SerializeToString()
OUTSIDE = external("../../../../../../etc/passwd")[0]
ABSOLUTE = external("/etc/passwd")[0]
ARTIFACTS: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "truncated": (files(GOOD[: len(GOOD) // 2]), ("model.onnx is not an ONNX model", "Log the model again")),
    "junk": (
        files(b"\x00junk" * 100),
        ("model.onnx is not an ONNX model", "500 bytes", "Log the model again"),
    ),
    "an error page": (files(b"<html>404</html>"), ("model.onnx is not an ONNX model", "Log the model again")),
    "empty": (files(b""), ("holds no graph (0 bytes)", "Export the model again")),
    "outside": (
        files(OUTSIDE),
        ("../../../../../../etc/passwd", "outside the model's own directory", "beside model.onnx"),
    ),
    "absolute": (files(ABSOLUTE), ("/etc/passwd", "outside the model's own directory")),
    "weights missing": (files(external("w.data")[0]), ("w.data", "not among the logged files")),
    "weights cut": (
        {"model.onnx": external("w.data")[0], "w.data": external("w.data")[1][:3]},
        ("w.data has 3 bytes", "8", "Log the model again"),
    ),
    "opset": (files(times(1.0, opset=99)), ("opset 99", "TRITON_DEPLOY_MAX_OPSET")),
    "golden no JSON": (
        files(GOOD, triton__golden_json=b"{"),
        ("golden file is not KServe v2 JSON", "Log triton/golden.json"),
    ),
    "golden of another": (
        files(GOOD, triton__golden_json=golden(2.0, source="other")),
        ("does not fit the model", "input x is missing"),
    ),
    "backend": (
        files(GOOD, triton__golden_json=golden(2.0), triton__config_json=b'{"backend": "python"}'),
        ("triton/config.json sets backend", "max_batch_size, dynamic_batching"),
    ),
    "NaN for invented inputs": (
        files(times(math.nan)),
        ("own answer to inputs that were invented", "not finite (output y)", "triton/golden.json"),
    ),
    "custom operators": (
        files(unknown_operator()),
        ("Nonsense(-1) is not a registered function/op", "has no custom operators"),
    ),
    "no onnx": ({"model.pkl": b"pickled"}, ("no model.onnx", "mlflow.onnx.log_model")),
}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_bad_artifact_is_refused_before_triton_sees_it(live: Live, name: str) -> None:
    artifact, words = ARTIFACTS[name]
    version = live.publish(artifact)
    with live.unchanged():
        ended = live.deploy(TRITON_DEPLOY_GRPC_URLS="127.0.0.1:1")
    refused(ended, REJECTED, "artifact_rejected", *words)
    if name != "no onnx":
        failure = live.failure(version)
        assert (failure["step"], failure["kind"]) == ("materialize", "artifact_rejected")
        assert words[0] in failure["error"]


def test_the_same_bad_artifact_is_refused_the_second_time_without_a_transfer(live: Live) -> None:
    live.publish(files(b"junk, twice"))
    assert live.deploy().code == REJECTED
    with live.unchanged():
        ended = live.deploy()
    refused(ended, REJECTED, "quarantined", "materialize", "not an ONNX model", ".failed_", "force")
    live.works_again()


OTHER_SHAPE = json.dumps(
    {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [2, 4, 2, 4]}],
    }
).encode()
ANSWERS: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "shape": (files(GOOD, triton__golden_json=OTHER_SHAPE), ("output y has shape [1, 2], expected [2, 2]",)),
    "values": (files(GOOD, triton__golden_json=golden(2.5)), ("output y is off by up to", "rtol")),
    "NaN": (files(times(math.nan), triton__golden_json=golden(2.0)), ("output y", "not finite")),
    "infinite": (files(times(math.inf), triton__golden_json=golden(2.0)), ("output y", "not finite")),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_wrong_answers_never_reach_a_client(live: Live, name: str) -> None:
    artifact, words = ANSWERS[name]
    version = live.publish(artifact)
    with live.unchanged():
        ended = live.deploy()
    refused(ended, REJECTED, "verification_failed", *words, "quarantine", within_s=5)
    assert live.failure(version)["step"] == "smoke"


# The model repository


def test_a_repository_that_is_not_set_or_no_folder_is_named(live: Live, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with live.unchanged():
        refused(
            live.deploy(TRITON_DEPLOY_REPOSITORY=None),
            INVALID,
            "misconfigured",
            "TRITON_DEPLOY_REPOSITORY is not set",
            "--model-repository",
        )
        for path in (tmp_path / "file", tmp_path / "missing"):
            ended = live.deploy(TRITON_DEPLOY_REPOSITORY=str(path))
            refused(ended, INVALID, "misconfigured", str(path), "TRITON_DEPLOY_REPOSITORY", "not a folder")
    assert not (tmp_path / "missing").exists()


def test_a_repository_that_triton_does_not_serve_is_named(live: Live, tmp_path: Path) -> None:
    live.publish_times(2.0)
    with live.unchanged():
        ended = live.deploy(TRITON_DEPLOY_REPOSITORY=str(tmp_path))
    refused(
        ended,
        INVALID,
        "foreign",
        f"A model {live.model} that this deployer did not release is served by",
        "TRITON_DEPLOY_REPOSITORY",
        "--model-repository",
    )


INSIDE = """
import json, os, shutil, subprocess, sys, threading, time
from pathlib import Path
options = json.loads(sys.argv[1])
repository, real, model = Path(options["mount"]), Path(options["real"]), options["model"]

def mount(*arguments):
    subprocess.run(["mount", *arguments, str(repository)], check=True)

mount("-t", "tmpfs", "-o", f"size={options['size']}", "tmpfs")
shutil.copytree(real / model, repository / model, symlinks=True)
for engine in real.glob(f"{model}.v*"):
    shutil.copytree(engine, repository / engine.name, symlinks=True)

def state():
    skip = {"deployments", "leases", "ballast"}
    paths = (path.relative_to(repository) for path in sorted(repository.rglob("*")))
    return {
        str(path): (repository / path).read_bytes().hex()
        for path in paths
        if (repository / path).is_file() and not skip & set(path.parts)
    }

def deploy(*command):
    run = subprocess.run([options["command"], *command, "--json"], capture_output=True, text=True)
    return {"code": run.returncode, "said": json.loads(run.stdout), "log": run.stderr}

def fill():
    # Once the first file has come, the space was found sufficient: now another writer takes it.
    while not list((repository / model).glob(".staging-*/model.onnx")):
        time.sleep(0.002)
    with open(repository / "ballast", "wb", buffering=0) as ballast:
        try:
            while shutil.disk_usage(repository).free > options["left"]:
                ballast.write(bytes(1 << 14))
        except OSError:
            pass

before = state()
if options["read_only"]:
    mount("-o", "remount,ro")
filling = threading.Thread(target=fill)
if options["left"] is not None:
    filling.start()
first, after = deploy("deploy", model, "--deploy-id", "full"), state()
then = []
if options["left"] is not None:
    filling.join()
    (repository / "ballast").unlink()
    then = [deploy("rollback", model, "--deploy-id", "full"), deploy("deploy", model)]
print(json.dumps({"first": first, "then": then, "same": before == after, "after": sorted(after)}))
"""


def in_a_file_system_of_its_own(live: Live, folder: Path, **options: Any) -> dict[str, Any]:
    """Deploy with a repository on a small file system that only the command sees."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a mount namespace: unshare -rm")
    given = {
        "mount": str(folder),
        "real": str(live.stack.model_repository),
        "model": live.model,
        "command": COMMAND,
        "size": "96m",
        "left": None,
        "read_only": False,
        **options,
    }
    environment = {name: value for name, value in live.environment.items() if value is not None}
    run = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", INSIDE, json.dumps(given)],
        env={**os.environ, **environment, "TRITON_DEPLOY_REPOSITORY": str(folder), **options.get("env", {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def heavy(factor: float, size_bytes: int) -> dict[str, bytes]:
    """A model with a weights file of that size."""
    model, data = external("weights.data", factor)
    padded = data + bytes(size_bytes - len(data))
    return {"model.onnx": model, "weights.data": padded, "triton/golden.json": golden(factor)}


def test_a_disk_without_room_is_noticed_before_the_transfer(live: Live, tmp_path: Path) -> None:
    live.publish(heavy(2.0, 12 << 20))
    with live.unchanged():
        result = in_a_file_system_of_its_own(live, tmp_path, size="32m")
    ended = Ended(**result["first"], seconds=0)
    refused(
        ended,
        DOWN,
        "storage",
        "bytes free",
        "the artifact needs 12583",
        "TRITON_DEPLOY_MIN_FREE_BYTES",
        "Free space",
    )
    assert result["same"], result["after"]


@pytest.mark.parametrize("left", [6 << 20, 0], ids=["our part can be freed", "nothing left for the rollback"])
def test_a_disk_that_fills_up_during_the_transfer_changes_nothing(
    live: Live, tmp_path: Path, left: int
) -> None:
    live.publish(heavy(2.0, 12 << 20))
    with live.unchanged():
        result = in_a_file_system_of_its_own(
            live, tmp_path, size="24m", left=left, env={"TRITON_DEPLOY_MIN_FREE_BYTES": "0"}
        )
    ended = Ended(**result["first"], seconds=0)
    refused(ended, DOWN, "storage", "No space left on device", "Free space")
    # The other writer begins when the small file is made: that one may be cut short as well.
    assert any(f"{name}: No space" in ended.said["message"] for name in ("weights.data", "model.onnx"))
    assert result["same"], result["after"]
    # The other writer may leave room for the record of the rollback even when it takes all that is free.
    by_hand = not left and f"triton-deploy rollback {live.model} --deploy-id full" in ended.log
    assert by_hand or "was rolled back" in ended.log, ended.log
    rollback, again = (Ended(**then, seconds=0) for then in result["then"])
    assert rollback.code == 0, rollback.log
    # Triton does not see this file system, so the load is where a deploy that gets through must end.
    refused(again, INVALID, "misconfigured", "does not see the model")


def test_a_read_only_repository_is_named_with_what_to_do(live: Live, tmp_path: Path) -> None:
    live.publish_times(2.0)
    with live.unchanged():
        result = in_a_file_system_of_its_own(live, tmp_path, read_only=True)
    refused(Ended(**result["first"], seconds=0), DOWN, "storage", "Read-only file system", "read-write")
    assert result["same"]


# Triton


def test_a_triton_that_is_down_is_named_with_its_variable(live: Live) -> None:
    version = live.publish_times(8.0)
    with live.unchanged():
        ended = live.deploy(TRITON_DEPLOY_GRPC_URLS="127.0.0.1:1")
    refused(
        ended,
        DOWN,
        "unavailable",
        "Triton at 127.0.0.1:1 can't be reached",
        "TRITON_DEPLOY_GRPC_URLS",
        within_s=3,
    )
    assert live.failure(version)["blames_artifact"] is False
    assert live.deploy().code == 0, "the same version, without force"
    assert live.serves() == (version, 8.0)


def test_a_triton_that_is_silent_is_given_up_at_the_time_limit(live: Live) -> None:
    live.publish_times(2.0)
    with live.unchanged(), silent_server() as host:
        ended = live.deploy(TRITON_DEPLOY_GRPC_URLS=host, TRITON_DEPLOY_SWITCH_TIMEOUT_S="1")
    refused(ended, DOWN, "unavailable", f"Triton at {host}", "within 1 s", within_s=5)


def test_a_triton_that_hangs_in_load_is_given_up_and_the_next_version_goes_live(
    live: Live, in_process: Callable[..., Deployer]
) -> None:
    version = live.publish_times(9.0)
    deployer, deploy_id = (
        in_process(triton__load_timeout_s=2, triton__switch_timeout_s=1),
        f"hang-{uuid.uuid4().hex[:8]}",
    )
    before = live.state()
    deployer.snapshot(DeployRequest(model=live.model, alias="A", deploy_id=deploy_id))
    deployer.materialize(live.model, deploy_id)
    with blocked(live.folder / str(version) / "model.onnx"):
        started = time.monotonic()
        with pytest.raises(Unavailable, match=rf"loading {live.model}.v{version} within 2 s") as failure:
            deployer.load(live.model, deploy_id)
        deployer.rollback(live.model, deploy_id)
        assert time.monotonic() - started < 6
        after = live.state()
        hanging = f"{live.model}.v{version}"
        assert after["engines"].pop(hanging) == (), "its folder stays, so that it is listed"
        for name in [name for name in after["files"] if name.startswith(f"engines/{version}/")]:
            del after["files"][name]
        assert after == before
        live.works_again(9.5)
        problems = Reconciler(Settings.from_env()).run(live.model).problems
        assert [text for text in problems if f"{hanging} on " in text and "Restart that Triton" in text]
    assert "restart that Triton" in failure.value.hint
    assert "TRITON_DEPLOY_LOAD_TIMEOUT_S" in failure.value.hint
    assert live.failure(version)["blames_artifact"] is False


def test_a_triton_without_model_control_is_named_with_the_option(live: Live, tmp_path: Path) -> None:
    live.publish_times(2.0)
    (tmp_path / "repository").mkdir()
    with live.unchanged(), triton_without_control(tmp_path, tmp_path / "repository") as url:
        ended = live.deploy(TRITON_DEPLOY_GRPC_URLS=url)
    refused(ended, INVALID, "misconfigured", f"Triton at {url}", "--model-control-mode=explicit")


def test_after_all_of_that_the_next_deploy_works(live: Live) -> None:
    live.works_again(11.0)
    leftovers = [path.name for path in live.folder.iterdir() if path.name.startswith(".")]
    assert leftovers == []
