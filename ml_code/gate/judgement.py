"""Judges the measurements by each rule of the gate. Pure rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .rules import BASELINE, OFF, Rules
from .scores import Improvement, Metric


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of one model.

    Attributes:
        scores: every metric of the task, by name.
        latency_ms: median over requests of ``Rules.latency_rows`` rows, milliseconds.
        size_bytes: of the model with its external data.
    """

    scores: Mapping[str, float]
    latency_ms: float
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The measurements and facts that the rules judge.

    Attributes:
        rows: number of held-out rows.
        metric: the deciding metric.
        challenger: the new model.
        champion: the live version; None before the first release, or if it can't be compared.
        incomparable: the reason why the champion can't be compared, or empty.
        improvement: improvement of the challenger over the champion; None without a champion to compare.
        baseline: the metric of the best constant answer.
        pinned: whether the rows have the digest that training recorded.
        contradicted: number of rows that have another target in the champion's held-out rows.
        on_champion_rows: the improvement on the champion's own held-out rows; None if the models can't be
            compared there.
    """

    rows: int
    metric: Metric
    challenger: Measured
    champion: Measured | None
    incomparable: str
    improvement: Improvement | None
    baseline: float
    pinned: bool = True
    contradicted: int = 0
    on_champion_rows: Improvement | None = None


@dataclass(frozen=True)
class GateCheck:
    """One rule: its name, whether it holds, and the reason as a sentence."""

    name: str
    holds: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """The decision about the challenger, with its reason.

    Attributes:
        promote: whether the challenger is promoted.
        reason: a sentence for people.
        checks: every rule that was applied.
    """

    promote: bool
    reason: str
    checks: tuple[GateCheck, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks]}


def judge(rules: Rules, evidence: Evidence) -> GateVerdict:
    """Return the verdict: the challenger is promoted if every rule holds.

    Args:
        rules: the rules.
        evidence: the measurements.
    """
    checks = tuple(_checks(rules, evidence))
    broken = [check.text for check in checks if not check.holds]
    if broken:
        return GateVerdict(promote=False, reason="; ".join(broken), checks=checks)
    decisive = next(check.text for check in checks if check.name in ("improvement", "champion"))
    return GateVerdict(promote=True, reason=decisive, checks=checks)


def _checks(rules: Rules, evidence: Evidence) -> Iterator[GateCheck]:
    yield GateCheck(
        "rows",
        evidence.rows >= rules.min_rows,
        f"{evidence.rows} held-out rows, at least {rules.min_rows} are wanted",
    )
    yield from _trust(rules, evidence)
    yield from _floor(rules, evidence)
    if evidence.improvement is not None:
        yield _improvement(rules, evidence.metric, evidence.improvement)
    elif evidence.incomparable:
        yield GateCheck(
            "champion",
            rules.incomparable == "floor",
            f"what serves can't be compared: {evidence.incomparable}",
        )
    else:
        yield GateCheck("champion", True, "nothing serves yet, and the floor is reached")
    yield from _on_champion_rows(rules, evidence)
    yield from _calibration(rules, evidence)
    yield from _latency(rules, evidence)
    yield from _size(rules, evidence)


def _trust(rules: Rules, evidence: Evidence) -> Iterator[GateCheck]:
    """Check that the rows are the rows that training held out.

    A contradiction of pinned rows breaks no rule: labels vary, or were corrected.
    """
    if not evidence.pinned:
        yield GateCheck(
            "pinned",
            rules.unpinned_rows == "accept",
            "training recorded no digest of the held-out rows, so nobody knows whether they are still the same",
        )
    if evidence.contradicted:
        yield GateCheck(
            "labels",
            evidence.pinned or rules.champion_rows == "note",
            f"{evidence.contradicted} held-out rows are also held out by the champion's run, with another target",
        )


def _on_champion_rows(rules: Rules, evidence: Evidence) -> Iterator[GateCheck]:
    found = evidence.on_champion_rows
    if found is None:
        return
    worse = found.high < -rules.margin
    yield GateCheck(
        "champion_rows",
        not worse or rules.champion_rows == "note",
        f"on the champion's own held-out rows {evidence.metric.name} {'worsens' if worse else 'improves'} by "
        f"{abs(found.estimate):.4g} ({found.confidence:.0%} interval of the improvement {found.low:.4g} to {found.high:.4g})",
    )


def _floor(rules: Rules, evidence: Evidence) -> Iterator[GateCheck]:
    if rules.floor == OFF:
        return
    metric = evidence.metric
    floor = evidence.baseline if rules.floor == BASELINE else float(rules.floor)
    value = evidence.challenger.scores[metric.name]
    better = value > floor if metric.larger_is_better else value < floor
    # The challenger has to beat a constant answer, but only to reach a number that the user set.
    holds = better or (rules.floor != BASELINE and value == floor)
    if rules.floor == BASELINE:
        text = f"{metric.name} {value:.4g} is {'' if holds else 'not '}better than the best constant answer's {floor:.4g}"
    else:
        text = f"{metric.name} {value:.4g} {'reaches' if holds else 'does not reach'} the floor of {floor:g}"
    yield GateCheck("floor", holds, text)


def _improvement(rules: Rules, metric: Metric, found: Improvement) -> GateCheck:
    bound = rules.margin if rules.demand == "better" else -rules.margin
    # At a margin of 0 "not worse" lets an equal model through, "better" does not.
    holds = found.low > bound or (rules.demand == "not_worse" and found.low == bound)
    return GateCheck(
        "improvement",
        holds,
        f"{metric.name} improves by {found.estimate:.4g} ({found.confidence:.0%} interval {found.low:.4g} to {found.high:.4g}), "
        f"the interval {'lies' if holds else 'does not lie'} above {bound:g}",
    )


def _calibration(rules: Rules, evidence: Evidence) -> Iterator[GateCheck]:
    if evidence.champion is None or "ece" not in evidence.challenger.scores or rules.max_ece_increase >= 1:
        return
    before, after = evidence.champion.scores["ece"], evidence.challenger.scores["ece"]
    yield GateCheck(
        "calibration",
        after - before <= rules.max_ece_increase,
        f"calibration error {after:.3f} after {before:.3f}, at most {rules.max_ece_increase:g} more is allowed",
    )


def _latency(rules: Rules, evidence: Evidence) -> Iterator[GateCheck]:
    after = evidence.challenger.latency_ms
    if rules.max_latency_ms:
        text = f"latency {after:.3g} ms, at most {rules.max_latency_ms:g} ms are allowed"
        yield GateCheck("latency_limit", after <= rules.max_latency_ms, text)
    if evidence.champion is not None and rules.max_latency_ratio:
        before = evidence.champion.latency_ms
        holds = after <= before * rules.max_latency_ratio or after - before <= rules.latency_slack_ms
        text = f"latency {after:.3g} ms after {before:.3g} ms, at most {rules.max_latency_ratio:g} times that is allowed"
        yield GateCheck("latency", holds, text)


def _size(rules: Rules, evidence: Evidence) -> Iterator[GateCheck]:
    if evidence.champion is None or not rules.max_size_ratio:
        return
    before, after = evidence.champion.size_bytes, evidence.challenger.size_bytes
    holds = after <= before * rules.max_size_ratio or after - before <= rules.size_slack_bytes
    text = f"{after} bytes after {before}, at most {rules.max_size_ratio:g} times that is allowed"
    yield GateCheck("size", holds, text)
