"""What each source of figures says of a version: asked of Prometheus, as little as is needed to judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..clients.prometheus import Metrics
from ..rules.bake_rules import Figures, Limits, Reading, is_enough, is_slower
from ..rules.failure_evidence import Counts
from .queries import BEYOND, ROWS, Queries, Span

PARTS = 15
"""Parts at most into which a look takes its time apart, to see whether failures came all the time or in a burst."""
LOAD_PARTS = 8
"""The same for the time before the release, to find its greatest load."""
NOTHING = Counts(requests=0, failures=0)


@dataclass(frozen=True)
class Baseline:
    """What a version may be compared with.

    Attributes:
        span: which version, and when.
        beside: which that is, for people.
        meanwhile: it answers clients at the same time.
        aged: it is the version before at the same age: as warm, with another load.
        least_share: so many requests for each one of the version that is judged it has to have, to be worth a comparison.
    """

    span: Span
    beside: str
    meanwhile: bool = False
    aged: bool = False
    least_share: float = 0.0


class Readings:
    """Asks the sources.

    Args:
        queries: what to ask.
        metrics: whom.
        limits: what the version has to keep: they say what is worth a question.
        part_s: shortest part of a look's time that is worth a query, seconds; not less than Prometheus' scrape interval.
    """

    def __init__(self, queries: Queries, metrics: Metrics, limits: Limits, part_s: float) -> None:
        self._queries, self._metrics, self._limits, self._part_s = queries, metrics, limits, part_s

    def read(self, now: Span, baselines: Sequence[Baseline], fresh_s: int | None) -> tuple[Reading, ...]:
        """Return what each source says.

        Args:
            now: the version that is judged, and the time.
            baselines: what it may be compared with; the first that saw enough is.
            fresh_s: how long ago the last look was, seconds; None if that does not matter.

        Raises:
            Misconfigured, AccessDenied, Unavailable: see ``Metrics.value``.
        """
        found: dict[str, Reading] = {}
        for name, source in self._queries.sources.items():
            other = found.get(source.get(BEYOND, ""))
            if other is not None and not is_enough(other, self._limits):
                other = None
            reading = Reading(
                source=name,
                now=self._figures(source, now),
                elsewhere=other.now.counts if other is not None else None,
            )
            found[name] = self._looked_into(reading, source, now, baselines, fresh_s)
        return tuple(found.values())

    def _looked_into(
        self,
        reading: Reading,
        source: Mapping[str, str],
        now: Span,
        baselines: Sequence[Baseline],
        fresh_s: int | None,
    ) -> Reading:
        """Return a reading with all that is needed to judge it; who saw too little is asked no more."""
        if not is_enough(reading, self._limits):
            return reading
        baseline, reading = self._compared(reading, source, baselines)
        if reading.counts.failures:
            reading = self._in_parts(reading, source, now, fresh_s)
        if is_slower(reading, self._limits):
            if fresh_s is not None and fresh_s < now.window_s:
                latest = replace(now, window_s=fresh_s)
                reading = replace(
                    reading, fresh_latency_s=self._metrics.value(latest.fill(source["latency_s"]))
                )
            if baseline is not None and not baseline.meanwhile:
                reading = self._explained(reading, source, now, baseline, baselines)
        return reading

    def _compared(
        self, reading: Reading, source: Mapping[str, str], baselines: Sequence[Baseline]
    ) -> tuple[Baseline | None, Reading]:
        for baseline in baselines:
            if baseline.meanwhile and "$version" not in source["requests"]:
                # It does not tell versions apart: at the same time it knows this one alone.
                continue
            figures = self._figures(source, baseline.span)
            least = max(self._limits.min_requests, 1, baseline.least_share * reading.now.requests)
            if figures.requests >= least:
                return baseline, replace(
                    reading, before=figures, beside=baseline.beside, meanwhile=baseline.meanwhile
                )
        return None, reading

    def _in_parts(
        self, reading: Reading, source: Mapping[str, str], now: Span, fresh_s: int | None
    ) -> Reading:
        """Take the time apart: equal parts, and what came since the last look."""
        known = {0: reading.counts}

        def counted(ago_s: int) -> Counts:
            if ago_s not in known:
                known[ago_s] = self._counts(source, now.until(ago_s)).less(
                    self._counts(self._queries.sources[source[BEYOND]], now.until(ago_s))
                    if reading.elsewhere
                    else NOTHING
                )
            return known[ago_s]

        count = max(1, min(PARTS, int(now.window_s / max(self._part_s, 1))))
        ends = [counted(now.window_s * number // count) for number in range(count)]
        starts = [*ends[1:], NOTHING]
        parts = tuple(end.less(start) for end, start in zip(ends, starts, strict=True))
        fresh = None
        if fresh_s is not None and fresh_s < now.window_s:
            fresh = reading.counts.less(counted(fresh_s))
        return replace(reading, parts=parts, fresh=fresh)

    def _explained(
        self,
        reading: Reading,
        source: Mapping[str, str],
        now: Span,
        baseline: Baseline,
        baselines: Sequence[Baseline],
    ) -> Reading:
        """Look for what else than the version may have made it slower than at another time."""
        aged = next((one for one in baselines if one.aged), None)
        return replace(
            reading,
            load=self._load(source, now, baseline.span),
            by_rows=self._by_rows(source, now, baseline.span),
            aged=self._figures(source, aged.span) if aged is not None and aged != baseline else None,
        )

    def _load(self, source: Mapping[str, str], now: Span, before: Span) -> float | None:
        """Return how many times the greatest load of another time there is now; None when that is not known."""
        if "load" not in source:
            return None
        count = max(1, min(LOAD_PARTS, before.window_s // max(now.window_s, 1)))
        part_s = max(1, before.window_s // count)
        parts = [
            replace(before, window_s=part_s, offset_s=before.offset_s + number * part_s)
            for number in range(count)
        ]
        most = max(self._number(source["load"], part) / part_s for part in parts)
        load = self._number(source["load"], now) / now.window_s
        return load / most if most > 0 and load > 0 else None

    def _by_rows(
        self, source: Mapping[str, str], now: Span, before: Span
    ) -> dict[str, tuple[Figures, Figures]]:
        if "rows_requests" not in source:
            return {}
        pairs = {
            rows: (self._of_rows(source, now, rows), self._of_rows(source, before, rows)) for rows in ROWS
        }
        return {rows: pair for rows, pair in pairs.items() if any(one.requests for one in pair)}

    def _of_rows(self, source: Mapping[str, str], span: Span, rows: str) -> Figures:
        requests = self._metrics.value(span.fill(source["rows_requests"], rows)) or 0.0
        latency_s = self._metrics.value(span.fill(source["rows_latency_s"], rows)) if requests else None
        return Figures(requests=requests, failures=0, latency_s=latency_s)

    def _counts(self, source: Mapping[str, str], span: Span) -> Counts:
        return Counts(
            requests=self._number(source["requests"], span), failures=self._number(source["failures"], span)
        )

    def _number(self, query: str, span: Span) -> float:
        return self._metrics.value(span.fill(query)) or 0.0

    def _figures(self, source: Mapping[str, str], span: Span) -> Figures:
        requests = self._number(source["requests"], span)
        if requests <= 0:
            return Figures(requests=0, failures=0, latency_s=None)
        figures = Figures(
            requests=requests,
            failures=self._number(source["failures"], span),
            latency_s=self._metrics.value(span.fill(source["latency_s"])),
        )
        if not figures.failures:
            return figures
        # Only failures are worth the questions who had them.
        more = {
            name: self._number(source[name], span)
            for name in ("clients", "clients_failed", "both", "alone")
            if name in source
        }
        return replace(figures, **more)
