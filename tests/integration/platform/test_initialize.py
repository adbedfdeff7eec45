"""What has to be there once is made once, on the real servers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from ml_code.triton_deploy.cli import main
from ml_code.triton_deploy.errors import InvalidInput, Misconfigured, StorageFailed
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.initialize import InitRequest, initialize
from stack import Stack

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(mlflow_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    environment: Mapping[str, str] = mlflow_stack.environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return replace(Settings.from_env(), repository=tmp_path / "volume/models")


@pytest.fixture
def request_of() -> InitRequest:
    unique = uuid.uuid4().hex[:8]
    return InitRequest(bucket=f"init-{unique}", proxied=f"init-{unique}", direct=f"init-{unique}-direct")


def made(settings: Settings, request: InitRequest, *, dry_run: bool = False) -> list[bool]:
    return [step.made for step in initialize(settings, request, dry_run=dry_run) if not step.to_set]


def experiment(settings: Settings, name: str) -> dict[str, str]:
    answer = requests.get(
        f"{settings.mlflow.tracking_url}/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": name},
        timeout=30,
    )
    found: dict[str, str] = answer.json().get("experiment", {})
    return found


def test_what_is_missing_is_made_once(settings: Settings, request_of: InitRequest) -> None:
    root = settings.repository
    assert root is not None
    assert made(settings, request_of, dry_run=True) == [True] * 4
    assert not root.parent.exists()
    assert experiment(settings, request_of.proxied) == {}
    assert made(settings, request_of) == [True] * 4
    assert root.stat().st_mode & 0o777 == 0o755
    proxied, direct = experiment(settings, request_of.proxied), experiment(settings, request_of.direct)
    assert proxied["artifact_location"].startswith("mlflow-artifacts:/")
    assert direct["artifact_location"] == f"s3://{request_of.bucket}/{request_of.direct}"
    assert made(settings, request_of) == [False] * 4
    assert experiment(settings, request_of.direct) == direct


def test_two_at_once_make_each_thing_once(settings: Settings, request_of: InitRequest) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: made(settings, request_of), range(3)))
    assert made(settings, request_of) == [False] * 4


def test_a_repository_that_triton_could_not_read_is_opened(
    settings: Settings, request_of: InitRequest
) -> None:
    assert settings.repository is not None
    settings.repository.mkdir(parents=True, mode=0o2770)
    settings.repository.chmod(0o2770)
    first = next(initialize(settings, request_of, dry_run=False))
    assert first.made
    assert settings.repository.stat().st_mode & 0o7777 == 0o2775, "a group that may write stays"


def test_an_experiment_somewhere_else_is_not_taken_for_it(
    settings: Settings, request_of: InitRequest
) -> None:
    swapped = replace(request_of, proxied=request_of.direct, direct=request_of.proxied)
    made(settings, request_of)
    with pytest.raises(
        Misconfigured, match="behind MLflow's proxy is wanted, and its artifacts are at s3://"
    ) as failure:
        made(settings, swapped)
    assert "choose another name" in failure.value.hint


def test_an_experiment_that_was_deleted_is_named(settings: Settings, request_of: InitRequest) -> None:
    made(settings, request_of)
    found = experiment(settings, request_of.proxied)
    requests.post(
        f"{settings.mlflow.tracking_url}/api/2.0/mlflow/experiments/delete",
        json={"experiment_id": found["experiment_id"]},
        timeout=30,
    ).raise_for_status()
    with pytest.raises(Misconfigured, match="was deleted in MLflow") as failure:
        made(settings, request_of)
    assert f"mlflow experiments restore --experiment-id {found['experiment_id']}" in failure.value.hint


def test_what_cant_be_meant_is_refused(settings: Settings, request_of: InitRequest, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        made(settings, replace(request_of, bucket="a/b"))
    with pytest.raises(Misconfigured, match="TRITON_DEPLOY_REPOSITORY is not set"):
        made(replace(settings, repository=None), request_of)
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="is no folder"):
        made(replace(settings, repository=tmp_path / "file"), request_of)
    with pytest.raises(StorageFailed):
        made(replace(settings, repository=tmp_path / "file/below"), request_of)


def test_the_command_says_what_it_made(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(settings.repository))
    name = f"init-{uuid.uuid4().hex[:8]}"
    assert main(["init", "--experiment", name, "--quiet"]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first == [
        f"made: model repository {settings.repository}",
        "there: bucket mlflow",
        f"made: experiment {name} behind MLflow's proxy",
        f"made: experiment {name}-direct at s3://mlflow/{name}-direct",
    ]
    assert main(["init", "--experiment", name, "--quiet"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["there"] * 4
