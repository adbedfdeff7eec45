"""A deploy as NVIDIA's MLflow plugin does it: ``python -m bench.plugin MODEL ALIAS REPOSITORY TRITON_URL``.

The plugin is on no package index. This follows ``TritonPlugin.create_deployment`` of
``deploy/mlflow-triton-plugin`` in triton-inference-server/server: it checks that the model is not deployed,
downloads the whole artifact, copies the model file, writes ``mlflow-meta.json``, and loads over HTTP. The
imports are those of the plugin and of MLflow's deployments client, which starts it. Prints the seconds of
each part as JSON. External data is copied too; the plugin itself forgets it for the ONNX flavor.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import mlflow
import pandas  # noqa: F401 - the plugin imports it
import tritonclient.http
from mlflow.deployments import BaseDeploymentClient  # noqa: F401 - the plugin's base class
from mlflow.models import Model
from mlflow.tracking.artifact_utils import _download_artifact_from_uri

from .stopwatch import Laps


def main() -> None:
    """Deploy the version that the alias names."""
    model, alias, repository, triton_url = sys.argv[1:5]
    laps = Laps()
    version = mlflow.MlflowClient().get_model_version_by_alias(model, alias).version
    uri = f"models:/{model}/{version}"
    triton = tritonclient.http.InferenceServerClient(triton_url.removeprefix("http://"), network_timeout=300)
    if any(
        entry["name"] == model and entry.get("state") == "READY"
        for entry in triton.get_model_repository_index()
    ):
        raise SystemExit(f"{model} is deployed already")
    laps.end("look-up")
    downloaded = Path(_download_artifact_from_uri(uri))
    laps.end("download")
    folder = Path(repository) / model
    (folder / "1").mkdir(parents=True, exist_ok=True)
    file = Model.load(str(downloaded / "MLmodel")).flavors["onnx"]["data"]
    shutil.copy(downloaded / file, folder / "1" / "model.onnx")
    if (downloaded / "weights.bin").exists():
        shutil.copy(downloaded / "weights.bin", folder / "1" / "weights.bin")
    meta = {"name": model, "triton_model_path": str(folder), "mlflow_model_uri": uri, "flavor": "onnx"}
    (folder / "mlflow-meta.json").write_text(json.dumps(meta, indent=4))
    laps.end("copy")
    triton.load_model(model)
    laps.end("load")
    shutil.rmtree(downloaded)
    print(json.dumps(laps.took_s))


if __name__ == "__main__":
    main()
