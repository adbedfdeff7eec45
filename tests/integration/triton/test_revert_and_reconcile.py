"""The way back on the real servers: a revert and a reconcile, from the command line and through Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from ml_code.triton_deploy import cli
from stack import Stack
from stack.servers import REPO
from tests.support.airflow.models import Model, deployed
from tests.support.servers.tritons import TritonServer

pytestmark = pytest.mark.integration


def command(model: Model, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", cli.__name__, *argv],
        cwd=REPO,
        env=os.environ | model.stack.environment | environment,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def live(stack: Stack) -> Model:
    """A model whose version 2 is live and version 1 warm."""
    return deployed(stack, versions=2)


def test_a_revert_and_the_history_that_tells_of_it(live: Model) -> None:
    with live.client() as client:
        done = command(live, "revert", live.name, "--reason", "too many refunds", "--json")
        assert done.returncode == 0, done.stderr
        seen = client.seen()
    assert json.loads(done.stdout)["state"] == "committed"
    assert seen.failures == ()
    assert seen.distinct == ((2, 2.0), (1, 1.0))
    assert json.loads(live.current or b"")["active_version"] == 1
    history = command(live, "history", live.name).stdout.splitlines()
    assert "version 1" in history[0]
    assert history[0].endswith("too many refunds")
    assert len(history) == 3


def test_a_version_that_was_never_live_is_not_reverted_to(live: Model) -> None:
    before = live.current
    done = command(live, "revert", live.name, "--to", "9")
    assert done.returncode == 3
    assert "never live" in done.stderr
    assert f"version 2 of {live.name} is live" in done.stderr
    assert live.current == before


def test_what_somebody_did_by_hand_is_put_right(live: Model) -> None:
    live.triton.unload_model(live.name)
    live.triton.unload_model(f"{live.name}.v1")
    (live.path / "current.json").unlink()
    assert command(live, "status", live.name).returncode == 7
    would = command(live, "reconcile", live.name, "--dry-run")
    assert "to do: rewrite current.json" in would.stdout
    assert live.current is None
    done = command(live, "reconcile", live.name)
    assert done.returncode == 0, done.stderr
    assert live.ready_versions(live.name) == {2}
    assert live.ready_versions(f"{live.name}.v1") == {1}
    assert json.loads(live.current or b"")["active_version"] == 2
    assert command(live, "status", live.name).returncode == 0
    again = command(live, "reconcile", live.name, "--deep", "--json")
    assert json.loads(again.stdout) == [
        {
            "model": live.name,
            "live": 2,
            "done": [],
            "problems": [],
            "under_way": "",
            "notices": [],
            "stuck": {},
        }
    ]


def test_a_triton_that_was_restarted_empty_serves_again(
    live: Model, triton_server: Callable[..., TritonServer], tmp_path: Path
) -> None:
    """A second Triton on the repository comes up with nothing loaded, as one without ``--load-model`` does."""
    server = triton_server(
        live.settings.repository_root, "--disable-auto-complete-config", "--load-model=nothing"
    )
    urls = {"TRITON_DEPLOY_GRPC_URLS": server.grpc_url}
    for name in (live.name, f"{live.name}.v1", f"{live.name}.v2"):
        InferenceServerClient(server.grpc_url).unload_model(name)
    assert command(live, "status", live.name, **urls).returncode == 7
    assert command(live, "reconcile", live.name, **urls).returncode == 0
    assert command(live, "status", live.name, **urls).returncode == 0
    server.stop()
    away = command(live, "reconcile", live.name, TRITON_DEPLOY_SWITCH_TIMEOUT_S="2", **urls)
    assert away.returncode == 7
    assert "can't be reached" in away.stdout
