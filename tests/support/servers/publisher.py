"""Puts hand-made artifacts into a real MLflow, by REST: faster than its client, and able to log what it would refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import boto3
import requests
from botocore.config import Config


class Publisher:
    """Registers artifact directories as model versions.

    Args:
        environment: the stack's ``environment``.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._url = environment["MLFLOW_TRACKING_URI"]

    def publish(
        self,
        model: str,
        artifact: Mapping[str, bytes],
        *,
        alias: str | None = "A",
        direct: bool = False,
        folder: str = "model",
        registered_folder: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> int:
        """Log files to a new run, register them, and point the alias at the version.

        Args:
            model: registered model, created when it is new.
            artifact: content by path below ``folder``.
            alias: alias to set, or None.
            direct: in an experiment whose artifacts lie in S3 itself, not behind MLflow's proxy.
            folder: where in the run's artifacts the files go.
            registered_folder: folder that the version points at, when it is another one.
            tags: tags of the version.

        Returns:
            The version.
        """
        run = self._post("runs/create", experiment_id=self._experiment(direct))["run"]["info"]
        for path, content in artifact.items():
            self._put(f"{run['artifact_uri']}/{folder}/{path}", content)
        requests.post(
            f"{self._url}/api/2.0/mlflow/registered-models/create", json={"name": model}, timeout=30
        )
        version = self._post(
            "model-versions/create",
            name=model,
            source=f"runs:/{run['run_id']}/{registered_folder or folder}",
            run_id=run["run_id"],
            tags=[{"key": key, "value": value} for key, value in (tags or {}).items()],
        )["model_version"]["version"]
        if alias:
            self.set_alias(model, alias, int(version))
        return int(version)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self._post("registered-models/alias", name=model, alias=alias, version=str(version))

    def delete_alias(self, model: str, alias: str) -> None:
        requests.delete(
            f"{self._url}/api/2.0/mlflow/registered-models/alias",
            json={"name": model, "alias": alias},
            timeout=30,
        )

    def _experiment(self, direct: bool) -> str:
        name = "direct" if direct else "proxied"
        found = requests.get(
            f"{self._url}/api/2.0/mlflow/experiments/get-by-name",
            params={"experiment_name": name},
            timeout=30,
        )
        if found.ok:
            return str(found.json()["experiment"]["experiment_id"])
        location = {"artifact_location": "s3://mlflow/direct"} if direct else {}
        return str(self._post("experiments/create", name=name, **location)["experiment_id"])

    def _put(self, uri: str, content: bytes) -> None:
        if uri.startswith("s3://"):
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            self.s3.put_object(Bucket=bucket, Key=key, Body=content)
            return
        path = uri.removeprefix("mlflow-artifacts:/").lstrip("/")
        requests.put(
            f"{self._url}/api/2.0/mlflow-artifacts/artifacts/{path}", data=content, timeout=60
        ).raise_for_status()

    @property
    def s3(self) -> Any:
        """A client of the stack's S3 server."""
        environment = self._environment
        return boto3.client(
            "s3",
            endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def _post(self, endpoint: str, **body: Any) -> Any:
        response = requests.post(f"{self._url}/api/2.0/mlflow/{endpoint}", json=body, timeout=30)
        if not response.ok:
            raise AssertionError(f"MLflow refused {endpoint}: {response.text}")
        return response.json()
