"""Settings from the environment; a wrong one is named with its variable."""

from pathlib import Path

import pytest

from ml_code.gateway.settings import GatewaySettings
from ml_code.triton_deploy.errors import DeployError, Misconfigured
from ml_code.triton_deploy.rules.web_address import shown
from ml_code.triton_deploy.settings import Settings
from tests.support.settings import changed


def test_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.mlflow.alias_wait_s == 300
    assert settings.mlflow.alias_poll_s == 5
    assert settings.retention.keep_warm == 1


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
    assert settings.triton.grpc_urls == ("a:8001", "b:8001")
    assert settings.retention.keep_warm == 2
    assert settings.mlflow.alias_wait_s == 0
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
        ("TRITON_DEPLOY_LEASE_S", "0"),
        ("TRITON_DEPLOY_LEASE_S", "1e300"),
        ("TRITON_DEPLOY_KEEP_WARM", "9" * 5000),
        ("TRITON_DEPLOY_KEEP_WARM", "1_0"),
        ("TRITON_DEPLOY_TRANSFER_STREAMS", "0"),
        ("TRITON_DEPLOY_MLFLOW_TIMEOUT_S", "0"),
        ("TRITON_DEPLOY_GRPC_URLS", "a:8001,a:8001"),
        ("TRITON_DEPLOY_GRPC_URLS", "a:0"),
        ("TRITON_DEPLOY_GRPC_URLS", "a:70000"),
        ("TRITON_DEPLOY_GRPC_URLS", "user@a:8001"),
        ("TRITON_DEPLOY_REPOSITORY", "~/models"),
        ("TRITON_DEPLOY_ARTIFACT_ROOTS", "bucket"),
        ("TRITON_DEPLOY_ARTIFACT_ROOTS", "s3://bucket,file:///srv"),
        ("TRITON_DEPLOY_ARTIFACT_ROOTS", "s3://bucket/../x"),
        ("TRITON_DEPLOY_ARTIFACT_ROOTS", "mlflow-artifacts://host/x"),
        ("TRITON_DEPLOY_CANARY_NO_DATA", "revert"),
        ("TRITON_DEPLOY_CANARY_HOLD_MINUTES", "1441"),
        ("TRITON_DEPLOY_SHADOW_MAX_DIFFERENT", "1.1"),
        ("TRITON_DEPLOY_GATEWAY_URLS", "http://gateway-1:8100,gateway-2:8100"),
        ("TRITON_DEPLOY_NOTIFY_URL", "http://[::1"),
        ("TRITON_DEPLOY_NOTIFY_URL", '"https://hooks.example"'),
    ],
)
def test_a_value_that_cannot_be_right_is_named(variable: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=variable) as caught:
        Settings.from_env({variable: value})
    assert caught.value.hint


ADDRESSES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "TRITON_DEPLOY_PROMETHEUS_URL",
    "TRITON_DEPLOY_ALERTMANAGER_URL",
)


@pytest.mark.parametrize("variable", ADDRESSES)
@pytest.mark.parametrize(
    "url",
    [
        "htp://user:s3cret@host:9090",
        "user:s3cret@host:9090",
        "http://user:s3cret@host:99999",
        "http://user:s3cret@",
        "http://user:s3c/s3cret@host",
        "http://user:12/s3cret@host:9090",
        "http://user:s3c?s3cret@host:9090",
        "http://user:s3c#s3cret@host",
        "http://user:s3c s3cret@host",
        "http://user:s3c@s3cret@host:x",
        "'http://user:s3cret@host:9090'",
        "http://host:9090/?token=s3cret",
        "http://host:9090/?token=a@s3cret",
        "http://[user:s3cret@host",
        "postgresql+psycopg2://user:s3cret@host/mlflow?password=s3cret",
        "tcp://user:s3cret@host:9090",
    ],
)
def test_no_password_is_shown_however_the_address_is_written(variable: str, url: str) -> None:
    with pytest.raises(Misconfigured, match=variable) as caught:
        Settings.from_env({variable: url})
    assert "s3c" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://user:pw@host:5000/base", "http://host:5000/base"),
        ("https://host/x?X-Amz-Signature=abc#f", "https://host/x"),
        ("http://user:pa/ss@host", "http://…"),
        ("http://user:12/34@host", "http://…"),
        ("http://host/?a=b@c", "http://…"),
        ("user:pw@host:5000", "host:5000"),
        ("http://user:p@ss@host", "http://host"),
        ("http://host\n:5000", "http://host :5000"),
        ("mlruns", "mlruns"),
    ],
)
def test_no_address_is_shown_by_half(url: str, seen: str) -> None:
    assert shown(url) == seen


