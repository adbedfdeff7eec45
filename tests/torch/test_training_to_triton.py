"""An LSTM from a series in S3 to the gateway's answers, on the real servers; and its PyTorch flavor without Triton."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_code import train_model
from ml_code.training.heldout import HeldOut
from ml_code.training.trained import Arrays
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.lazily import lazily
from tests.support.servers.gateways import Gateway
from tests.support.servers.publisher import Publisher

mlflow = lazily("mlflow")
mlflow_pytorch = lazily("mlflow.pytorch")
models = lazily("mlflow.models")
lstm = lazily("ml_code.training.trainers.lstm")
torch_network = lazily("ml_code.training.torch_network")

pytestmark = pytest.mark.integration

WINDOW = 12


@functools.cache
def generated_prices() -> Any:
    return lstm().generated(500, 11)


@dataclass(frozen=True)
class Trained:
    """What the command line printed, and the network that it trained."""

    result: dict[str, Any]
    network: Any

    @property
    def model(self) -> str:
        return str(self.result["name"])

    def forecast(self, prices: Any) -> Any:
        return torch_network().answers(self.network, prices, ["forecast"])["forecast"]


@pytest.fixture(scope="module")
def patch(mlflow_stack: Stack) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mlflow_stack.environment.items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def series(mlflow_stack: Stack, patch: pytest.MonkeyPatch) -> str:
    """A series in S3."""
    key = f"series-{uuid.uuid4().hex[:8]}.csv"
    lines = ["day,close", *(f"{2000 + day},{price}" for day, price in enumerate(generated_prices()))]
    Publisher(mlflow_stack.environment).s3.put_object(
        Bucket="mlflow", Key=key, Body="\n".join(lines).encode()
    )
    return f"s3://mlflow/{key}"


@pytest.fixture(scope="module")
def trained(series: str, patch: pytest.MonkeyPatch) -> Trained:
    networks: list[Any] = []
    export = lstm().export

    def watched(network: Any, *rest: Any) -> bytes:
        networks.append(network)
        return export(network, *rest)

    patch.setattr(lstm(), "export", watched)
    model = f"prices_{uuid.uuid4().hex[:8]}"
    options = {"data": series, "window": str(WINDOW), "horizon": "2", "hidden": "8", "epochs": "4"}
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = train_model.main(["--trainer", "lstm", "--model", model, "--json", *arguments])
    assert code == 0
    (network,) = networks
    return Trained(json.loads(printed.getvalue()), network)


def artifact(trained: Trained, path: str) -> Path:
    return Path(mlflow().artifacts.download_artifacts(run_id=trained.result["run_id"], artifact_path=path))


def test_the_run_holds_curves_plots_data_commit_and_environment(trained: Trained) -> None:
    client = mlflow().MlflowClient()
    run = client.get_run(trained.result["run_id"])
    assert run.info.status == "FINISHED"
    expected = {"trainer": "lstm", "window": str(WINDOW), "column": "close", "seed": "7", "test_rows": "87"}
    assert run.data.params.items() >= expected.items()
    assert len(run.data.params["data_sha256"]) == 64
    assert {"test_rmse", "test_skill", "parity_max_abs_error", "parity_max_rel_error"} <= set(
        run.data.metrics
    )
    assert run.data.metrics["parity_max_rel_error"] < 1e-5
    for curve in ("train_loss", "validation_loss"):
        history = client.get_metric_history(run.info.run_id, curve)
        assert [point.step for point in history] == [1, 2, 3, 4]
        assert len({point.value for point in history}) == 4
    assert len(run.data.tags["git_commit"]) == 40
    assert run.data.tags["git_changed"] in ("true", "false")
    assert {path.name for path in artifact(trained, "plots").iterdir()} == {"loss.png", "forecast.png"}
    environment = json.loads(artifact(trained, "environment.json").read_text())
    assert {"torch", "onnxruntime", "mlflow"} <= set(environment["packages"])
    version = client.get_model_version(trained.model, "1")
    logged = mlflow().get_logged_model(str(version.source).removeprefix("models:/"))
    assert logged.model_id == trained.result["model_id"]


def test_what_the_gateway_answers_is_what_pytorch_computes(
    stack: Stack, trained: Trained, patch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings.from_env(stack.environment)
    deployment = Deployer(settings).deploy(
        DeployRequest(model=trained.model, alias="A", deploy_id=f"lstm-{uuid.uuid4().hex[:8]}")
    )
    assert deployment.state == "committed"
    held_out = HeldOut.from_bytes(artifact(trained, "evaluation/heldout.npz").read_bytes())
    prices = held_out.inputs["prices"]
    # The end of the series in the file, which the network was not trained on, as the file has it.
    np.testing.assert_allclose(prices[-1, :, 0], generated_prices()[-WINDOW - 2 : -2], rtol=1e-6)
    environment = {
        **stack.environment,
        "GATEWAY_TRITON_URLS": stack.url("triton").removeprefix("http://"),
        "GATEWAY_MODEL": trained.model,
    }
    with Gateway(tmp_path / "log", environment) as gateway:
        for rows in (1, 64):
            answer = gateway.post("/predict", json={"rows": prices[:rows].tolist()})
            assert answer.status_code == 200, answer.text
            assert answer.headers["X-Model-Version"] == "1"
            forecast = np.array(answer.json()["outputs"]["forecast"])
            assert forecast.shape == (rows, 2)
            np.testing.assert_allclose(forecast, trained.forecast(prices[:rows]), rtol=1e-5)
        wrong = gateway.post("/predict", json={"rows": prices[:1, 1:].tolist()})
        assert wrong.status_code == 422


@pytest.mark.soak
def test_the_pytorch_flavor_answers_alike_without_triton(
    mlflow_stack: Stack, trained: Trained, tmp_path: Path
) -> None:
    prices = generated_prices()[-WINDOW * 3 :].astype(np.float32).reshape(3, WINDOW, 1)
    expected: Arrays = {"forecast": trained.forecast(prices)}
    name = f"{trained.model}_torch"
    mlflow_pytorch().log_model(
        trained.network,
        name="model",
        registered_model_name=name,
        signature=models().infer_signature(prices, expected["forecast"]),
        input_example=prices,
        # Otherwise they are found out by loading the model in another process.
        pip_requirements=["torch"],
    )
    mlflow().MlflowClient().set_registered_model_alias(name, "A", "1")
    environment = {**mlflow_stack.environment, "GATEWAY_BACKEND": "local", "GATEWAY_MODEL": name}
    with Gateway(tmp_path / "log", environment) as gateway:
        for rows in (1, 3):
            answer = gateway.post("/predict", json={"rows": prices[:rows].tolist()})
            assert answer.status_code == 200, answer.text
            found = answer.json()["outputs"]["output"]
            np.testing.assert_allclose(found, expected["forecast"][:rows], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data", "s3://mlflow/no-such.csv"], "s3://mlflow/no-such.csv can't be read: "),
        (["--data", "s3://no-such-bucket/prices.csv"], "s3://no-such-bucket/prices.csv can't be read: "),
        (["--column", "open"], "has no column 'open'"),
        (["--window", "200"], "too few rows"),
    ],
    ids=["no object", "no bucket", "no column", "too short"],
)
def test_data_that_cannot_be_used_leaves_nothing_in_the_registry(
    series: str, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    model = f"prices_{uuid.uuid4().hex[:8]}"
    common = ["--trainer", "lstm", "--model", model, "--experiment", model, "--data", series]
    assert train_model.main([*common, *options]) == 5
    printed = capsys.readouterr().err
    assert says in printed
    assert "\nhint: " in printed
    client = mlflow().MlflowClient()
    assert client.search_registered_models(f"name = '{model}'") == []
    experiment = client.get_experiment_by_name(model)
    assert experiment is not None
    assert client.search_runs([experiment.experiment_id]) == []
