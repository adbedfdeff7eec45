"""Settings from the environment; a wrong one is named with its variable."""

from pathlib import Path

import pytest

from ml_code.triton_deploy.errors import DeployError, Misconfigured
from ml_code.triton_deploy.settings import Settings


def test_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.alias_wait_s == 300
    assert settings.alias_poll_s == 5
    assert settings.keep_warm == 1


def test_values_are_parsed_by_their_default() -> None:
    settings = Settings.from_env(
        {
            "TRITON_DEPLOY_REPOSITORY": "/models",
            "TRITON_DEPLOY_GRPC_URLS": "a:8001, b:8001,",
            "TRITON_DEPLOY_KEEP_WARM": "2",
            "TRITON_DEPLOY_ALIAS_WAIT_S": "0",
            "TRITON_DEPLOY_MODEL": "",
        }
    )
    assert settings.repository == Path("/models")
    assert settings.triton_grpc_urls == ("a:8001", "b:8001")
    assert settings.keep_warm == 2
    assert settings.alias_wait_s == 0
    assert settings.default_model == "best_model"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_URI", "mlflow:5000"),
        ("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
        ("MLFLOW_TRACKING_URI", "http://"),
        ("MLFLOW_S3_ENDPOINT_URL", "minio:9000"),
        ("TRITON_DEPLOY_GRPC_URLS", "http://triton:8001"),
        ("TRITON_DEPLOY_GRPC_URLS", "triton"),
        ("TRITON_DEPLOY_GRPC_URLS", "dns:///triton"),
        ("TRITON_DEPLOY_GRPC_URLS", "dns://server/triton:8001"),
        ("TRITON_DEPLOY_QUORUM", "0"),
        ("TRITON_DEPLOY_QUORUM", "some"),
        ("TRITON_DEPLOY_QUORUM", "-1"),
        ("TRITON_DEPLOY_REQUIRE_GOLDEN", "true"),
        ("TRITON_DEPLOY_REQUIRE_DIGEST", "true"),
        ("TRITON_DEPLOY_REFERENCE_TIMEOUT_S", "0"),
        ("TRITON_DEPLOY_REFERENCE_MEMORY_BYTES", "4"),
        ("TRITON_DEPLOY_KEEP_WARM", "1.5"),
        ("TRITON_DEPLOY_KEEP_WARM", "-1"),
        ("TRITON_DEPLOY_LEASE_S", "nan"),
        ("TRITON_DEPLOY_LEASE_S", "inf"),
        ("TRITON_DEPLOY_LEASE_S", "soon"),
    ],
)
def test_a_value_that_cannot_be_right_is_named(variable: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=variable) as caught:
        Settings.from_env({variable: value})
    assert caught.value.hint


def test_an_empty_list_of_tritons_is_refused() -> None:
    with pytest.raises(Misconfigured, match="TRITON_DEPLOY_GRPC_URLS"):
        Settings.from_env({"TRITON_DEPLOY_GRPC_URLS": ","})


def test_a_wrong_default_model_is_refused() -> None:
    with pytest.raises(DeployError):
        Settings.from_env({"TRITON_DEPLOY_MODEL": "../x"})


@pytest.mark.parametrize("repository", [None, Path("/nonexistent/models")])
def test_a_repository_that_is_not_there_is_named_when_it_is_needed(repository: Path | None) -> None:
    with pytest.raises(Misconfigured, match=r"repository|REPOSITORY"):
        _ = Settings(repository=repository).repository_root


def test_the_tracking_server_is_needed_only_to_deploy() -> None:
    with pytest.raises(Misconfigured, match="MLFLOW_TRACKING_URI"):
        _ = Settings().tracking_url


def test_secrets_are_not_printed() -> None:
    text = repr(Settings(mlflow_password="hidden1", mlflow_token="hidden2"))
    assert "hidden" not in text
