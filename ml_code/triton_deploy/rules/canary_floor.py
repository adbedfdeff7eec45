"""Judges a candidate by the gateways' own counters: a minimum of watching that needs no Prometheus.

Pure rules: standard library only, no I/O. A gateway counts from its own start, so the counts before the
canary are subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from .canary_course import CanaryVerdict
from .failure_evidence import lower_bound

Counts: TypeAlias = Mapping[str, Mapping[str, float]]
"""Each gateway's counts of one version since the gateway's start, by its address and by the name of the
figure."""

LEAST = 3
"""Failures of the candidate alone below which they are no evidence, whatever their share."""

JUDGED = ("ok", "failed", "timeout", "unavailable")
"""Outcomes that count as requests. Clients cause the other outcomes, and a flood of those must not hide
failures."""

ANSWERED = "gateway_request_duration_seconds_count"
CANARY = "gateway_canary_failures_total"
SHADOW = "gateway_shadow_requests_total"

_SAMPLE = re.compile(rf"^({ANSWERED}|{CANARY}|{SHADOW}){{(.*)}} ([0-9.eE+-]+)\s*$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def counted_in(text: str, model: str, version: int) -> Mapping[str, float] | None:
    """Return a gateway's counts of a version, by ``<metric>/<outcome>``; None if the page is not a gateway's.

    Args:
        text: the page ``/metrics``, in Prometheus' text format.
        model: public model name.
        version: the version.
    """
    if not re.search(r"^(# TYPE )?gateway_", text, re.MULTILINE):
        return None
    found: dict[str, float] = {}
    for metric, labels, value in _SAMPLE.findall(text):
        named = dict(_LABEL.findall(labels))
        if (named.get("model"), named.get("version")) == (model, str(version)):
            name = f"{metric}/{named.get('outcome', '')}"
            found[name] = found.get(name, 0.0) + float(value)
    return found


def baseline(before: Counts, now: Counts) -> Counts:
    """Return the counts to subtract from each gateway's counters.

    A gateway that answers for the first time may have counted an earlier try of the same version:
    subtract all of its counts. A restarted gateway has begun at 0.

    Args:
        before: the counts to subtract so far.
        now: the gateways' counts; a gateway that could not be asked is missing.
    """
    return {
        **before,
        **{
            url: counts if url not in before else {}
            for url, counts in now.items()
            if url not in before or _restarted(before[url], counts)
        },
    }


def since(before: Counts, now: Counts) -> Mapping[str, float]:
    """Return the sum of all gateways' counts since ``before``, by the name of the figure.

    Args:
        before: see ``baseline``.
        now: the gateways' counts.
    """
    grown: dict[str, float] = {}
    for url, counts in now.items():
        for name, count in counts.items():
            grown[name] = grown.get(name, 0.0) + max(0.0, count - before.get(url, counts).get(name, 0.0))
    return grown


def complaint(grown: Mapping[str, float], limit: float) -> tuple[CanaryVerdict, str] | None:
    """Return a verdict against a candidate, with its reason; None without such a verdict.

    Args:
        grown: see ``since``.
        limit: share of the requests that may fail, 0 to 1.
    """
    ended, absent = (
        sum(grown.get(f"{counter}/{outcome}", 0.0) for counter in (CANARY, SHADOW))
        for outcome in ("ended", "absent")
    )
    if ended:
        return (
            CanaryVerdict.ENDED,
            f"{ended:.0f} connections to it ended within a request, as the gateways themselves counted",
        )
    if absent:
        return CanaryVerdict.GONE, "a gateway did not reach or find it there, and sends it nothing more"
    bad = [line for line in _failures(grown, limit) if line]
    return (CanaryVerdict.FAIL, "; ".join(bad)) if bad else None


def _failures(grown: Mapping[str, float], limit: float) -> Iterator[str]:
    alone = grown.get(f"{CANARY}/failed", 0.0)
    answered = sum(grown.get(f"{ANSWERED}/{outcome}", 0.0) for outcome in JUDGED)
    yield _above(alone, answered + alone, limit, "requests")
    mirrored = {outcome: grown.get(f"{SHADOW}/{outcome}", 0.0) for outcome in ("ok", "failed", "timeout")}
    yield _above(mirrored["failed"] + mirrored["timeout"], sum(mirrored.values()), limit, "mirrored requests")


def _above(failures: float, requests: float, limit: float, what: str) -> str:
    if failures < LEAST or lower_bound(failures, requests) <= limit:
        return ""
    return (
        f"the gateways themselves counted {failures:.0f} of {requests:.0f} {what} that failed on the candidate alone "
        f"({failures / requests:.1%}), the limit is {limit:.1%}"
    )


def _restarted(before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return any(now.get(name, 0.0) < count for name, count in before.items())
