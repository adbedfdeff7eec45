"""Reads the figures of each source from Prometheus, with only the queries that a judgment needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..clients.prometheus import Metrics
from ..rules.bake_rules import Figures, Limits, Reading, is_enough, is_slower
from ..rules.failure_evidence import Counts
from .queries import BEYOND, ROWS, Queries, Span

PARTS = 15
"""Largest number of parts into which a look splits its window, to tell steady failures from a burst."""
LOAD_PARTS = 8
"""Largest number of parts of the time before the release, to find its greatest load."""
NO_COUNTS = Counts(requests=0, failures=0)


@dataclass(frozen=True)
class Baseline:
    """A version and a time that the judged version may be compared with.

    Attributes:
        span: the version and the window.
        beside: name of the baseline for people.
        meanwhile: whether this version answers clients at the same time.
        aged: whether this is the previous version at the same age: equally warm, under another load.
        least_share: least requests for each request of the judged version, to be worth a comparison.
    """

    span: Span
    beside: str
    meanwhile: bool = False
    aged: bool = False
    least_share: float = 0.0


class Readings:
    """Reads the sources.

    Args:
        queries: the queries of each source.
        metrics: Prometheus.
        limits: limits that the version has to keep; they decide which further queries a reading is worth.
        part_s: shortest part of a look's window to query, seconds; at least Prometheus' scrape interval.
    """

    def __init__(self, queries: Queries, metrics: Metrics, limits: Limits, part_s: float) -> None:
        self._queries, self._metrics, self._limits, self._part_s = queries, metrics, limits, part_s

    def read(self, now: Span, baselines: Sequence[Baseline], fresh_s: int | None) -> tuple[Reading, ...]:
        """Return the reading of each source.

        Args:
            now: the version that is judged, and the window.
            baselines: versions and times to compare with; the first that saw enough requests is used.
            fresh_s: time since the last look, seconds; None if it does not matter.

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
            found[name] = self._completed(reading, source, now, baselines, fresh_s)
        return tuple(found.values())

    def _completed(
        self,
        reading: Reading,
        source: Mapping[str, str],
        now: Span,
        baselines: Sequence[Baseline],
        fresh_s: int | None,
    ) -> Reading:
        """Return the reading with all figures that judge it; too few requests need no further figures."""
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
                # This source does not tell versions apart: at the same time it would be compared with itself.
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
        """Return the reading with its counts in equal parts of the window, and those since the last look."""
        known = {0: reading.counts}

        def counted(ago_s: int) -> Counts:
            if ago_s not in known:
                known[ago_s] = self._counts(source, now.until(ago_s)).less(
                    self._counts(self._queries.sources[source[BEYOND]], now.until(ago_s))
                    if reading.elsewhere
                    else NO_COUNTS
                )
            return known[ago_s]

        count = max(1, min(PARTS, int(now.window_s / max(self._part_s, 1))))
        ends = [counted(now.window_s * number // count) for number in range(count)]
        starts = [*ends[1:], NO_COUNTS]
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
        """Return the reading with other causes than the version that may have made it slower."""
        aged = next((one for one in baselines if one.aged), None)
        return replace(
            reading,
            load=self._load(source, now, baseline.span),
            by_rows=self._by_rows(source, now, baseline.span),
            aged=self._figures(source, aged.span) if aged is not None and aged != baseline else None,
        )

    def _load(self, source: Mapping[str, str], now: Span, before: Span) -> float | None:
        """Return the load now as a multiple of the baseline's greatest load; None if either is unknown."""
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
        # Without failures, the queries about the clients that had them are skipped.
        more = {
            name: self._number(source[name], span)
            for name in ("clients", "clients_failed", "both", "alone")
            if name in source
        }
        return replace(figures, **more)
