"""The queries of the shipped dashboards, and a life of a model in which each has an answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.canary import canary_of
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Judgment, Watched
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from tests.support.models import picky, times
from tests.support.servers.debian_packages import REPOSITORY
from tests.support.servers.gateways import Gateway, Releases, Traffic
from tests.support.servers.prometheus_server import Prometheus
from tests.support.settings import changed

SHIPPED = REPOSITORY / "deploy/grafana/dashboards"
RANGES = {"5m": "10s"}


@contextmanager
def watched(folder: Path, releases: Releases, gateway: Gateway) -> Iterator[Prometheus]:
    """A Prometheus on the gateway and both Tritons, whose rules look back seconds instead of minutes."""
    targets = {
        "gateway": [gateway.address],
        "triton": [stack.url("triton-metrics").removeprefix("http://") for stack in releases.stacks],
    }
    with Prometheus(folder, targets, ranges=RANGES) as running:
        yield running


def does_well(watched: Watched) -> Judgment:
    """Judge every candidate alike."""
    return Judgment(CanaryVerdict.PASS, "it does well")


def live_through_everything(releases: Releases, gateway: Gateway, step_s: float) -> None:
    """Failures, a canary that is bad, a shadow and a canary that are good, a commit, a reconcile and a bake, under traffic."""
    settings = changed(
        releases.settings,
        canary__interval_s=min(2.0, step_s),
        canary__silence_s=30,
        mlflow__feedback_prefix="off",
    )
    own = releases.deployer
    # This judge always approves: the dashboards show the gateways' counts.
    deployer = Deployer(settings, registry=own._via.registry(), stores=own._via.stores, judge=does_well)
    folder = ModelFolder.at(releases.root, releases.model)
    with ExitStack() as running:
        running.enter_context(Traffic(gateway.address, releases.model, per_second=60))
        releases.fail()
        _, bad = releases.request(canary_of("50", 0, step_s / 60), picky)
        deployer.snapshot(bad)
        for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
            step(bad.model, bad.deploy_id)
        deployer.look_at_canary(bad.model, bad.deploy_id)
        time.sleep(step_s)
        deployer.rollback(bad.model, bad.deploy_id)
        _, good = releases.request(canary_of("25,75", 100, step_s / 60), times)
        deployer.deploy(good)
        Reconciler(settings).run_all([releases.model])
        live = folder.releases.latest()
        assert live is not None
        folder.bakes.add(
            Bake(
                model=live.model,
                generation=live.generation,
                version=live.active_version,
                deploy_id=live.deploy_id,
                verdict=BakeVerdict.PASSED,
                reasons=("the gateway saw 900 requests",),
                looks=3,
                judged=3,
                figures={},
                began_at_utc=live.updated_at_utc,
                ended_at_utc=live.updated_at_utc,
            )
        )
        time.sleep(step_s)


def asked(model: str) -> dict[str, str]:
    """Return every expression of the shipped dashboards, filled in, by where it stands."""
    found = {}
    for path in sorted(SHIPPED.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in panels(board):
            for target in panel["targets"]:
                place = f"{path.stem}: {panel['title']}: {target['refId']}"
                found[place] = filled(target["expr"], model)
        for annotation in board["annotations"]["list"]:
            found[f"{path.stem}: {annotation['name']}"] = filled(annotation["expr"], model)
    return found


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that ask something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def filled(expression: str, model: str) -> str:
    """Return an expression as Grafana would ask it."""
    return expression.replace("$model", model).replace("$__rate_interval", "10s")


def over_time(
    prometheus: Prometheus, expression: str, began: float, step_s: float = 1
) -> list[dict[str, Any]]:
    """Return what an expression was since a moment: ``metric`` and ``values`` of each series."""
    answer = prometheus.get(
        "/api/v1/query_range",
        query=expression,
        start=str(began),
        end=str(time.time()),
        step=str(step_s),
    )
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result
