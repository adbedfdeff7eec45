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
    """Return all of it as Markdown."""
    evidence = comparison.evidence
    champion = evidence.champion
    before = f"version {comparison.live.active_version}, live" if comparison.live else "nothing is live"
    rows: list[tuple[str, str, float, float | None]] = [
        (
            f"{name}{' (decides)' if name == evidence.metric.name else ''}",
            "{:.4g}",
            value,
            champion.scores[name] if champion else None,
        )
        for name, value in evidence.challenger.scores.items()
    ]
    rows += [
        (what, form, getattr(evidence.challenger, field), getattr(champion, field, None))
        for what, form, field in (
            ("latency, median, ms", "{:.3g}", "latency_ms"),
            ("size, bytes", "{:.0f}", "size_bytes"),
        )
    ]
    table = [f"| | version {comparison.version}, new | {before} |", "|---|---|---|"]
    table += [
        f"| {name} | {form.format(new)} | {'' if old is None else form.format(old)} |"
        for name, form, new, old in rows
    ]
    checks = [f"- {'yes' if check.holds else '**no**'}: {check.text}" for check in comparison.verdict.checks]
    lines = [f"**{headline(comparison)}**", "", *table, "", *checks, "", _provenance(comparison)]
    return "\n".join(lines)


def _provenance(comparison: Comparison) -> str:
    text = f"Judged on {comparison.evidence.rows} held-out rows of run {comparison.run_id}."
    if comparison.live is None:
        return text
    if comparison.unseen is None:
        return f"{text} Whether version {comparison.live.active_version} was trained on some of them is not known: of its run there are no held-out rows that can be used."
    others = "" if comparison.unseen == 1 else "; it may have been trained on the others"
    return f"{text} {comparison.unseen:.0%} of them are known to be held out from version {comparison.live.active_version} too{others}."
