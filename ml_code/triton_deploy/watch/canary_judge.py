"""Judges a candidate by its figures in Prometheus beside the live version's, by the rules of a bake."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ..clients.prometheus import Metrics, Prometheus
from ..errors import AccessDenied, DeployError, Misconfigured
from ..rules.canary_course import CanaryVerdict
from ..rules.canary_evidence import Judgment, Watched
from ..rules.failure_evidence import lower_bound
from ..settings import Settings
from .observer import Observed, Observer
from .queries import Queries, Span
from .readings import Baseline

QUERIES = Path(__file__).with_name("canary.toml")
BESIDE = "the live version meanwhile"
UNPLACED = "a gateway can't tell on which of its Tritons the candidate is, and sends it nothing: set GATEWAY_TRITON_GRPC_URLS there"
NOT_COMPARED = "no gateway says how its answers compare with live's"
COUNTERS = ("gateway_canary_failures_total", "gateway_shadow_requests_total")
COMPARED = "gateway_shadow_compared_total"
_ABOUT_FAILURES = "requests failed"
"""Words that the rules' complaints about failures have, and no other complaint."""


@dataclass(frozen=True)
class Compared:
    """How a shadow's answers compare with the live version's in one output.

    Attributes:
        output: name of the output.
        differ: answers that differ beyond the tolerance.
        answers: all answers that were compared.
    """

    output: str
    differ: float
    answers: float

    @property
    def share(self) -> float:
        """Share of the answers that differ, 0 to 1."""
        return self.differ / self.answers if self.answers else 0.0

    def __str__(self) -> str:
        return (
            f"output {self.output}: {self.differ:.0f} of {self.answers:.0f} answers differ ({self.share:.1%})"
        )


