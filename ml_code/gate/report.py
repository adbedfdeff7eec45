"""A comparison as a page for people: in the task's log, in MLflow, and on the page of an approval."""

from __future__ import annotations

from .evaluation import Comparison


def headline(comparison: Comparison) -> str:
    """Return the verdict in a sentence."""
    what = f"version {comparison.version} of {comparison.model}"
    if comparison.verdict.promote:
        return f"Promote {what}: {comparison.verdict.reason}."
    kept = f"version {comparison.live.active_version} is kept" if comparison.live else "nothing is deployed"
    return f"Do not promote {what}, {kept}: {comparison.verdict.reason}."


def page(comparison: Comparison) -> str:
    """Return the whole comparison as Markdown."""
    checks = [f"- {'yes' if check.holds else '**no**'}: {check.text}" for check in comparison.verdict.checks]
    lines = [f"**{headline(comparison)}**", "", *_table(comparison), "", *checks, "", _provenance(comparison)]
    return "\n".join(lines)


def _table(comparison: Comparison) -> list[str]:
    evidence = comparison.evidence
    new, old = evidence.challenger, evidence.champion
    before = f"version {comparison.live.active_version}, live" if comparison.live else "nothing is live"
    scores = [
        f"| {name}{' (decides)' if name == evidence.metric.name else ''} | {value:.4g} | "
        f"{f'{old.scores[name]:.4g}' if old else ''} |"
        for name, value in new.scores.items()
    ]
    return [
        f"| | version {comparison.version}, new | {before} |",
        "|---|---|---|",
        *scores,
        f"| latency, median, ms | {new.latency_ms:.3g} | {f'{old.latency_ms:.3g}' if old else ''} |",
        f"| size, bytes | {new.size_bytes} | {old.size_bytes if old else ''} |",
    ]


def _provenance(comparison: Comparison) -> str:
    text = f"Judged on {comparison.evidence.rows} held-out rows of run {comparison.run_id}."
    if comparison.live is None:
        return text
    if comparison.unseen is None:
        return f"{text} Whether version {comparison.live.active_version} was trained on some of them is not known: of its run there are no held-out rows that can be used."
    others = "" if comparison.unseen == 1 else "; it may have been trained on the others"
    return f"{text} {comparison.unseen:.0%} of them are known to be held out from version {comparison.live.active_version} too{others}."
