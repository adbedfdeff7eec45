"""Variables that look like a setting and are none: warned of, refused where something is changed; those of Kubernetes are let alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ml_code.alias_events import cli as events
from ml_code.alias_events.settings import EventSettings
from ml_code.gateway import cli as gateway
from ml_code.gateway.settings import GatewaySettings
from ml_code.triton_deploy import cli
from ml_code.triton_deploy.doctor import DoctorVerdict, examine
from ml_code.triton_deploy.errors import Misconfigured
from ml_code.triton_deploy.settings import Settings, variables
from ml_code.triton_deploy.settings.variables import edits, unknown

ALL = (Settings, EventSettings, GatewaySettings)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TRITON_DEPLOY_LOAD_TIMEOUTS", "TRITON_DEPLOY_LOAD_TIMEOUT_S"),
        ("TRITON_DEPLOY_LOAD_TIMEOUT", "TRITON_DEPLOY_LOAD_TIMEOUT_S"),
        ("TRITON_DEPLOY_KEEPWARM", "TRITON_DEPLOY_KEEP_WARM"),
        ("TRITON_DEPLOY_KEEP_WRAM", "TRITON_DEPLOY_KEEP_WARM"),
        ("TRITON_DEPOLY_QUORUM", "TRITON_DEPLOY_QUORUM"),
        ("TRITON_DEPLOY_GRPC_URL", "TRITON_DEPLOY_GRPC_URLS"),
        ("triton_deploy_quorum", "TRITON_DEPLOY_QUORUM"),
        ("GATEWAY_WROKERS", "GATEWAY_WORKERS"),
        ("GATEWAY_API_KYE", "GATEWAY_API_KEY"),
        ("TRITON_EVENTS_ALOW", "TRITON_EVENTS_ALLOW"),
    ],
)
def test_a_misspelt_setting_is_known_by_what_was_meant(name: str, meant: str) -> None:
    [found] = unknown({name: "1"}, ALL)
    assert (found.meant, found.misspelt) == ((meant,), True)
    assert f"Did you mean {meant}?" in str(found)


@pytest.mark.parametrize(
    "name",
    [
        "TRITON_DEPLOY_LOAD_TIMEOUT_S",
        "MLFLOW_TRACKING_URL",
        "TRITON_LOG",
        "MY_GATEWAY_PORT",
        "NGINX_GATEWAY_WORKER",
        "GATEWAY_SERVICE_HOST",
        "GATEWAY_SERVICE_PORT",
        "GATEWAY_SERVICE_PORT_HTTP",
        "TRITON_DEPLOY_GATEWAY_PORT",
        "TRITON_DEPLOY_GATEWAY_PORT_80_TCP",
        "TRITON_DEPLOY_GATEWAY_PORT_80_TCP_ADDR",
        "TRITON_DEPLOY_GATEWAY_PORT_80_TCP_PROTO",
        "TRITON_EVENTS_SERVICE_HOST",
    ],
)
def test_what_is_known_another_programs_or_kubernetes_is_let_alone(name: str) -> None:
    assert unknown({name: "tcp://10.0.0.1:80"}, ALL) == []


def test_what_resembles_nothing_is_told_without_a_guess() -> None:
    [found] = unknown({"TRITON_DEPLOY_FOO": "1"}, ALL)
    assert (found.meant, found.misspelt) == ((), False)
    [far] = unknown({"TRITON_DEPLOY_TIMEOUT_S": "1"}, ALL)
    assert "TRITON_DEPLOY_LOAD_TIMEOUT_S" in far.meant
    assert not far.misspelt
    assert unknown({"TRITON_DEPLOY_FOO": " "}, ALL) == []


def test_no_setting_is_a_misspelling_of_another() -> None:
    """Else whoever sets the one in an older version is refused for the other."""
    for kind in ALL:
        names = list({field.metadata["variable"] for field in kind.declared()})
        assert unknown(dict.fromkeys(names, "1"), [kind, Settings]) == []


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("abc", "acb", 1),
        ("abc", "ab", 1),
        ("abc", "xbc", 1),
        ("abcd", "ab", 2),
    ],
)
def test_edits_are_counted_letter_by_letter(one: str, other: str, count: int) -> None:
    assert edits(one, other, 5) == edits(other, one, 5) == count
    assert edits(one, other, 1) > 1 or count <= 1


@pytest.fixture
def misspelt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(tmp_path))
    monkeypatch.setenv("TRITON_DEPLOY_KEEP_WRAM", "3")


COMMANDS = [
    ["deploy", "m"],
    ["deploy", "m", "--dry-run"],
    ["revert", "m"],
    ["bake", "m"],
    ["reconcile"],
    ["gc"],
    ["rollback", "m", "--deploy-id", "d"],
    ["renumber", "m"],
    ["init"],
]


@pytest.mark.usefixtures("misspelt")
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_command_that_changes_something_refuses_a_misspelt_setting(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*argv, "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["error"] == "misconfigured"
    assert "Did you mean TRITON_DEPLOY_KEEP_WARM?" in said["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("misspelt")
def test_a_command_that_looks_warns_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert cli.main(["status"]) == 0
    assert "Did you mean TRITON_DEPLOY_KEEP_WARM?" in caplog.text


def test_what_is_only_unknown_is_refused_by_nobody(caplog: pytest.LogCaptureFixture) -> None:
    variables.check([Settings], changes=True, environ={"TRITON_DEPLOY_FOO": "1"})
    assert "TRITON_DEPLOY_FOO is set, and no setting has that name" in caplog.text
    with pytest.raises(Misconfigured):
        variables.check([Settings], changes=True, environ={"TRITON_DEPLOY_MODELL": "1"})


def test_the_doctor_tells_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_code.triton_deploy.doctor.run_all", lambda checks, unusable: [])
    found = examine({"TRITON_DEPLOY_FOO": "1", "TRITON_DEPLOY_MODELL": "m"})
    assert [one.verdict for one in found] == [DoctorVerdict.WARNING, DoctorVerdict.FAILED]
    assert "Did you mean TRITON_DEPLOY_MODEL?" in found[1].what


def test_the_gateway_warns_and_the_receiver_refuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_WROKERS", "2")
    monkeypatch.setenv("TRITON_EVENTS_ALOW", "m@A")
    monkeypatch.setattr(gateway, "_run", lambda settings: 0)
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", "/models")
    assert gateway.main([]) == 0
    assert "Did you mean GATEWAY_WORKERS?" in caplog.text
    assert "ALOW" not in caplog.text, "the receiver's own are not the gateway's"
    assert events.main(["serve"]) == 3
    assert "Did you mean TRITON_EVENTS_ALLOW?" in capsys.readouterr().err
