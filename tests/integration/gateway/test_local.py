"""The gateway without Triton: it follows an alias of a real MLflow and runs what that names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from stack import Stack
from tests.support.models import files, golden, unknown_operator
from tests.support.servers.gateways import Gateway, RealClient, Traffic
from tests.support.servers.local_gateways import Followed, followed, serves, start
from tests.support.waiting import eventually

__all__ = ["followed", "start"]

pytestmark = pytest.mark.integration

V2 = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]}


def test_an_alias_that_is_not_there_yet_is_waited_for(
    followed: Followed, start: Callable[..., Gateway]
) -> None:
    gateway = start(ready=False)
    eventually(lambda: "not found" in gateway.get("/health/ready").json()["reason"], "the reason is there")
    assert gateway.get("/health/ready").status_code == 503
    assert gateway.get("/health/live").ok
    refused = gateway.post("/predict", json={"rows": [[1, 2]]})
    assert refused.status_code == 503
    assert gateway.get("/status").json()["version"] is None

    version = followed.publish()
    eventually(lambda: gateway.get("/health/ready").ok, "it is ready")
    answer = gateway.post("/predict", json={"rows": [[1, 2]]})
    assert answer.json()["outputs"] == {"y": [[1.0, 2.0]]}
    assert answer.headers["X-Model-Version"] == str(version)
    info = gateway.info()
    assert (info["backend"], info["alias"], info["version"]) == ("local", "A", version)
    assert info["run_id"]
    assert len(info["digest"]) == 64


def test_an_alias_that_does_not_come_is_given_up(start: Callable[..., Gateway]) -> None:
    gateway = start(ready=False, TRITON_DEPLOY_ALIAS_WAIT_S="3")
    eventually(lambda: gateway.get("/health/live").status_code == 503, "it says that it waited long enough")
    assert "waited 3 s" in gateway.get("/health/live").json()["reason"]


def test_moves_of_the_alias_are_unnoticed(followed: Followed, start: Callable[..., Gateway]) -> None:
    for _ in range(3):
        followed.publish()
    gateway = start()
    with Traffic(gateway.address, followed.name) as traffic:
        for version in (1, 2, 3) * 2:
            followed.publisher.set_alias(followed.name, "A", version)
            eventually(lambda version=version: serves(gateway, version), f"{version} serves")  # type: ignore[misc]
            traffic.ask_more()
    traffic.assert_unnoticed()
    assert traffic.seen.versions == {1, 2, 3}
    assert gateway.info()["previous_version"] == 2
    assert f'gateway_swaps_total{{model="{followed.name}"}} 6.0' in gateway.get("/metrics").text


@pytest.mark.parametrize("fault", ["can't be loaded", "answers wrongly", "is no model"])
def test_a_new_model_that_fails_leaves_the_old_one_serving(
    followed: Followed, start: Callable[..., Gateway], fault: str
) -> None:
    first = followed.publish()
    gateway = start()
    with Traffic(gateway.address, followed.name) as traffic:
        if fault == "can't be loaded":
            bad = followed.publish_files(files(unknown_operator(), triton__golden_json=golden(2)))
        elif fault == "answers wrongly":
            bad = followed.publish(expected=5)
        else:
            bad = followed.publish_files({"notes.txt": b"nothing"})
        eventually(lambda: gateway.info()["last_failure"] is not None, "the failure shows")
        failure = gateway.info()["last_failure"]
        assert failure["version"] == bad
        assert failure["error"]
        assert serves(gateway, first)
        assert f'gateway_failed_swaps_total{{model="{followed.name}"}} 1.0' in gateway.get("/metrics").text
        good = followed.publish()
        eventually(lambda: serves(gateway, good), "the next good one serves")
    traffic.assert_unnoticed()
    assert traffic.seen.versions == {first, good}


def test_mlflow_away_changes_nothing(followed: Followed, start: Callable[..., Gateway]) -> None:
    version = followed.publish()
    gateway = start()
    followed.publisher.delete_alias(followed.name, "A")
    with Traffic(gateway.address, followed.name) as traffic:
        time.sleep(1)
    traffic.assert_unnoticed()
    assert gateway.get("/health/ready").ok
    assert traffic.seen.versions == {version}


def test_v2_says_no_as_triton_does(followed: Followed, start: Callable[..., Gateway]) -> None:
    followed.publish()
    gateway = start()
    with RealClient(gateway.address) as client:
        assert client.is_model_ready(followed.name)
        assert client.get_model_metadata(followed.name)["inputs"] == [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
        ]
    path = f"/v2/models/{followed.name}"
    for wrong in (
        {"inputs": [{**V2["inputs"][0], "name": "z"}]},
        {"inputs": [{**V2["inputs"][0], "datatype": "INT32"}]},
        {"inputs": [{**V2["inputs"][0], "shape": [2, 1]}]},
        {"inputs": []},
        {**V2, "outputs": [{"name": "z"}]},
    ):
        assert gateway.post(f"{path}/infer", json=wrong).status_code == 400, wrong
    assert gateway.post(f"{path}/versions/9/infer", json=V2).status_code == 404
    assert gateway.post("/v2/models/nobody/infer", json=V2).status_code == 404
    assert gateway.post(f"{path}/versions/1/infer", json=V2).json()["outputs"][0]["data"] == [1.0, 1.0]


# The packages are named: MLflow would spend ten seconds on finding them out.
LOG_MODELS = """
import sys
import mlflow, numpy as np, pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

name, kind = sys.argv[1:]
table = pd.DataFrame({"age": [1, 2, 3, 4], "height": [0.5, 1.5, 2.5, 3.5]})
if kind == "sklearn":
    model = LogisticRegression().fit(table, ["low", "low", "high", "high"])
    signature = infer_signature(table, model.predict(table))
    logged = mlflow.sklearn.log_model(
        model, name="m", signature=signature, input_example=table, pip_requirements=["mlflow"]
    )
else:
    class Twice(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return {"twice": model_input["a"] * 2, "sum": model_input["a"].sum(axis=1)}

    given = {"a": np.ones((2, 3), np.float32)}
    signature = infer_signature(given, {"twice": given["a"], "sum": given["a"].sum(axis=1)})
    logged = mlflow.pyfunc.log_model(
        python_model=Twice(), name="m", signature=signature, pip_requirements=["mlflow"]
    )
version = mlflow.register_model(logged.model_uri, name).version
mlflow.MlflowClient().set_registered_model_alias(name, "A", version)
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["sklearn", "tensors"])
def test_other_flavors_run_by_pyfunc(
    followed: Followed, mlflow_stack: Stack, start: Callable[..., Gateway], kind: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOG_MODELS, followed.name, kind],
        env={**os.environ, **mlflow_stack.environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    gateway = start()
    if kind == "sklearn":
        answer = gateway.post(
            "/predict", json={"records": [{"age": 1, "height": 0.5}, {"age": 4, "height": 3.5}]}
        )
        assert list(answer.json()["outputs"].values()) == [["low", "high"]], answer.text
        wrong = gateway.post("/predict", json={"records": [{"age": "old", "height": 0.5}]})
        assert wrong.json()["fields"][0]["field"] == "records[0].age"
    else:
        answer = gateway.post("/predict", json={"rows": [[1, 2, 3]]})
        assert answer.json()["outputs"] == {"twice": [[2.0, 4.0, 6.0]], "sum": [6.0]}, answer.text