class CanaryJudge:
    """A judge for ``CanaryWatch``.

    Args:
        observer: reads and judges the figures.
        metrics: Prometheus. The queries for an ended Triton and for differing answers are in the code, so
            that a user's file of queries can't leave them out.
        max_different: share of a shadow's answers that may differ, for each output, 0 to 1.
    """

    def __init__(self, observer: Observer, metrics: Metrics, max_different: float = 1.0) -> None:
        self._observer = observer
        self._metrics = metrics
        self._max_different = max_different

    @classmethod
    def of(cls, settings: Settings) -> CanaryJudge:
        """Return the judge of these settings; raises Misconfigured when the file of queries can't be used."""
        metrics = Prometheus(settings.bake.prometheus_url, settings.bake.prometheus_timeout_s)
        queries = Queries.read(settings.canary.queries, QUERIES)
        limits = replace(settings.bake.limits, min_requests=settings.canary_requests)
        return cls(Observer(queries, metrics, limits), metrics, settings.canary.shadow_max_different)

    def __call__(self, watched: Watched) -> Judgment:
        """Judge the whole step so far, and a loss of the candidate since its first client; see ``Judge``."""
        try:
            lost = self._lost(watched)
            judgment = lost or self._judged(watched)
            unplaced = judgment.verdict is CanaryVerdict.NO_DATA and self._counted("unplaced", watched)
        except (AccessDenied, Misconfigured):
            # Waiting does not mend a wrong set-up.
            raise
        except DeployError as error:
            return Judgment(CanaryVerdict.UNMEASURED, str(error).rstrip("."))
        return replace(judgment, why=f"{judgment.why}; {UNPLACED}") if unplaced else judgment

    def _judged(self, watched: Watched) -> Judgment:
        window_s = max(1, int(watched.seconds))
        seen = self._observer.look(
            Span(watched.model, watched.candidate, window_s),
            [Baseline(Span(watched.model, watched.live, window_s), BESIDE, meanwhile=True)],
            since=datetime.now(UTC),
        )
        if seen.look.unknown:
            return Judgment(CanaryVerdict.UNMEASURED, seen.look.unknown.rstrip("."))
        judgment = _of_figures(seen)
        return self._with_answers(judgment, watched) if watched.mirrored else judgment

    def _with_answers(self, judgment: Judgment, watched: Watched) -> Judgment:
        """Return the judgment together with how a shadow's answers compare with the live version's."""
        compared = [one for output in watched.outputs if (one := self._compared(output, watched)).answers]
        figures = {**judgment.figures, "answers": {one.output: asdict(one) for one in compared}}
        told = "; ".join([judgment.why, *map(str, compared)] if compared else [judgment.why, NOT_COMPARED])
        noted = replace(judgment, why=told, figures=figures)
        apart = [one for one in compared if lower_bound(one.differ, one.answers) > self._max_different]
        if judgment.verdict is CanaryVerdict.FAIL or not apart:
            return noted
        limit = f"the limit is {self._max_different:.1%}"
        return replace(
            noted,
            verdict=CanaryVerdict.DIFFERS,
            why="; ".join(f"{one} beyond the tolerance, {limit}" for one in apart),
            evidence=sum(one.differ for one in apart),
        )

    def _compared(self, output: str, watched: Watched) -> Compared:
        differ, same = (
            self._grown(
                f'{COMPARED}{{model="$model", version="$version", output={_quoted(output)}, outcome="{outcome}"}}',
                watched,
            )
            for outcome in ("differs", "same")
        )
        return Compared(output, differ, differ + same)

    def _lost(self, watched: Watched) -> Judgment | None:
        """Return the judgment of a candidate that a gateway has stopped asking, or None."""
        ended = self._counted("ended", watched)
        if ended:
            return Judgment(
                CanaryVerdict.ENDED,
                f"{ended:.0f} connections to it ended within a request, as gateways counted",
            )
        if self._counted("absent", watched):
            return Judgment(
                CanaryVerdict.GONE, "a gateway did not reach or find it there, and sends it nothing more"
            )
        return None

    def _counted(self, outcome: str, watched: Watched) -> float:
        """Return how often gateways counted an outcome since the candidate may have met its first client."""
        series = (
            f'{counter}{{model="$model", version="$version", outcome="{outcome}"}}' for counter in COUNTERS
        )
        return self._ask(
            " + ".join(map(_grown_query, series)), watched, max(watched.seconds, watched.exposed_s)
        )

    def _grown(self, series: str, watched: Watched) -> float:
        """Return by how much a counter of the candidate grew in the step."""
        return self._ask(_grown_query(series), watched, watched.seconds)

    def _ask(self, query: str, watched: Watched, seconds: float) -> float:
        span = Span(watched.model, watched.candidate, math.ceil(max(seconds, 1)))
        return self._metrics.value(span.fill(query)) or 0.0


def _of_figures(seen: Observed) -> Judgment:
    """Return the judgment by the figures alone."""
    figures = {one.source: asdict(one) for one in seen.readings}
    if seen.look.bad:
        failures = sum(one.now.failures for one in seen.readings)
        about_failures = all(_ABOUT_FAILURES in line for line in seen.look.bad)
        return Judgment(
            CanaryVerdict.FAIL, "; ".join(seen.look.bad), figures, failures if about_failures else None
        )
    saw = [f"{one.source} saw {one.now.requests:.0f} requests" for one in seen.readings if one.now.requests]
    uncompared = [f"latency was not compared: {seen.look.uncompared}"] if seen.look.uncompared else []
    why = "; ".join([*saw, *uncompared, *seen.remarks]) or "no source saw a request"
    return Judgment(CanaryVerdict.PASS if seen.look.judged else CanaryVerdict.NO_DATA, why, figures)


def _grown_query(series: str) -> str:
    """Return a query for the growth of a counter that may have begun within the window.

    ``increase`` misses the first value of a counter that begins with 1, as after the restart of a gateway,
    and gives nothing for a counter with a single value.
    """
    most = f"max_over_time({series}[$window])"
    return f"(sum({most} - ({series} offset $window or {most} * 0)) or vector(0))"


def _quoted(text: str) -> str:
    """Return a text as a label's value in PromQL, with ``$`` escaped for ``Span.fill``."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("$", "$$")
    return f'"{escaped}"'
