"""Debian's Prometheus and Alertmanager on the shipped configuration, before real servers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import requests
import yaml

from tests.support.servers.debian_packages import REPOSITORY, unpacked
from tests.support.servers.gateways import free_port
from tests.support.waiting import eventually

SHIPPED = REPOSITORY / "deploy/prometheus"
SHIPPED_ALERTMANAGER = REPOSITORY / "deploy/alertmanager/alertmanager.yml"
STOP_TIMEOUT_S = 30


PACKAGES = ["prometheus", "prometheus-alertmanager"]
USER, PASSWORD = "ops", "let-me-in"
HASHED = "$2b$04$qhgyiPSUEZd.8xrvmefX3uhZ9fqAa3XpWwLRu1opYOwOoqCttLKhq"
"""The password as Prometheus wants to have it, by bcrypt."""
TEMPLATES = b"/usr/share/prometheus/alertmanager"


def program(name: str) -> Path:
    """Return the path of ``prometheus``, ``promtool``, ``prometheus-alertmanager`` or ``amtool``."""
    return unpacked("prometheus", PACKAGES) / "usr/bin" / name


def relocated_alertmanager(folder: Path) -> Path:
    """Return a copy of Alertmanager that looks for its templates below the folder that it is started in.

    Debian's has the absolute path built in, and its packages are not installed here.
    """
    path = folder / "alertmanager"
    relative = TEMPLATES[1:] + b"/"
    path.write_bytes(program("prometheus-alertmanager").read_bytes().replace(TEMPLATES, relative))
    path.chmod(0o755)
    return path


class Server:
    """A server in a process of its own; runs while the block does."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self._log = folder / "log"
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self._command: list[str] = []
        self._started_in = folder

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._started_in)
        try:
            eventually(self._is_ready, f"{self._command[0]} is ready, see {self._log}", 60)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=STOP_TIMEOUT_S)

    def get(self, path: str, **params: str | list[str]) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            response = session.get(self.url + path, params=params, timeout=30)
        response.raise_for_status()
        return response.json()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, f"it ended: {self._log.read_text()[-3000:]}"
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(f"{self.url}/-/ready", timeout=10).ok
            except requests.ConnectionError:
                return False


class Prometheus(Server):
    """Prometheus with the shipped configuration and rules; only addresses and times are this test's.

    Args:
        folder: for its files; empty.
        targets: addresses by the name of the file in ``targets/``.
        interval_s: between two scrapes, and two evaluations of the rules, seconds.
        waits: how long an alert's condition has to hold, by the alert's name; as shipped for others.
        ranges: shipped range to range of this test, in every rule: ``{"5m": "10s"}``.
        limits: what replaces what in the expression of an alert, by its name: ``{"ModelIsSlow": ("> 0.5",
            "> 0.02")}``.
        port: where it listens; any free one by default.
        locked: whether it wants a user and a password, ``USER`` and ``PASSWORD``; they are in its ``url``.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, Sequence[str]],
        *,
        interval_s: int = 1,
        waits: Mapping[str, str] | None = None,
        ranges: Mapping[str, str] | None = None,
        limits: Mapping[str, tuple[str, str]] | None = None,
        port: int | None = None,
        locked: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, port)
        shutil.copytree(SHIPPED / "rules", folder / "rules")
        (folder / "targets").mkdir()
        for path in (SHIPPED / "targets").iterdir():
            static = [{"targets": list(targets.get(path.stem, []))}]
            (folder / "targets" / path.name).write_text(yaml.safe_dump(static))
        configuration = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        configuration["global"] = {
            "scrape_interval": f"{interval_s}s",
            "scrape_timeout": f"{interval_s}s",
            "evaluation_interval": f"{interval_s}s",
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        for path in (folder / "rules").iterdir():
            path.write_text(_adapted(path.read_text(), waits or {}, ranges or {}, limits or {}))
        self._command = [
            str(program("prometheus")),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--web.enable-admin-api",
        ]
        if locked:
            (folder / "web.yml").write_text(yaml.safe_dump({"basic_auth_users": {USER: HASHED}}))
            self._command.append(f"--web.config.file={folder / 'web.yml'}")
            self.url = f"http://{USER}:{PASSWORD}@{self.address}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression is now: ``metric`` and ``value`` of each series."""
        result: list[dict[str, Any]] = self.get("/api/v1/query", query=expression)["data"]["result"]
        return result

    def value(self, expression: str) -> float | None:
        """Return the value of an expression that is one series at most; None without one."""
        result = self.query(expression)
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = self.get("/api/v1/alerts")["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


class Alertmanager(Server):
    """Alertmanager with the shipped configuration; only the address of its webhook and its times are this test's.

    Args:
        folder: for its files; empty.
        webhook: address that its webhooks get.
        receivers: take the place of the shipped receivers.
    """

    def __init__(
        self, folder: Path, webhook: str, receivers: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        configuration = yaml.safe_load(SHIPPED_ALERTMANAGER.read_text())
        for route in [configuration["route"], *configuration["route"].get("routes", [])]:
            route |= {"group_wait": "1s", "group_interval": "1s"}
        if receivers is not None:
            configuration["receivers"] = list(receivers)
        for receiver in configuration["receivers"]:
            for hook in receiver.get("webhook_configs", []):
                hook["url"] = webhook
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(configuration))
        self._command = [
            str(relocated_alertmanager(folder)),
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
        ]
        self._started_in = unpacked("prometheus", PACKAGES)


def _adapted(
    rules: str,
    waits: Mapping[str, str],
    ranges: Mapping[str, str],
    limits: Mapping[str, tuple[str, str]],
) -> str:
    content = yaml.safe_load(rules)
    for group in content["groups"]:
        # Every rule is evaluated as often as this test's server scrapes.
        group.pop("interval", None)
        for rule in group["rules"]:
            for shipped, own in ranges.items():
                rule["expr"] = re.sub(rf"\[{shipped}\]", f"[{own}]", rule["expr"])
            if rule.get("alert") in limits:
                shipped, own = limits[rule["alert"]]
                assert shipped in rule["expr"], rule
                rule["expr"] = rule["expr"].replace(shipped, own)
            if rule.get("alert") in waits:
                rule["for"] = waits[rule["alert"]]
    return yaml.safe_dump(content)
