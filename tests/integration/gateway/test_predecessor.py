"""The version that was live before, on real Tritons: it goes on answering its share, and says what it makes of failed requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.models import picky
from tests.support.servers.gateways import Gateway, Releases
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

PREDICT, INFER = "/predict", "/v2/models/best_model/infer"
BODIES = {
    PREDICT: {"rows": [[1, 1]]},
    INFER: {"id": "v", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]},
}


def test_the_version_before_answers_its_share_and_is_asked_what_the_release_fails_on(
    releases: Releases, own_gateway: Callable[..., Gateway]
) -> None:
    before = releases.live
    live = releases.deploy()
    gateway = own_gateway(GATEWAY_BASELINE_PERCENT="50")

    def ask(path: str, name: int) -> tuple[str, Any]:
        answer = gateway.post(path, json=BODIES[path], headers={"X-Canary-Key": f"client {name}"})
        return (answer.headers["X-Model-Version"], answer.json()) if answer.ok else ("", answer.json())

    def count(series: str) -> int:
        found = re.search(rf"^{re.escape(series)} (\d+)", gateway.get("/metrics").text, re.MULTILINE)
        return int(found[1]) if found else 0

    def asked_again(version: int, outcome: str) -> int:
        labels = f'model="best_model",outcome="{outcome}",version="{version}"'
        return count(f"gateway_failed_asked_again_total{{{labels}}}")

    of = {name: ask(PREDICT, name)[0] for name in range(20)}
    assert set(of.values()) == {str(before), str(live)}
    kept, moved = (next(name for name in of if of[name] == str(version)) for version in (before, live))
    for path, name, version in ((PREDICT, kept, before), (INFER, kept, before), (INFER, moved, live)):
        said, content = ask(path, name)
        assert (said, int(content.get("version") or content["model_version"])) == (str(version), version)
        values = content["outputs"]["y"][0] if path == PREDICT else content["outputs"][0]["data"]
        assert values == [version, version]
        assert path == PREDICT or content["model_name"] == "best_model"

    failing = releases.deploy(picky)
    eventually(lambda: gateway.info()["version"] == failing, "the release is followed", 10)
    assert ask(INFER, kept)[0] == str(live)
    assert ask(INFER, moved)[0] == ""
    eventually(lambda: asked_again(failing, "alone") == 1, "the version before says that it can", 10)

    failing_as_well = releases.deploy(picky)
    eventually(lambda: gateway.info()["version"] == failing_as_well, "the release is followed", 10)
    assert ask(PREDICT, moved)[0] == ""

    def fails_on_both() -> bool:
        # One a second is asked again, and that may have been one of the release before.
        assert ask(PREDICT, moved)[0] == ""
        return asked_again(failing_as_well, "both") > 0

    eventually(fails_on_both, "the version before says that it can't", 10)
    assert ask(INFER, kept)[0] == ""
    assert count(f'gateway_baseline_failures_total{{model="best_model",version="{failing}"}}') > 0
    assert asked_again(failing_as_well, "alone") == 0
    releases.deploy()
