"""The comparison from beginning to end: find both models and the rows, measure, judge."""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..training.heldout import HeldOut
from ..triton_deploy.errors import ArtifactRejected, VerificationFailed
from ..triton_deploy.model.reference import Limits
from ..triton_deploy.rules.release import Release
from ..triton_deploy.settings import Settings
from .champion_rows import contradicted_rows, improvement_on
from .judgement import Evidence, GateVerdict, Measured, judge
from .measuring import Array, DoesNotFit, OnnxModel, latencies_ms
from .rules import Rules
from .scores import Metric, constant_answers, improvement, scores
from .sources import Challengers, Champion, live_champion

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A verdict with all that it rests on.

    Attributes:
        model: model name.
        version: the challenger.
        run_id: the challenger's run.
        live: the release that it was compared with, or None.
        evidence: what was measured.
        unseen: fraction of the held-out rows that were held out from the champion's training too, 0 to 1; None when its run
            keeps no rows.
        rules: by which it was judged.
        verdict: what came of it.
    """

    model: str
    version: int
    run_id: str
    live: Release | None
    evidence: Evidence
    unseen: float | None
    rules: Rules
    verdict: GateVerdict

    @property
    def generation(self) -> int:
        """Generation that was live; 0 before the first release."""
        return self.live.generation if self.live else 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        evidence = self.evidence
        return {
            "model": self.model,
            "version": self.version,
            "run_id": self.run_id,
            "champion": {"version": self.live.active_version, "generation": self.live.generation}
            if self.live
            else None,
            **self.verdict.to_dict(),
            "metric": evidence.metric.name,
            "rows": evidence.rows,
            "rows_unseen_by_champion": self.unseen,
            "improvement": asdict(evidence.improvement) if evidence.improvement else None,
            "baseline": evidence.baseline,
            "rows_pinned": evidence.pinned,
            "rows_contradicted": evidence.contradicted,
            "improvement_on_champion_rows": asdict(evidence.on_champion_rows)
            if evidence.on_champion_rows
            else None,
            "measured": {
                "challenger": asdict(evidence.challenger),
                "champion": asdict(evidence.champion) if evidence.champion else None,
            },
            "rules": asdict(self.rules),
        }


def compare(settings: Settings, rules: Rules, model: str, version: int) -> Comparison:
    """Compare a registered version with what serves, and judge it.

    Args:
        settings: where MLflow and the model repository are.
        rules: the rules.
        model: model name.
        version: the challenger, registered in MLflow; its run keeps the held-out rows.

    Raises:
        ArtifactRejected: the challenger can't be loaded within the limits, or does not take its own held-out rows.
        VerificationFailed: it fails on them, goes over a limit, or its answers are not finite.
        NotFound: there is no such version, its run keeps no held-out rows, or the files of what serves are damaged.
        DeployError: MLflow, the artifact store or the disk fail.
    """
    challengers = Challengers(settings)
    found = challengers.find(model, version)
    champion = live_champion(settings, model)
    with tempfile.TemporaryDirectory(prefix="gate-") as directory:
        folders = {name: Path(directory, name) for name in ("challenger", "rows", "champion_rows")}
        for folder in folders.values():
            folder.mkdir()
        rows = challengers.held_out(found.run_id, folders["rows"])
        theirs = (
            challengers.held_out_of(champion.release.run_id, folders["champion_rows"]) if champion else None
        )
        file = challengers.fetch(model, found, folders["challenger"])
        limits = limits_of(settings, rules)
        with OnnxModel(file, f"version {version} of {model}", limits) as challenger:
            evidence = replace(gather(rules, rows.held_out, challenger, champion, theirs), pinned=rows.pinned)
    return Comparison(
        model=model,
        version=version,
        run_id=found.run_id,
        live=champion.release if champion else None,
        evidence=evidence,
        unseen=shared_rows(rows.held_out, theirs) if theirs else None,
        rules=rules,
        verdict=judge(rules, evidence),
    )


def limits_of(settings: Settings, rules: Rules) -> Limits:
    """Return what a model may take that is judged."""
    return Limits(
        timeout_s=rules.timeout_s,
        memory_bytes=settings.smoke.reference_memory_bytes,
        timeout_variable="GATE_TIMEOUT_S",
    )


def gather(
    rules: Rules,
    held_out: HeldOut,
    challenger: OnnxModel,
    champion: Champion | None,
    theirs: HeldOut | None = None,
) -> Evidence:
    """Measure both models on the same rows.

    Args:
        rules: which metric, interval and requests.
        held_out: the rows.
        challenger: the new model.
        champion: what serves, or None.
        theirs: the rows that the champion's run holds out; None when it keeps none.

    Raises:
        ArtifactRejected, VerificationFailed: the challenger is at fault; of a champion that can't answer it is noted why.
        Unavailable: a model's process can't be started, or was ended by somebody else.
    """
    metric = rules.metric_for(held_out.task)
    answers = challenger.answers(held_out)
    with ExitStack() as opened:
        serving, its_answers, incomparable = _answers_of(
            opened, champion, held_out, answers, challenger.limits
        )
        models = [challenger, *([serving] if serving else [])]
        second = improvement_on(rules, metric, theirs, challenger, serving)
        latencies = latencies_ms(models, held_out, rows=rules.latency_rows, rounds=rules.latency_rounds)
    measured = [
        Measured(scores=scores(given, held_out), latency_ms=latency_ms, size_bytes=model.size_bytes)
        for model, given, latency_ms in zip(models, [answers, *its_answers], latencies, strict=True)
    ]
    return Evidence(
        rows=held_out.rows,
        metric=metric,
        challenger=measured[0],
        champion=measured[1] if serving else None,
        incomparable=incomparable,
        improvement=improvement(
            metric,
            *(metric.rows(given, held_out.target) for given in (its_answers[0], answers)),
            confidence=rules.confidence,
            resamples=rules.resamples,
            block_rows=rules.block_rows,
            seed=rules.seed,
        )
        if serving
        else None,
        baseline=_baseline(metric, held_out, answers),
        contradicted=contradicted_rows(held_out, theirs),
        on_champion_rows=second,
    )


def _answers_of(
    opened: ExitStack, champion: Champion | None, held_out: HeldOut, beside: Array, limits: Limits
) -> tuple[OnnxModel | None, list[Array], str]:
    """Return what serves and its answers, or why it can't be compared."""
    if champion is None:
        return None, [], ""
    try:
        name = f"version {champion.release.active_version}, which serves,"
        serving = opened.enter_context(OnnxModel(champion.file, name, limits))
        answers = serving.answers(held_out)
        if answers.shape != beside.shape:
            raise DoesNotFit(
                f"{serving.name} answers in shape {list(answers.shape)}, the challenger in {list(beside.shape)}.",
                hint="They tell apart other classes.",
            )
    except (ArtifactRejected, VerificationFailed) as error:
        # ONNX Runtime here may be another than Triton's, and what serves is not on trial: the rule `incomparable` decides.
        log.warning("what serves can't be compared: %s", error)
        return None, [], error.message.removesuffix(".")
    return serving, [answers], ""


def _baseline(metric: Metric, held_out: HeldOut, answers: Array) -> float:
    return metric.value(constant_answers(held_out, answers.shape[-1]), held_out.target)


def shared_rows(held_out: HeldOut, others: HeldOut) -> float:
    """Return which fraction of the rows is among the others too, by the bytes of inputs and target, 0 to 1."""
    theirs = set(_row_keys(others))
    return sum(key in theirs for key in _row_keys(held_out)) / held_out.rows


def _row_keys(held_out: HeldOut) -> list[bytes]:
    arrays = [array for _, array in sorted(held_out.inputs.items())] + [held_out.target]
    return [
        b"".join(np.ascontiguousarray(array[row]).tobytes() for array in arrays)
        for row in range(held_out.rows)
    ]