def test_a_user_and_password_in_mlflows_address_are_used_and_stand_nowhere() -> None:
    settings = Settings.from_env({"MLFLOW_TRACKING_URI": "https://me:p%40ss@mlflow:5000/base/"})
    assert (settings.mlflow.username, settings.mlflow.password) == ("me", "p@ss")
    assert settings.mlflow.tracking_url == "https://mlflow:5000/base"
    assert "p@ss" not in repr(settings)
    assert "p%40ss" not in repr(settings)
    assert changed(settings, retention__keep_warm=3).mlflow.password == "p@ss"
    # MLflow's own client takes those of the address as well when both are there.
    both = Settings.from_env(
        {
            "MLFLOW_TRACKING_URI": "http://me:mine@mlflow:5000",
            "MLFLOW_TRACKING_USERNAME": "you",
            "MLFLOW_TRACKING_PASSWORD": "yours",
        }
    )
    assert (both.mlflow.username, both.mlflow.password) == ("me", "mine")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:///mlflow.db", "mlflow server --backend-store-uri sqlite:///mlflow.db"),
        ("postgresql://me:pw@db/mlflow", "mlflow server --backend-store-uri postgresql://db/mlflow"),
        ("databricks", "Databricks is not supported"),
        ("databricks://profile", "Databricks is not supported"),
        ("databricks-uc", "Databricks is not supported"),
        ("file:///srv/mlruns", "A folder serves no other machine"),
        ("./mlruns", "A folder serves no other machine"),
        ("mlruns", "A folder serves no other machine"),
        ("C:\\mlruns", "A folder serves no other machine"),
        ("s3://bucket/mlflow", "store of files, not an MLflow server"),
        ("azureml://westeurope", "plugin"),
        ("arn:aws:sagemaker:eu:1:mlflow", "plugin"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("mlflow", "http://mlflow"),
        ("htp://mlflow:5000", "http://mlflow:5000"),
        ('"http://mlflow:5000"', "quotation marks"),
        ("http://mlflow:5000x", "a port from 1 to 65535"),
    ],
)
def test_the_remedy_fits_what_mlflows_address_is(uri: str, words: str) -> None:
    with pytest.raises(Misconfigured, match="MLFLOW_TRACKING_URI") as caught:
        Settings.from_env({"MLFLOW_TRACKING_URI": uri})
    assert words in caught.value.hint
    assert "http://http" not in caught.value.hint
    assert ":///" not in caught.value.hint.replace("sqlite:///", "").replace("file:///", "")


@pytest.mark.parametrize("store", ["s3://models/x", "gs://models", "as://models", "https://host/models"])
def test_a_repository_in_an_object_store_is_told_as_what_it_is(store: str) -> None:
    with pytest.raises(Misconfigured, match=f"TRITON_DEPLOY_REPOSITORY={store} is a URL") as caught:
        Settings.from_env({"TRITON_DEPLOY_REPOSITORY": store})
    assert "link(2)" in caught.value.hint


def test_a_repository_as_a_file_url_is_written_as_a_path() -> None:
    with pytest.raises(Misconfigured) as caught:
        Settings.from_env({"TRITON_DEPLOY_REPOSITORY": "file:///srv/models"})
    assert "TRITON_DEPLOY_REPOSITORY=/srv/models" in caught.value.hint


def test_what_kubernetes_tells_of_a_service_is_told_as_that() -> None:
    with pytest.raises(
        Misconfigured, match="Kubernetes tells every pod of a Service called 'gateway'"
    ) as port:
        GatewaySettings.from_env({"GATEWAY_PORT": "tcp://10.0.0.1:8100"})
    assert "enableServiceLinks: false" in port.value.hint
    with pytest.raises(Misconfigured, match="as Kubernetes and Docker write addresses"):
        Settings.from_env({"TRITON_DEPLOY_GRPC_URLS": "tcp://10.0.0.1:8001"})


TOGETHER = [
    ({"TRITON_DEPLOY_BAKE_ALERTS": "x"}, {"TRITON_DEPLOY_ALERTMANAGER_URL": "http://am:9093"}),
    ({"TRITON_DEPLOY_QUORUM": "2"}, {"TRITON_DEPLOY_GRPC_URLS": "a:8001,b:8001"}),
    ({"TRITON_DEPLOY_QUORUM": "3"}, {"TRITON_DEPLOY_GRPC_URLS": "dns:///triton:8001"}),
    ({"TRITON_DEPLOY_REFERENCE_TIMEOUT_S": "1000"}, {"TRITON_DEPLOY_LEASE_S": "2000"}),
    ({"MLFLOW_TRACKING_PASSWORD": "x"}, {"MLFLOW_TRACKING_USERNAME": "me"}),
]


@pytest.mark.parametrize(("first", "second"), TOGETHER)
def test_settings_that_belong_together_are_checked_together(
    first: dict[str, str], second: dict[str, str]
) -> None:
    [variable] = first
    with pytest.raises(Misconfigured, match=variable):
        Settings.from_env(first)
    settings, wrong = Settings.usable(first)
    assert set(wrong) == {variable}
    assert settings == Settings()
    assert Settings.usable({**first, **second}) == (Settings.from_env({**first, **second}), {})


def test_a_wrong_setting_makes_no_other_wrong() -> None:
    _, wrong = Settings.usable(
        {"TRITON_DEPLOY_BAKE_ALERTS": "x", "TRITON_DEPLOY_ALERTMANAGER_URL": "am:9093"}
    )
    assert set(wrong) == {"TRITON_DEPLOY_ALERTMANAGER_URL"}
    settings, wrong = Settings.usable(
        {
            "TRITON_DEPLOY_STAGING_GRPC_URL": "a:8001",
            "TRITON_DEPLOY_GRPC_URLS": "a:8001",
            "MLFLOW_TRACKING_URI": "x",
        }
    )
    assert set(wrong) == {"TRITON_DEPLOY_STAGING_GRPC_URL", "MLFLOW_TRACKING_URI"}
    assert settings.triton.grpc_urls == ("a:8001",)


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
        _ = Settings().mlflow.tracking_url


def test_secrets_are_not_printed() -> None:
    text = repr(changed(Settings(), mlflow__password="hidden1", mlflow__token="hidden2"))
    assert "hidden" not in text
