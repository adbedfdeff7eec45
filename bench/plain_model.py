"""The naive way, as in guides on the web: one plain Triton model, whose highest version serves.

A deploy downloads the artifact with ``mlflow.artifacts``, copies ``model.onnx`` into the folder of the next
version, loads the model over HTTP, waits for its ready endpoint, sends one request, and writes
``current.json``. A revert removes the version's folder, and unloads and loads the model.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import requests

from .site import MODEL
from .small_site import ALIAS, SmallSite

NAIVE = "naive_model"
CONFIG = f"""\
name: "{NAIVE}"
backend: "onnxruntime"
max_batch_size: 0
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ -1, 2 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ -1, 2 ] }} ]
"""


class NotServed(Exception):
    """A deploy failed: Triton could not load the version, or the version answers wrongly."""


class PlainModel:
    """The plain model on a site's Triton; no version is loaded yet.

    Args:
        site: a site whose MLflow has the versions of ``MODEL``; its repository gets this model as well.

    Attributes:
        loaded_s: time of the last call to load, ``time.perf_counter``.
        verified_s: time at which the last smoke inference had passed, ``time.perf_counter``.
    """

    def __init__(self, site: SmallSite) -> None:
        # Imported here, because mlflow reads the variable at its import, which takes seconds.
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        import mlflow

        mlflow.set_tracking_uri(site.stack.environment["MLFLOW_TRACKING_URI"])
        self._client = mlflow.MlflowClient()
        self._download = mlflow.artifacts.download_artifacts
        self._triton = f"{site.stack.url('triton')}/v2"
        self._folder = site.settings.repository_root / NAIVE
        self._folder.mkdir()
        (self._folder / "config.pbtxt").write_text(CONFIG, encoding="utf-8")
        self.loaded_s = self.verified_s = 0.0

    def deploy(self) -> None:
        """Make the version of the alias live.

        Raises:
            NotServed: the version can't be loaded or answers wrongly; its folder was removed, and the
                previous version serves again.
        """
        version = int(self._client.get_model_version_by_alias(MODEL, ALIAS).version)
        with tempfile.TemporaryDirectory() as folder:
            artifact = Path(self._download(f"models:/{MODEL}/{version}", dst_path=folder))
            (self._folder / str(version)).mkdir()
            shutil.copyfile(artifact / "model.onnx", self._folder / str(version) / "model.onnx")
            case = json.loads((artifact / "triton/golden.json").read_text(encoding="utf-8"))
        try:
            self._load()
            self._wait_ready()
            self._smoke(case["inputs"], case["outputs"])
        except NotServed:
            self.take_back(version)
            raise
        with open(self._folder / "current.json", "w", encoding="utf-8") as file:
            file.write(json.dumps({"active_version": version}))

    def take_back(self, version: int) -> None:
        """Remove the version that serves; the previous one serves then."""
        shutil.rmtree(self._folder / str(version))
        self._post(f"repository/models/{NAIVE}/unload")
        self._load()
        self._wait_ready()

    def _load(self) -> None:
        self.loaded_s = time.perf_counter()
        response = self._post(f"repository/models/{NAIVE}/load")
        if not response.ok:
            raise NotServed(response.text)

    def _wait_ready(self) -> None:
        while not requests.get(f"{self._triton}/models/{NAIVE}/ready", timeout=10).ok:
            time.sleep(0.1)

    def _smoke(self, inputs: list[dict[str, object]], expected: list[dict[str, object]]) -> None:
        response = self._post(f"models/{NAIVE}/infer", {"inputs": inputs})
        if not response.ok:
            raise NotServed(response.text)
        answers = {output["name"]: output["data"] for output in response.json()["outputs"]}
        for output in expected:
            if not np.allclose(answers[output["name"]], output["data"]):  # type: ignore[arg-type]
                raise NotServed(f"{output['name']} is {answers[output['name']]}, not {output['data']}")
        self.verified_s = time.perf_counter()

    def _post(self, path: str, body: object = None) -> requests.Response:
        return requests.post(f"{self._triton}/{path}", json=body, timeout=120)
