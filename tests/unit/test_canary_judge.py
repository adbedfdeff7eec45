"""How a shadow's answers are judged beside live's, and what a verdict rests on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from ml_code.triton_deploy.rules.bake_rules import Limits
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Judgment, Watched
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.watch.canary_judge import CanaryJudge
from ml_code.triton_deploy.watch.observer import Observer
from ml_code.triton_deploy.watch.queries import Queries
from tests.support.settings import changed

SHADOW = Watched("m", 2, 1, True, 60, 60, ("label", "scores"))
SOURCE = {
    "requests": "vector(1) $version $window $offset",
    "failures": "vector(2) $version $window $offset",
    "latency_s": "vector(3) $version",
}
QUERIES = Queries.parse({"sources": {"shadow": SOURCE}})


class Answers:
    """A Prometheus that saw requests, and how many answers of each output differed.

    Args:
        outputs: answers that differ, and the others, by output.
        requests: how many there were, how many of them failed on the candidate, and how long they took, seconds.
    """

    def __init__(
        self,
        outputs: Mapping[str, tuple[float, float]],
        requests: tuple[float, float, float] = (300, 0, 0.01),
    ) -> None:
        self._outputs, self._requests = outputs, requests
        self.asked: list[str] = []

    def value(self, query: str) -> float | None:
        self.asked.append(query)
        if query.startswith("vector(2) 1"):
            return 0.0
        if query.startswith("vector("):
            # They came evenly.
            window_s, *offset_s = map(float, re.findall(r"(\d+)s", query)) if query[7] != "3" else (1.0,)
            return self._requests[int(query[7]) - 1] * window_s / (window_s + sum(offset_s))
        found = re.search(r'output="(\w+)", outcome="(differs|same)"', query)
        if found is None or found[1] not in self._outputs:
            return 0.0
        return self._outputs[found[1]][0 if found[2] == "differs" else 1]


def judged(metrics: Answers, watched: Watched = SHADOW, max_different: float = 0.01) -> Judgment:
    return CanaryJudge(Observer(QUERIES, metrics, Limits()), metrics, max_different)(watched)


def test_a_shadow_that_answers_like_live_passes_and_the_figures_are_said() -> None:
    judgment = judged(Answers({"label": (0, 250), "scores": (3, 247)}))
    assert judgment.verdict is CanaryVerdict.PASS
    assert judgment.why == (
        "shadow saw 300 requests; output label: 0 of 250 answers differ (0.0%); output scores: 3 of 250 answers differ (1.2%)"
    )
    assert judgment.figures["answers"]["scores"] == {"output": "scores", "differ": 3, "answers": 250}


def test_one_output_that_differs_is_enough() -> None:
    judgment = judged(Answers({"label": (0, 250), "scores": (250, 0)}))
    assert judgment.verdict is CanaryVerdict.DIFFERS
    assert (
        judgment.why
        == "output scores: 250 of 250 answers differ (100.0%) beyond the tolerance, the limit is 1.0%"
    )
    assert judgment.evidence == 250


@pytest.mark.parametrize(
    ("max_different", "verdict"),
    [(1.0, CanaryVerdict.PASS), (0.5, CanaryVerdict.DIFFERS), (0.0, CanaryVerdict.DIFFERS)],
)
def test_the_limit_that_people_set_is_the_limit(max_different: float, verdict: CanaryVerdict) -> None:
    assert judged(Answers({"scores": (250, 0)}), max_different=max_different).verdict is verdict


def test_few_differences_are_no_evidence() -> None:
    assert judged(Answers({"scores": (1, 60)})).verdict is CanaryVerdict.PASS


def test_who_fails_is_bad_whatever_it_answers() -> None:
    judgment = judged(Answers({"scores": (250, 0)}, (300, 60, 0.01)))
    assert judgment.verdict is CanaryVerdict.FAIL
    assert judgment.evidence == 60
    assert "output scores: 250 of 250" in judgment.why


def test_a_gateway_that_does_not_compare_is_said() -> None:
    judgment = judged(Answers({}))
    assert (judgment.verdict, judgment.why) == (
        CanaryVerdict.PASS,
        "shadow saw 300 requests; no gateway says how its answers compare with live's",
    )


def test_a_canary_that_answers_clients_is_not_compared() -> None:
    metrics = Answers({"scores": (250, 0)})
    assert judged(metrics, replace(SHADOW, mirrored=False)).verdict is CanaryVerdict.PASS
    assert not any("gateway_shadow_compared_total" in query for query in metrics.asked)


def test_a_slow_one_is_bad_at_each_look() -> None:
    metrics = Answers({}, (300, 1, 9.0))
    judge = CanaryJudge(Observer(QUERIES, metrics, Limits(max_latency_s=1)), metrics)
    assert (judge(SHADOW).verdict, judge(SHADOW).evidence) == (CanaryVerdict.FAIL, None)


def test_the_name_of_an_output_can_be_anything() -> None:
    metrics = Answers({})
    judged(metrics, replace(SHADOW, outputs=('a"b\\c$d\ne',)))
    assert any('output="a\\"b\\\\c$d\\ne"' in query for query in metrics.asked)


def test_a_step_has_a_minimum_of_its_own() -> None:
    few = changed(Settings(), bake__min_requests=100, canary__min_requests=10)
    assert few.canary_requests == 10
    assert changed(Settings(), bake__min_requests=100).canary_requests == 100
    judge = CanaryJudge.of(changed(few, bake__prometheus_url="http://p:9090"))
    assert judge._observer._limits.min_requests == 10
