"""Whatever stands where MLflow should be: one clear error that says what was asked and what came, and no secret of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ml_code.triton_deploy.clients import listing
from ml_code.triton_deploy.clients.artifacts import ProxiedStore
from ml_code.triton_deploy.clients.mlflow_board import MlflowBoard
from ml_code.triton_deploy.clients.registry import MlflowRegistry
from ml_code.triton_deploy.errors import AccessDenied, DeployError, Misconfigured, Unavailable
from ml_code.triton_deploy.settings import Settings
from tests.support.servers.plain import Plain, Say, answer, as_json, path_of, plain_server
from tests.support.settings import changed

VERSION = {"name": "m", "version": "3", "status": "READY", "run_id": "r", "tags": [{"key": "a"}]}
RIGHT = {
    "/api/2.0/mlflow/registered-models/alias": {"model_version": VERSION},
    "/api/2.0/mlflow/model-versions/get-download-uri": {
        "artifact_uri": "mlflow-artifacts:/1/models/m-1/artifacts"
    },
    "/api/2.0/mlflow/runs/get": {"run": {"info": {"artifact_uri": "mlflow-artifacts:/1/r/artifacts"}}},
}
ALIAS, PLACE, RUN = RIGHT
LOGIN = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>" + b"x" * 3000


def settings_for(server: Plain, **more: Any) -> Settings:
    return changed(
        Settings(),
        mlflow__tracking_uri=server.url,
        mlflow__timeout_s=2.0,
        transfer__probe_timeout_s=0.2,
        **more,
    )


def mlflow(**changed: Say) -> Callable[[str], Say]:
    """Answers as MLflow, but for one endpoint."""

    def say(request: str) -> Say:
        path = path_of(request)
        last = path.rpartition("/")[2].replace("-", "_")
        return changed.get(last) or (as_json(RIGHT[path]) if path in RIGHT else answer(404, b"{}"))

    return say


def resolve(server: Plain, **more: Any) -> Any:
    return MlflowRegistry(settings_for(server, **more)).resolve("m", "A")


def test_an_alias_is_resolved() -> None:
    with plain_server(mlflow()) as server:
        found = resolve(server)
    assert (found.version, found.run_id) == (3, "r")
    assert found.artifact_uris == (
        "mlflow-artifacts:/1/models/m-1/artifacts",
        "mlflow-artifacts:/1/r/artifacts/onnx",
    )


STRANGE: dict[str, tuple[Say, str]] = {
    "a login page": (answer(200, LOGIN), "it is a web page, not JSON"),
    "nothing": (answer(200, b""), "it is no JSON"),
    "text": (answer(200, b"ready\x1b[2J"), "it is no JSON"),
    "XML": (answer(200, b"<?xml version='1.0'?><Error/>"), "it is XML"),
    "a list": (as_json([VERSION]), "it is no JSON object"),
    "null": (as_json(None), "it is no JSON object"),
    "another object": (as_json({"ok": True}), "model_version is missing"),
    "null for an object": (as_json({"model_version": None}), "model_version is missing"),
    "text for an object": (as_json({"model_version": "3"}), "model_version is not an object"),
    "no version": (as_json({"model_version": {"name": "m"}}), "version is missing"),
    "a word for a version": (
        as_json({"model_version": {**VERSION, "version": "three"}}),
        "not a valid model version",
    ),
    "a list for a version": (as_json({"model_version": {**VERSION, "version": [3]}}), "version is no number"),
    "half a character for a run": (
        as_json({"model_version": {**VERSION, "run_id": "\ud800"}}),
        "run_id is no text",
    ),
    "a path for a run": (
        as_json({"model_version": {**VERSION, "run_id": "../r"}}),
        "run_id is no id of a run",
    ),
    "half a character in a tag": (
        as_json({"model_version": {**VERSION, "tags": [{"key": "triton_deploy.digest", "value": "\udfff"}]}}),
        "value is no text",
    ),
    "a number for a run": (as_json({"model_version": {**VERSION, "run_id": 7}}), "run_id is not text"),
    "tags that are none": (as_json({"model_version": {**VERSION, "tags": "a"}}), "tags is not a list"),
    "a tag that is none": (
        as_json({"model_version": {**VERSION, "tags": [None]}}),
        "holds something other than objects",
    ),
    "a tag without a name": (as_json({"model_version": {**VERSION, "tags": [{}]}}), "key is missing"),
    "depth": (answer(200, b"[" * 100_000), "it is no JSON"),
    "a number of many digits": (answer(200, b'{"model_version": ' + b"9" * 10_000), "it is no JSON"),
    "a million values": (answer(200, b"[" + b"{}," * 700_000 + b"{}]"), "more than 600000 values"),
    "the end cut off": (answer(200, json.dumps({"model_version": VERSION}).encode()[:-5]), "it is no JSON"),
}


@pytest.mark.parametrize(("say", "why"), STRANGE.values(), ids=STRANGE)
def test_an_answer_of_another_form_is_one_clear_error(say: Say, why: str) -> None:
    with plain_server(mlflow(alias=say)) as server, pytest.raises(Misconfigured, match=why) as failure:
        resolve(server)
    message = failure.value.message
    assert f"MLflow at {server.url} does not answer mlflow/registered-models/alias as it should" in message
    assert "MLFLOW_TRACKING_URI" in failure.value.hint
    assert len(message) < 600
    assert message.isprintable()


@pytest.mark.parametrize("place", [None, 7, "", ["s3://b"], {"a": 1}])
def test_a_place_that_is_none_is_an_error(place: Any) -> None:
    with (
        plain_server(mlflow(get_download_uri=as_json({"artifact_uri": place}))) as server,
        pytest.raises(DeployError) as failure,
    ):
        resolve(server)
    assert failure.value.exit_code == 3


GONE = as_json({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run with id=r not found"}, 404)


@pytest.mark.parametrize(
    "say",
    [
        GONE,
        as_json({"error_code": "PERMISSION_DENIED", "message": "no"}, 403),
        as_json({"run": {}}),
        answer(404, b"no"),
    ],
    ids=["gone", "denied", "strange", "unknown"],
)
def test_a_place_that_is_not_needed_ends_nothing(say: Say) -> None:
    with plain_server(mlflow(get=say)) as server:
        assert resolve(server).artifact_uris == ("mlflow-artifacts:/1/models/m-1/artifacts",)


def test_what_is_wrong_with_the_only_place_is_said() -> None:
    wrong = as_json({"artifact_uri": "runs:/r/model"})
    with (
        plain_server(mlflow(get_download_uri=wrong, get=as_json({"run": {}}))) as server,
        pytest.raises(Misconfigured, match="info is missing"),
    ):
        resolve(server)
    with plain_server(mlflow(get_download_uri=wrong, get=GONE)) as server:
        assert resolve(server).artifact_uris == ()


def test_a_busy_mlflow_is_asked_again_later() -> None:
    with (
        plain_server(mlflow(alias=answer(429, b"slow down", Retry_After="60"))) as server,
        pytest.raises(Unavailable, match=r"failed on mlflow/registered-models/alias \(429\): slow down"),
    ):
        resolve(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "set_", "hint"),
    [
        (401, {}, "Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."),
        (
            401,
            {"mlflow__username": "u", "mlflow__password": "p"},
            "MLFLOW_TRACKING_PASSWORD are set and wrong: correct them.",
        ),
        (401, {"mlflow__token": "t"}, "MLFLOW_TRACKING_TOKEN is set and wrong: correct it."),
        (403, {"mlflow__token": "t"}, "MLFLOW_TRACKING_TOKEN is set, and not of a user who may do this"),
    ],
)
def test_credentials_that_are_not_taken_are_told_from_none(
    status: int, set_: dict[str, str], hint: str
) -> None:
    with plain_server(lambda request: answer(status, b"no")) as server:
        for ask in (
            lambda: resolve(server, **set_),
            lambda: ProxiedStore(settings_for(server, **set_)).list_files("mlflow-artifacts:/1"),
        ):
            with pytest.raises(AccessDenied) as failure:
                ask()
            assert hint in failure.value.hint


def test_s3_where_mlflow_should_be_is_told_as_that() -> None:
    refusal = b"<?xml version='1.0'?><Error><Code>UnsupportedAlgorithm</Code><Message>no</Message></Error>"
    with (
        plain_server(mlflow(alias=answer(400, refusal))) as server,
        pytest.raises(
            Misconfigured, match=r"it is XML, as S3 answers, not JSON.*UnsupportedAlgorithm: no"
        ) as failure,
    ):
        resolve(server)
    assert "the address of another program" in failure.value.hint


@pytest.mark.parametrize(
    ("set_", "secrets"),
    [
        ({"mlflow__token": "a-long-token"}, ["a-long-token"]),
        (
            {"mlflow__username": "me", "mlflow__password": "hunter2-long"},
            ["hunter2-long", "bWU6aHVudGVyMi1sb25n"],
        ),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_secrets_that_a_server_repeats_are_not_shown(
    set_: dict[str, str], secrets: list[str], status: int
) -> None:
    said = f"{' '.join(secrets)} was sent".encode()
    with (
        plain_server(lambda request: answer(status, said)) as server,
        pytest.raises(DeployError, match="was sent") as failure,
    ):
        resolve(server, **set_)
    assert not [secret for secret in secrets if secret in str(failure.value)]


# Pages


def pages(part: str, of: Callable[[int], dict[str, Any]]) -> Callable[[str], Say]:
    def say(request: str) -> Say:
        token = parse_qs(urlsplit(request.split()[1]).query).get("page_token", ["0"])[0]
        return as_json(of(int(token)))

    return say


def versions(server: Plain) -> Any:
    return MlflowBoard(settings_for(server)).versions("m")


def test_pages_are_put_together() -> None:
    def of(page: int) -> dict[str, Any]:
        entry = {"version": str(page + 1)}
        return {"model_versions": [entry], **({"next_page_token": str(page + 1)} if page < 4 else {})}

    with plain_server(pages("model_versions", of)) as server:
        assert sorted(versions(server)) == [1, 2, 3, 4, 5]


def test_pages_without_an_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_PAGES", 20)
    with (
        plain_server(pages("model_versions", lambda page: {"next_page_token": str(page + 1)})) as server,
        pytest.raises(Misconfigured, match="more than 20 pages"),
    ):
        versions(server)
    with (
        plain_server(pages("model_versions", lambda page: {"next_page_token": "1"})) as server,
        pytest.raises(Misconfigured, match="the same page twice"),
    ):
        versions(server)
    assert len(server.requests) == 2


# Folders behind the proxy


def listed(entries: Any) -> Callable[[str], Say]:
    return lambda request: as_json({"files": entries})


LISTINGS: dict[str, tuple[Any, str]] = {
    "no path": ([{"is_dir": False}], r"files\[\]\.path is missing"),
    "a number for a path": ([{"path": 7}], r"files\[\]\.path is not text"),
    "text for a size": ([{"path": "a", "file_size": "big"}], r"file_size is no whole number"),
    "less than nothing": ([{"path": "a", "file_size": -1}], r"file_size is no whole number"),
    "half a byte": ([{"path": "a", "file_size": 0.5}], r"file_size is no whole number"),
    "true bytes": ([{"path": "a", "file_size": True}], r"file_size is no whole number"),
    "text for a folder": ([{"path": "a", "is_dir": "yes"}], "is_dir is neither true nor false"),
    "text": ("files", "files is not a list"),
    "a list of lists": ([[]], "holds something other than objects"),
    "a way out": ([{"path": "a/..", "file_size": 1}], "leads out of it or is none"),
    "no name": ([{"path": "/", "file_size": 1}], "leads out of it or is none"),
    "a control character": ([{"path": "a\nb", "file_size": 1}], "leads out of it or is none"),
    "one twice": ([{"path": "a", "file_size": 1}] * 2, "'a' twice"),
}


@pytest.mark.parametrize(("entries", "why"), LISTINGS.values(), ids=LISTINGS)
def test_a_listing_of_another_form_is_one_clear_error(entries: Any, why: str) -> None:
    with plain_server(listed(entries)) as server, pytest.raises(Misconfigured, match=why):
        ProxiedStore(settings_for(server)).list_files("mlflow-artifacts:/1")


def test_null_is_an_empty_listing() -> None:
    with plain_server(listed(None)) as server:
        assert ProxiedStore(settings_for(server)).list_files("mlflow-artifacts:/1") == []


def test_folders_without_an_end_are_an_error() -> None:
    with (
        plain_server(listed([{"path": "deeper", "is_dir": True}])) as server,
        pytest.raises(Misconfigured, match="folders more than 20 levels deep"),
    ):
        ProxiedStore(settings_for(server)).list_files("mlflow-artifacts:/1")
    assert len(server.requests) == 21


def test_a_tree_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_FOLDERS", 15)
    with (
        plain_server(listed([{"path": str(n), "is_dir": True} for n in range(10)])) as server,
        pytest.raises(Misconfigured, match="more than 15 folders"),
    ):
        ProxiedStore(settings_for(server)).list_files("mlflow-artifacts:/1")
    monkeypatch.setattr(listing, "MOST_ENTRIES", 5)
    with (
        plain_server(listed([{"path": str(n), "file_size": 1} for n in range(10)])) as server,
        pytest.raises(Misconfigured, match="more than 5 entries"),
    ):
        ProxiedStore(settings_for(server)).list_files("mlflow-artifacts:/1")


def test_a_listing_ends_in_time() -> None:
    clock = listing.Listing("x", "It", 0.0)
    with pytest.raises(Unavailable, match="did not complete the listing of x within 0 s"):
        clock.next_timeout_s()


@pytest.mark.parametrize("given", [{}, {"url": 7}, {"url": None}])
def test_a_presigned_answer_of_another_form_is_an_error(given: Any) -> None:
    with plain_server(lambda request: as_json(given)) as server, pytest.raises(Misconfigured, match="url is"):
        ProxiedStore(settings_for(server)).source("mlflow-artifacts:/1", "f")


def test_a_presigned_address_is_not_shown_in_a_refusal_that_has_it() -> None:
    refusal = answer(507, b'{"url": "http://s3/b/f?X-Amz-Signature=5ecret&X-Amz-Security-Token=s3ssion"}')
    with (
        plain_server(lambda request: refusal) as server,
        pytest.raises(DeployError, match="http://s3/b/f") as failure,
    ):
        ProxiedStore(settings_for(server)).source("mlflow-artifacts:/1", "f")
    assert "5ecret" not in str(failure.value)
    assert "s3ssion" not in str(failure.value)


@pytest.mark.parametrize("url", ["file:///etc/passwd?sig=secret", "", "http://h:99999?sig=secret", "//h"])
def test_a_presigned_address_that_is_none_is_an_error(url: str) -> None:
    with (
        plain_server(lambda request: as_json({"url": url})) as server,
        pytest.raises(
            Misconfigured, match=r"hands out .* as the address of a file, which is none"
        ) as failure,
    ):
        ProxiedStore(settings_for(server)).source("mlflow-artifacts:/1", "f")
    assert "secret" not in str(failure.value)


def test_a_presigned_address_can_be_asked_for_again() -> None:
    numbers = iter(range(9))
    with plain_server(lambda request: answer(206, b"x")) as s3:
        say = lambda request: as_json({"url": f"{s3.url}/f?X-Amz-Signature={next(numbers)}"})  # noqa: E731
        with plain_server(say) as server:
            source = ProxiedStore(settings_for(server)).source("mlflow-artifacts:/1", "f")
            assert source.renew is not None
            assert source.url.endswith("=0")
            assert source.renew().url.endswith("=1")
    assert "Signature" not in repr(source)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
