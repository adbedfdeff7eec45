"""What docs/alerting.md and docs/how-to/alerts-to-slack.md tell a reader to do, done with a real Alertmanager."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers.prometheus_server import REPOSITORY, Alertmanager, program
from tests.support.tutorial import blocks
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

SLACK = REPOSITORY / "docs/how-to/alerts-to-slack.md"


def block(document: Path, before: str, language: str = "sh") -> str:
    """Return the text of the first block of a document that follows a line."""
    return document.read_text().split(before)[1].split(f"```{language}\n")[1].split("```")[0]


def commands_of(document: Path, name: str) -> str:
    """Return the commands of a document that carry this mark."""
    [marked] = blocks(document, name)
    return marked.command


def run(commands: str, alertmanager: Alertmanager) -> None:
    for command in commands.replace("http://127.0.0.1:9093", alertmanager.url).splitlines():
        tool, *arguments = shlex.split(command)
        done = subprocess.run(
            [str(program(tool)), *arguments], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_of_the_manual_silence_an_alert(tmp_path: Path) -> None:
    with Alertmanager(tmp_path / "alertmanager", "http://127.0.0.1:9/") as alertmanager:
        run(commands_of(REPOSITORY / "docs/alerting.md", "silence"), alertmanager)
        [silence] = alertmanager.get("/api/v2/silences")
    assert silence["status"]["state"] == "active"
    matchers = {each["name"]: each["value"] for each in silence["matchers"]}
    assert matchers == {"alertname": "ModelIsSlow", "model": "best_model"}


@contextmanager
def slack() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Take messages as Slack does; give the address and what came."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/services/T/B/X", told
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@pytest.mark.soak
def test_the_receivers_of_the_page_bring_the_test_alert_to_slack(tmp_path: Path) -> None:
    receivers = yaml.safe_load(block(SLACK, "## Set the receivers", "yaml"))["receivers"]
    with slack() as (address, told):
        (tmp_path / "slack-url").write_text(address)
        for receiver in receivers:
            for one in receiver["slack_configs"]:
                assert one["api_url_file"] == "/etc/alertmanager/slack-url"
                one["api_url_file"] = str(tmp_path / "slack-url")
        with Alertmanager(tmp_path / "alertmanager", "http://127.0.0.1:9/", receivers) as alertmanager:
            run(commands_of(SLACK, "slack"), alertmanager)
            eventually(lambda: told, "the alert is told", 30)
    [message] = told
    assert message["channel"] == "#models-on-call"
    [attachment] = message["attachments"]
    assert attachment["title"] == "ModelFailsRequests: 1 firing"
    assert "a test: please ignore (docs/runbook.md#modelfailsrequests)" in attachment["text"]


def test_slack_is_told_of_every_severity() -> None:
    shipped = yaml.safe_load((REPOSITORY / "deploy/alertmanager/alertmanager.yml").read_text())
    receivers = yaml.safe_load(block(SLACK, "## Set the receivers", "yaml"))["receivers"]
    assert [each["name"] for each in receivers] == [each["name"] for each in shipped["receivers"]]
    assert re.search(
        r"^deploy/alertmanager/slack-url$", (REPOSITORY / ".gitignore").read_text(), re.MULTILINE
    )
