"""Who may ask what: several keys, kept as hashes, for everything or for some models."""

from __future__ import annotations

import hashlib

import pytest

from ml_code.gateway.http.errors import Forbidden, Unauthorized
from ml_code.gateway.http.keys import Keys
from ml_code.gateway.settings import GatewaySettings
from ml_code.triton_deploy.errors import DeployError, Misconfigured


def hashed(key: str, models: str = "") -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" + (f"@{models}" if models else "")


KEYS = Keys("plain", [hashed("old"), hashed("new"), hashed("few", "a+b"), hashed("default", "m")], "m")


@pytest.mark.parametrize("key", ["plain", "old", "new"])
@pytest.mark.parametrize("path", ["/predict", "/v2/models/x/infer", "/metrics", "/status", "/docs"])
def test_a_key_for_everything_opens_everything(key: str, path: str) -> None:
    KEYS.check(path, [(b"x-api-key", key.encode())])
    KEYS.check(path, [(b"authorization", b"Bearer " + key.encode())])


@pytest.mark.parametrize(
    "path",
    [
        "/predict/a",
        "/v2/models/a/infer",
        "/v2/models/b/versions/3/infer",
        "/model-info/a",
        "/v2",
        "/v2/health/ready",
    ],
)
def test_a_key_for_some_models_opens_these(path: str) -> None:
    KEYS.check(path, [(b"x-api-key", b"few")])


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/predict",
            "/predict/c",
            "/v2/models/c/infer",
            "/v2/models/c/versions/1",
            "/model-info",
            "/metrics",
        ),
        *("/v2/models/", "/v2/models", "/predict/", "/predict/c/a", "/status", "/docs", "/openapi.json", "/"),
        *("/v2/models/ab/infer", "/v2/models/a%2f/infer", "/v2/repository/index", "//predict/a"),
    ],
)
def test_a_key_for_some_models_opens_nothing_else(path: str) -> None:
    with pytest.raises(Forbidden):
        KEYS.check(path, [(b"x-api-key", b"few")])


def test_the_default_model_is_one_of_them() -> None:
    KEYS.check("/predict", [(b"x-api-key", b"default")])
    KEYS.check("/model-info", [(b"x-api-key", b"default")])


@pytest.mark.parametrize("key", ["", "wrong", hashed("old"), "old ", "PLAIN"])
def test_what_is_no_key_opens_nothing(key: str) -> None:
    with pytest.raises(Unauthorized):
        KEYS.check("/predict", [(b"x-api-key", key.encode())])
    with pytest.raises(Unauthorized):
        KEYS.check("/predict", [])


def test_without_keys_none_is_wanted() -> None:
    assert not Keys("", [], "m")
    assert Keys("", [hashed("a")], "m")


@pytest.mark.parametrize(
    "entry", ["s3cret", "sha256:abc", "md5:" + "0" * 64, hashed("a").upper(), hashed("a") + "@"]
)
def test_an_entry_that_cannot_be_right_is_refused_and_not_repeated(entry: str) -> None:
    with pytest.raises(Misconfigured, match="GATEWAY_API_KEYS") as caught:
        GatewaySettings.from_env({"TRITON_DEPLOY_REPOSITORY": "/models", "GATEWAY_API_KEYS": entry})
    assert entry not in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(DeployError):
        GatewaySettings.from_env(
            {"TRITON_DEPLOY_REPOSITORY": "/models", "GATEWAY_API_KEYS": hashed("a", "../x")}
        )
