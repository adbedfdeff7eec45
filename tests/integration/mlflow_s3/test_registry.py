"""One contract for every model registry: what an alias means, and a clear word when it means nothing."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

from ml_code.triton_deploy.clients.artifacts import store_for
from ml_code.triton_deploy.clients.registry import MlflowRegistry, RegisteredVersion, Registry, wait_for_alias
from ml_code.triton_deploy.errors import (
    AccessDenied,
    AliasNotFound,
    DeployError,
    InvalidInput,
    Misconfigured,
    NotFound,
    Unavailable,
)
from ml_code.triton_deploy.rules.version_files import DIGEST_TAG
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.fakes import FakeRegistry
from tests.support.models import files, times
from tests.support.servers.publisher import Publisher
from tests.support.servers.relays import Reply, answering, ask_for_host, relay_to
from tests.support.settings import changed

pytestmark = pytest.mark.integration


def settings_for(stack: Stack, **changes: Any) -> Settings:
    return changed(
        changed(Settings(), mlflow__tracking_uri=stack.environment["MLFLOW_TRACKING_URI"]), **changes
    )


@pytest.fixture
def publisher(mlflow_stack: Stack) -> Publisher:
    return Publisher(mlflow_stack.environment)


@pytest.fixture
def registry(mlflow_stack: Stack) -> MlflowRegistry:
    return MlflowRegistry(settings_for(mlflow_stack))


@pytest.fixture
def model() -> str:
    return f"m-{uuid.uuid4().hex[:12]}"


# What every registry does


@dataclass
class Shelf:
    """A registry, and ways to put versions on it."""

    registry: Registry
    publish: Callable[..., int]
    move_alias: Callable[[str, str, int], None]


@pytest.fixture(params=["mlflow", "fake"])
def shelf(request: pytest.FixtureRequest) -> Shelf:
    if request.param == "fake":
        return on_the_fake()
    publisher: Publisher = request.getfixturevalue("publisher")
    return Shelf(request.getfixturevalue("registry"), publisher.publish, publisher.set_alias)


def on_the_fake() -> Shelf:
    registry = FakeRegistry()
    known: dict[str, list[RegisteredVersion]] = {}

    def publish(
        model: str, artifact: object, *, alias: str | None = "A", tags: dict[str, str] | None = None
    ) -> int:
        version = RegisteredVersion(
            version=len(known.setdefault(model, [])) + 1,
            run_id=uuid.uuid4().hex,
            artifact_uris=("fake://place",),
            expected_digest=(tags or {}).get(DIGEST_TAG, ""),
        )
        known[model].append(version)
        aliases = registry.models.setdefault(model, {})
        if alias:
            aliases[alias] = version
        return version.version

    def move_alias(model: str, alias: str, version: int) -> None:
        registry.models[model][alias] = known[model][version - 1]

    return Shelf(registry, publish, move_alias)


def test_an_alias_resolves_to_the_version_it_names_now(shelf: Shelf, model: str) -> None:
    assert shelf.publish(model, files(times(1))) == 1
    assert shelf.publish(model, files(times(2)), tags={DIGEST_TAG: "abc", "other": "tag"}) == 2
    second = shelf.registry.resolve(model, "A")
    assert (second.version, second.expected_digest) == (2, "abc")
    shelf.move_alias(model, "A", 1)
    first = shelf.registry.resolve(model, "A")
    assert (first.version, first.expected_digest) == (1, "")
    assert first.run_id != second.run_id
    assert first.artifact_uris


def test_a_missing_alias_is_not_a_missing_model(shelf: Shelf, model: str) -> None:
    with pytest.raises(NotFound) as failure:
        shelf.registry.resolve(model, "A")
    assert not isinstance(failure.value, AliasNotFound)
    assert model in failure.value.message
    shelf.publish(model, files(times(1)), alias=None)
    with pytest.raises(AliasNotFound, match="alias A not found"):
        shelf.registry.resolve(model, "A")
    shelf.move_alias(model, "A", 1)
    assert shelf.registry.resolve(model, "A").version == 1
    with pytest.raises(AliasNotFound):
        shelf.registry.resolve(model, "B")


def test_mlflows_answer_to_a_missing_alias_names_model_server_and_what_to_do(
    publisher: Publisher, registry: MlflowRegistry, mlflow_stack: Stack, model: str
) -> None:
    publisher.publish(model, files(times(1)), alias=None)
    with pytest.raises(AliasNotFound) as failure:
        registry.resolve(model, "A")
    assert model in failure.value.message
    assert mlflow_stack.environment["MLFLOW_TRACKING_URI"] in failure.value.message
    assert "set_registered_model_alias" in failure.value.hint
    assert "TRITON_DEPLOY_ALIAS_WAIT_S" in failure.value.hint


def test_an_alias_that_appears_is_waited_for(shelf: Shelf, model: str) -> None:
    shelf.publish(model, files(times(1)), alias=None)
    settings = changed(Settings(), mlflow__alias_wait_s=20, mlflow__alias_poll_s=0.2)
    told: list[str] = []
    later = threading.Timer(0.5, shelf.move_alias, (model, "A", 1))
    later.start()
    try:
        assert wait_for_alias(shelf.registry, model, "A", settings, told.append).version == 1
    finally:
        later.join()
    assert told
    assert f"Alias A of {model} is not set yet" in told[0]


def test_an_alias_that_never_appears_is_waited_for_no_longer_than_asked(shelf: Shelf, model: str) -> None:
    shelf.publish(model, files(times(1)), alias=None)
    settings = changed(Settings(), mlflow__alias_wait_s=0.6, mlflow__alias_poll_s=0.25)
    started = time.monotonic()
    with pytest.raises(AliasNotFound, match=r"Waited 0\.6 s"):
        wait_for_alias(shelf.registry, model, "A", settings, lambda line: None)
    assert 0.6 <= time.monotonic() - started < 3


def test_an_unknown_model_is_not_waited_for(shelf: Shelf, model: str) -> None:
    settings = changed(Settings(), mlflow__alias_wait_s=300)
    started = time.monotonic()
    with pytest.raises(NotFound):
        wait_for_alias(shelf.registry, model, "A", settings, lambda line: None)
    assert time.monotonic() - started < 3


# Where MLflow says that files are


def paths(stack: Stack, monkeypatch: pytest.MonkeyPatch, uri: str) -> set[str]:
    for name, value in stack.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    settings = settings_for(
        stack,
        transfer__s3_endpoint_url=stack.environment["MLFLOW_S3_ENDPOINT_URL"],
        transfer__artifact_roots=("s3://mlflow",),
    )
    return {file.path for file in store_for(uri, settings).list_files(uri)}


@pytest.mark.parametrize(("direct", "scheme"), [(False, "mlflow-artifacts"), (True, "s3")])
def test_a_version_of_a_run_is_found_where_its_files_are(
    publisher: Publisher,
    registry: MlflowRegistry,
    mlflow_stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    direct: bool,
    scheme: str,
) -> None:
    publisher.publish(model, files(times(1), triton__golden_json=b"{}"), direct=direct)
    found = registry.resolve(model, "A")
    uri = found.artifact_uris[0]
    assert urlsplit(uri).scheme == scheme
    assert found.run_id in uri
    assert paths(mlflow_stack, monkeypatch, uri) == {"model.onnx", "triton/golden.json"}


def test_a_run_that_has_onnx_beside_another_flavor_offers_that_place_too(
    publisher: Publisher,
    registry: MlflowRegistry,
    mlflow_stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
) -> None:
    artifact = {"sklearn/model.pkl": b"pickled", "onnx/model.onnx": b"12345"}
    publisher.publish(model, artifact, folder=".", registered_folder="sklearn")
    first, second = registry.resolve(model, "A").artifact_uris
    assert paths(mlflow_stack, monkeypatch, first) == {"model.pkl"}
    assert paths(mlflow_stack, monkeypatch, second) == {"model.onnx"}


def test_a_logged_model_of_mlflow_3_resolves_to_its_own_files(
    registry: MlflowRegistry, mlflow_stack: Stack, monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path
) -> None:
    import mlflow

    for name, value in mlflow_stack.environment.items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(mlflow_stack.environment["MLFLOW_TRACKING_URI"])
    with mlflow.start_run() as run:
        logged = mlflow.onnx.log_model(
            times(1), name="model", registered_model_name=model, pip_requirements=["onnx"]
        )
    mlflow.MlflowClient().set_registered_model_alias(model, "A", "1")
    found = registry.resolve(model, "A")
    assert (found.version, found.run_id) == (1, run.info.run_id)
    uri = found.artifact_uris[0]
    assert uri.endswith(f"/models/{logged.model_id}/artifacts"), "neither models:/ nor runs:/"
    assert {"model.onnx", "MLmodel"} <= paths(mlflow_stack, monkeypatch, uri)


# Servers that are not what they should be


HTML = b"<!doctype html><title>Not here</title>"
IMPOSTORS: list[tuple[int, bytes, type[DeployError], str, str]] = [
    (404, HTML, Misconfigured, "does not answer .* as an MLflow 3 server does", "MLFLOW_TRACKING_URI"),
    (200, HTML, Misconfigured, "does not answer .* as it should", "MLFLOW_TRACKING_URI"),
    (200, b"[]", Misconfigured, "does not answer .* as it should", "MLFLOW_TRACKING_URI"),
    (200, b"{}", Misconfigured, "does not answer .* as it should", "MLFLOW_TRACKING_URI"),
    (401, b"You are not authenticated.", AccessDenied, "denies access", "MLFLOW_TRACKING_TOKEN"),
    (403, b'{"error_code": "PERMISSION_DENIED"}', AccessDenied, "denies access", "MLFLOW_TRACKING_USERNAME"),
    (
        500,
        b'{"error_code": "INTERNAL_ERROR", "message": "(sqlite3.X)"}',
        Unavailable,
        "sqlite3",
        "server's log",
    ),
    (502, b"Bad Gateway", Unavailable, "Bad Gateway", "server's log"),
]


@pytest.mark.parametrize(("status", "body", "error", "says", "hint"), IMPOSTORS)
def test_a_server_that_is_no_mlflow_or_refuses_is_named_at_once(
    status: int, body: bytes, error: type[DeployError], says: str, hint: str
) -> None:
    with answering(status, body) as url:
        registry = MlflowRegistry(changed(Settings(), mlflow__tracking_uri=url))
        started = time.monotonic()
        with pytest.raises(error, match=says) as failure:
            wait_for_alias(registry, "best_model", "A", Settings(), lambda line: None)
        assert time.monotonic() - started < 5
    assert url in failure.value.message
    assert hint in failure.value.hint
    assert "<" not in str(failure.value)


def test_credentials_are_sent_as_mlflow_wants_them(
    mlflow_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[requests.PreparedRequest] = []
    real = HTTPAdapter.send

    def send(adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        sent.append(request)
        return real(adapter, request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", send)
    for changes in ({"mlflow__token": "abc"}, {"mlflow__username": "u", "mlflow__password": "p"}, {}):
        with pytest.raises(NotFound):
            MlflowRegistry(settings_for(mlflow_stack, **changes)).resolve("no_such_model", "A")
    assert [r.headers.get("Authorization") for r in sent] == ["Bearer abc", "Basic dTpw", None]


def test_a_host_name_that_mlflow_does_not_serve_is_named_with_the_option(
    mlflow_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_host(monkeypatch, "mlflow.example:5000")
    with pytest.raises(Misconfigured, match="refuses this host name") as failure:
        MlflowRegistry(settings_for(mlflow_stack)).resolve("best_model", "A")
    assert "--allowed-hosts" in failure.value.hint


def test_a_version_whose_registration_is_not_complete_is_not_taken() -> None:
    pending = b'{"model_version": {"name": "m", "version": "3", "status": "PENDING_REGISTRATION"}}'
    with answering(200, pending, "application/json") as url:
        registry = MlflowRegistry(changed(Settings(), mlflow__tracking_uri=url))
        with pytest.raises(Unavailable, match="Version 3 of m is PENDING_REGISTRATION") as failure:
            registry.resolve("m", "A")
    assert "deploy again" in failure.value.hint


def test_a_version_of_a_deleted_run_still_resolves(
    publisher: Publisher, registry: MlflowRegistry, mlflow_stack: Stack, model: str
) -> None:
    publisher.publish(model, files(times(1)))
    run_id = registry.resolve(model, "A").run_id
    url = mlflow_stack.environment["MLFLOW_TRACKING_URI"]
    requests.post(f"{url}/api/2.0/mlflow/runs/delete", json={"run_id": run_id}, timeout=30).raise_for_status()
    # It keeps its files until it is purged.
    assert run_id in registry.resolve(model, "A").artifact_uris[0]


def test_a_run_that_is_gone_fails_no_version_whose_files_are_there(
    publisher: Publisher, registry: MlflowRegistry, mlflow_stack: Stack, model: str
) -> None:
    publisher.publish(model, files(times(1)), direct=True)
    place, _ = registry.resolve(model, "A").artifact_uris
    url, gone = mlflow_stack.environment["MLFLOW_TRACKING_URI"], uuid.uuid4().hex
    # As after "mlflow gc": MLflow keeps the run's name on the version, and does not know the run.
    answer = requests.post(
        f"{url}/api/2.0/mlflow/model-versions/create",
        json={"name": model, "source": place, "run_id": gone},
        timeout=30,
    )
    answer.raise_for_status()
    publisher.set_alias(model, "A", 2)
    found = registry.resolve(model, "A")
    assert (found.version, found.run_id, found.artifact_uris) == (2, gone, (place,))
    assert registry.find(model, 2) == found


def test_a_run_that_is_gone_with_the_only_word_on_the_place_leaves_no_place(
    mlflow_stack: Stack, publisher: Publisher, model: str
) -> None:
    publisher.publish(model, files(times(1)))
    missing = json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run not found"}).encode()

    def spoil(reply: Reply) -> None:
        if "get-download-uri" in reply.path:
            reply.replace_body(json.dumps({"artifact_uri": f"runs:/{uuid.uuid4().hex}/model"}).encode())
        elif "runs/get" in reply.path:
            reply.replace_body(missing)

    with relay_to(mlflow_stack.environment["MLFLOW_TRACKING_URI"]) as relay:
        relay.spoil = spoil
        found = MlflowRegistry(settings_for(mlflow_stack, mlflow__tracking_uri=relay.url)).resolve(model, "A")
    assert found.artifact_uris == ()


@pytest.mark.parametrize("form", ["models:/{model_id}", "models:/{model}/1"])
def test_a_version_that_mlflow_gives_by_another_name_is_followed_to_its_files(
    mlflow_stack: Stack, publisher: Publisher, model: str, form: str
) -> None:
    publisher.publish(model, files(times(1)))
    url = mlflow_stack.environment["MLFLOW_TRACKING_URI"]
    answer = requests.post(
        f"{url}/api/2.0/mlflow/logged-models", json={"experiment_id": "0", "name": "logged"}, timeout=30
    )
    logged = answer.json()["model"]["info"]
    text = form.format(model_id=logged["model_id"], model=model)
    answers = iter([json.dumps({"artifact_uri": text}).encode()])

    def spoil(reply: Reply) -> None:
        # As servers that don't look up what a version was registered from. Asked again, it says where that is.
        if "get-download-uri" in reply.path and (body := next(answers, None)):
            reply.replace_body(body)

    with relay_to(url) as relay:
        relay.spoil = spoil
        found = MlflowRegistry(settings_for(mlflow_stack, mlflow__tracking_uri=relay.url)).resolve(model, "A")
    assert next(answers, None) is None, "the other name was given"
    expected = logged["artifact_uri"] if "model_id" in form else found.artifact_uris[0]
    assert found.artifact_uris[0] == expected
    assert urlsplit(expected).scheme == "mlflow-artifacts"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("models:/other@A", Misconfigured, "leads to no place"),
        ("mlflow-artifacts:/1/%2e%2e/etc", InvalidInput, "could lead out of its store"),
        ("s3://b/a\\b", InvalidInput, "could lead out of its store"),
    ],
)
def test_a_version_whose_place_leads_nowhere_is_named(
    mlflow_stack: Stack, publisher: Publisher, model: str, text: str, error: type[DeployError], says: str
) -> None:
    publisher.publish(model, files(times(1)))
    with relay_to(mlflow_stack.environment["MLFLOW_TRACKING_URI"]) as relay:
        relay.spoil = lambda reply: (
            reply.replace_body(json.dumps({"artifact_uri": text}).encode())
            if "get-download-uri" in reply.path
            else None
        )
        with pytest.raises(error, match=says) as failure:
            MlflowRegistry(settings_for(mlflow_stack, mlflow__tracking_uri=relay.url)).resolve(model, "A")
    assert "Register the model version again" in failure.value.hint
