"""How many clients a version failed: who is a client, for how long, and how many are remembered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ml_code.gateway.http.clients import MOST, WINDOW_S, Clients, Recent, name_of

HEADER = b"x-canary-key"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(clients: Clients, name: str) -> dict[tuple[str, str], float]:
    clients.refresh()
    return {
        (sample.labels["model"], sample.labels["version"]): sample.value
        for metric in clients.all
        for family in metric.collect()
        for sample in family.samples
        if sample.name == name
    }


def request(address: str = "10.0.0.1", **headers: str) -> dict[str, Any]:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": (address, 1234), "headers": lines}


def test_a_client_is_who_names_itself_or_an_address_with_its_key() -> None:
    names = [
        name_of(scope, HEADER)
        for scope in (
            request(),
            request("10.0.0.2"),
            request(x_api_key="a"),
            request(x_api_key="b"),
            request(authorization="Bearer c"),
            request(x_canary_key="ann"),
            request(x_canary_key="10.0.0.1 "),
            {"client": None, "headers": []},
        )
    ]
    assert len(set(names)) == len(names)
    same = [request(x_canary_key="ann"), request("10.0.0.9", x_api_key="a", x_canary_key="ann")]
    assert len({name_of(scope, HEADER) for scope in same}) == 1
    assert name_of({**request(), "client": ("10.0.0.1", 9)}, HEADER) == names[0], "whichever port"


def test_many_failures_of_one_client_are_one() -> None:
    clients = Clients(Clock())
    for _ in range(50):
        clients.seen("m", "2", "timeout", b"ann")
    for name in (b"bob", b"cid"):
        clients.seen("m", "2", "ok", name)
    clients.seen("m", "1", "failed", b"bob")
    assert shown(clients, "gateway_failed_clients") == {("m", "2"): 1, ("m", "1"): 1}
    assert shown(clients, "gateway_clients") == {("m", "2"): 3, ("m", "1"): 1}


@pytest.mark.parametrize("outcome", ["ok", "refused", "busy", "gone", "unavailable"])
def test_only_what_the_version_is_to_blame_for_counts(outcome: str) -> None:
    clients = Clients(Clock())
    clients.seen("m", "2", outcome, b"ann")
    assert shown(clients, "gateway_failed_clients") == {("m", "2"): 0}
    assert shown(clients, "gateway_clients") == {("m", "2"): 1}


def test_a_client_is_forgotten_after_the_window_and_not_before() -> None:
    clock = Clock()
    clients = Clients(clock)
    clients.seen("m", "2", "failed", b"ann")
    clock.now = WINDOW_S / 2
    clients.seen("m", "2", "failed", b"bob")
    clock.now = WINDOW_S - 1
    assert shown(clients, "gateway_failed_clients") == {("m", "2"): 2}
    clock.now = WINDOW_S
    assert shown(clients, "gateway_failed_clients") == {("m", "2"): 1}
    clients.seen("m", "2", "failed", b"bob")
    clock.now = 1.5 * WINDOW_S
    assert shown(clients, "gateway_failed_clients") == {("m", "2"): 1}, "it was there again"
    clock.now = 2 * WINDOW_S
    assert shown(clients, "gateway_failed_clients") == {("m", "2"): 0}


def test_memory_is_bounded_and_there_is_room_again_after_the_window() -> None:
    clock = Clock()
    recent = Recent(clock)
    for number in range(3 * MOST):
        recent.add(b"%d" % number)
    assert recent.count() == len(recent._seen_at) == MOST
    clock.now = WINDOW_S
    recent.add(b"late")
    assert recent.count() == 1


def test_zeros_are_shown_before_anybody_asks() -> None:
    clients = Clients(Clock())
    clients.begin([("m", "2")])
    assert shown(clients, "gateway_failed_clients") == {("m", "2"): 0}


def test_of_two_workers_the_greatest_number_is_shown(tmp_path: Path) -> None:
    """A client whose connections are at both is one."""
    worker = (
        "import sys; from ml_code.gateway.http.metrics import Metrics; it = Metrics(lambda: [], lambda: 0, lambda: 0)\n"
        "for name in sys.argv[1:]: it.observe('m', '2', 'failed', 0.1, 3, name.encode())\n"
        "it.refresh(); print(it.text().decode())"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for names in (["ann", "bob", "cid"], ["ann"]):
        command = [sys.executable, "-c", worker, *names]
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert 'gateway_failed_clients{model="m",version="2"} 3.0' in shown
    assert 'gateway_request_duration_seconds_count{model="m",outcome="failed",version="2"} 4.0' in shown
