"""What is asked of a version, and what is asked only when something is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from ml_code.gateway.http import metrics as gateway_metrics
from ml_code.triton_deploy.rules.bake_rules import Limits
from ml_code.triton_deploy.watch.observer import Observed, Observer
from ml_code.triton_deploy.watch.queries import ROWS, Queries, Span
from ml_code.triton_deploy.watch.readings import Baseline

KINDS = ("requests", "failures", "latency_s")
MORE = ("clients", "clients_failed", "both", "alone", "load")
BY_ROWS = ("rows_requests", "rows_latency_s")


def query(source: str, kind: str, more: str = "") -> str:
    return f"{source} {kind} $version{more} $window $offset"


QUERIES = Queries.parse(
    {
        "sources": {
            "gateway": {kind: query("gateway", kind) for kind in (*KINDS, *MORE)}
            | {kind: query("gateway", kind, " $rows") for kind in BY_ROWS},
            "triton": {kind: query("triton", kind).replace("$version", "0") for kind in KINDS}
            | {"beyond": "gateway"},
        }
    }
)
NOW, BEFORE = Span("m", 2, 120), Span("m", 1, 960, offset_s=60)


@dataclass
class Server:
    """A Prometheus that knows numbers by source, kind and version; requests and failures came evenly in the time that is asked for."""

    knows: Mapping[str, float]
    asked: list[str] = field(default_factory=list)

    def value(self, query: str) -> float | None:
        source, kind, version, *rest = query.split()
        rows = f" {rest.pop(0)}" if kind.startswith("rows") else ""
        self.asked.append(f"{source} {kind} {version}{rows}")
        number = self.knows.get(f"{source} {kind} {version}{rows}")
        if number is None or kind not in ("requests", "failures"):
            return number
        window_s, *offset_s = (float(one.removesuffix("s")) for one in rest if one != "offset")
        return number * window_s / (window_s + sum(offset_s)) if version != "1" else number


def look(server: Server, *baselines: Baseline, fresh_s: int | None = None) -> Observed:
    return Observer(QUERIES, server, Limits()).look(NOW, baselines, datetime.now(UTC), fresh_s)


GOOD = {"gateway requests 2": 9000.0, "gateway latency_s 2": 0.02, "triton requests 0": 9000.0}
EARLIER = {"gateway requests 1": 9000.0, "gateway latency_s 1": 0.02}
SLOW = {**GOOD, **EARLIER, "gateway latency_s 2": 0.2}
BEFORE_THE_COMMIT = Baseline(BEFORE, "the one before")


def test_of_a_good_release_little_is_asked() -> None:
    server = Server({**GOOD, **EARLIER})
    assert not look(server, BEFORE_THE_COMMIT).look.bad
    assert len(server.asked) == 9
    assert not any(kind in " ".join(server.asked) for kind in (*MORE, *BY_ROWS))


def test_of_failures_it_is_asked_who_had_them_and_when_they_came() -> None:
    server = Server({**GOOD, "gateway failures 2": 900.0})
    assert look(server).look.bad == ("gateway: 10.0% of 9000 requests failed, the limit is 1.0%",)
    assert {f"gateway {kind} 2" for kind in MORE if kind != "load"} <= set(server.asked)
    one_client = {"gateway clients 2": 9.0, "gateway clients_failed 2": 1.0}
    assert not look(Server({**server.knows, **one_client})).look.bad
    assert not look(Server({**server.knows, "gateway both 2": 60.0})).look.bad


def test_what_tritons_count_of_the_gateways_requests_is_not_judged_again() -> None:
    counted_by_triton = {"triton failures 0": 900.0}
    assert not look(Server({**GOOD, **counted_by_triton})).look.bad
    around = look(Server({**GOOD, **counted_by_triton, "triton requests 0": 18_000.0})).look.bad
    assert around == ("triton: 10.0% of 9000 requests failed, the limit is 1.0%",)


def test_without_a_gateway_tritons_are_judged() -> None:
    assert look(Server({"triton requests 0": 9000.0, "triton failures 0": 900.0})).look.bad


def test_a_source_that_tells_no_versions_apart_is_compared_with_no_other_at_the_same_time() -> None:
    server = Server({"triton requests 0": 9000.0, "triton failures 0": 900.0})
    assert look(server, Baseline(Span("m", 1, 120), "itself", meanwhile=True)).look.bad


def test_what_saw_enough_first_is_compared_with() -> None:
    meanwhile = Baseline(Span("m", 1, 120), "the one meanwhile", meanwhile=True, least_share=0.04)

    def beside(requests: float) -> str:
        server = Server({**GOOD, "gateway requests 1": requests, "gateway latency_s 1": 0.02})
        reading, _ = look(server, meanwhile, BEFORE_THE_COMMIT).readings
        return reading.beside if reading.before else ""

    assert beside(500) == "the one meanwhile"
    assert beside(300) == "the one before", "so few are those of the moment of the commit"
    assert beside(50) == ""


def test_a_slow_release_is_bad_when_nothing_else_explains_it() -> None:
    server = Server(SLOW)
    assert look(server, BEFORE_THE_COMMIT).look.bad == (
        "gateway: answers take 200.0 ms, 20.0 ms those of the one before",
    )
    assert "gateway load 1" in server.asked


@pytest.mark.parametrize("rows", ROWS)
def test_more_than_twice_the_load_of_another_time_is_not_compared(rows: str) -> None:
    loads = {"gateway load 1": 100.0, "gateway load 2": 300.0}
    seen = look(Server({**SLOW, **loads}), BEFORE_THE_COMMIT)
    assert not seen.look.bad
    assert seen.look.uncompared == "there is 3.0 times the load that the one before had"
    same = {f"gateway rows_requests {v} {rows}": 9000.0 for v in (1, 2)}
    slower = {f"gateway rows_latency_s 1 {rows}": 0.02, f"gateway rows_latency_s 2 {rows}": 0.2}
    assert look(Server({**SLOW, **same, **slower}), BEFORE_THE_COMMIT).look.bad
    as_fast = {f"gateway rows_latency_s {v} {rows}": 0.02 for v in (1, 2)}
    assert not look(Server({**SLOW, **same, **as_fast}), BEFORE_THE_COMMIT).look.bad


def test_a_release_that_is_slow_at_the_same_time_needs_no_explanation() -> None:
    server = Server(SLOW)
    assert look(server, Baseline(Span("m", 1, 120), "the one meanwhile", meanwhile=True)).look.bad
    assert "gateway load 1" not in server.asked


def test_a_slow_minute_is_one_bad_look() -> None:
    class Fast(Server):
        def value(self, query: str) -> float | None:
            return 0.02 if query == "gateway latency_s 2 30s " else super().value(query)

    assert look(Fast(SLOW), BEFORE_THE_COMMIT, fresh_s=30).look.stale
    assert not look(Server(SLOW), BEFORE_THE_COMMIT, fresh_s=30).look.stale


def test_the_classes_of_rows_are_those_of_the_gateway() -> None:
    assert (*map(str, gateway_metrics.ROWS), "more") == ROWS
