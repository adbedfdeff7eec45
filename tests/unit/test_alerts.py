"""Alerts, their tests and the runbook belong together. Whether the rules do what they should promtool says (tests/integration)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_code.gateway.front.deploy_metrics import FAMILIES
from ml_code.gateway.http.metrics import FAILURES

REPO = Path(__file__).parents[2]
PROMETHEUS = REPO / "deploy/prometheus"
RULES = [
    rule
    for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def test_each_alert_has_a_section_of_the_runbook_and_each_section_an_alert() -> None:
    sections = re.findall("^## (.+)$", (REPO / "docs/runbook.md").read_text(), re.MULTILINE)
    assert sections == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_is_and_where_its_section_is(name: str) -> None:
    annotations = ALERTS[name]["annotations"]
    assert annotations["runbook"] == f"docs/runbook.md#{name.lower()}"
    assert len(annotations["summary"]) > 10
    assert ALERTS[name]["labels"]["severity"] in ("page", "ticket")


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    files = (yaml.safe_load(path.read_text()) for path in (PROMETHEUS / "tests").glob("*.yml"))
    cases = [case for file in files for test in file["tests"] for case in test.get("alert_rule_test", [])]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fires == set(ALERTS)
    # An alert test names all series that fire, so one with a series that must not is such a test as well.
    assert {rule for rule in ALERTS if not any(case["alertname"] == rule for case in cases)} == set()


def test_every_severity_has_a_receiver() -> None:
    configuration = yaml.safe_load((REPO / "deploy/alertmanager/alertmanager.yml").read_text())
    route = configuration["route"]
    routed = {route["receiver"], *(each["receiver"] for each in route["routes"])}
    assert {alert["labels"]["severity"] for alert in ALERTS.values()} <= routed
    assert routed == {receiver["name"] for receiver in configuration["receivers"]}
    for receiver in configuration["receivers"]:
        assert all(hook["send_resolved"] for hook in receiver["webhook_configs"])


def test_an_inhibited_alert_exists() -> None:
    configuration = yaml.safe_load((REPO / "deploy/alertmanager/alertmanager.yml").read_text())
    named = re.findall(r'alertname =~? "([\w.*]+)"', str(configuration["inhibit_rules"]))
    assert named
    for pattern in named:
        assert any(re.fullmatch(pattern, alert) for alert in ALERTS), pattern


def test_rules_ask_for_metrics_that_the_deployer_has() -> None:
    asked = set(re.findall(r"triton_deploy_(\w+)", " ".join(rule["expr"] for rule in RULES)))
    assert asked
    assert asked <= set(FAMILIES)


def test_rules_count_as_failures_what_the_gateway_does() -> None:
    matched = {match for rule in RULES for match in re.findall(r'outcome=~"([^"]+)"', rule["expr"])}
    assert {frozenset(match.split("|")) for match in matched} == {FAILURES}


def test_recorded_names_that_are_asked_for_are_recorded() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    asked = {name for rule in RULES for name in re.findall(r"model(?:_version)?:\w+:\w+", rule["expr"])}
    assert asked <= recorded
