"""The comparison from beginning to end: find both models and the rows, measure, judge."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..training.heldout import HeldOut
from ..triton_deploy.errors import ArtifactRejected, VerificationFailed
from ..triton_deploy.model.reference_limits import Limits
from ..triton_deploy.rules.release import Release
from ..triton_deploy.settings import Settings
from .champion_rows import contradicted_rows, improvement_on, shared_rows
from .judgement import Evidence, GateVerdict, Measured, judge
from .measuring import Array, DoesNotFit, OnnxModel, latencies_ms
from .rules import Rules
from .scores import constant_answers, scores
from .sources import Challengers, Champion, live_champion

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A verdict with its evidence.

    Attributes:
        model: model name.
        version: the challenger's version.
        run_id: the challenger's run.
        live: the champion's release, or None before the first release.
        evidence: the measurements.
        unseen: fraction of the held-out rows that were held out from the champion's training too, 0 to 1;
            None if the champion's run keeps no rows.
        rules: the rules of the verdict.
        verdict: the decision.
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
        """Generation of the champion's release; 0 before the first release."""
        return self.live.generation if self.live else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
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
    """Compare a registered version with the live version, and judge it.

    Args:
        settings: addresses of MLflow and of the model repository.
        rules: the rules.
        model: model name.
        version: the challenger, registered in MLflow; its run keeps the held-out rows.

    Raises:
        ArtifactRejected: the challenger can't be loaded within the limits, or does not accept its own
            held-out rows.
        VerificationFailed: the challenger fails on them, goes over a limit, or gives answers that are not
            finite.
        NotFound: there is no such version, its run keeps no held-out rows, or the files of the live
            version are damaged.
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
    """Return the limits of time and memory of each model."""
    return Limits(
        timeout_s=rules.timeout_s,
        memory_bytes=settings.smoke.reference_memory_bytes,
        timeout_variable="GATE_TIMEOUT_S",
    )


@dataclass(frozen=True)
class _Answered:
    """A model with its answers to the held-out rows."""

    model: OnnxModel
    answers: Array


def gather(
    rules: Rules,
    held_out: HeldOut,
    challenger: OnnxModel,
    champion: Champion | None,
    theirs: HeldOut | None = None,
) -> Evidence:
    """Measure both models on the same rows.

    Args:
        rules: metric, interval and requests.
        held_out: the rows.
        challenger: the new model.
        champion: the live version, or None before the first release.
        theirs: the rows that the champion's run holds out; None if it keeps none.

    Raises:
        ArtifactRejected, VerificationFailed: the challenger is at fault. A champion that can't answer is
            no error: the evidence has the reason.
        Unavailable: a model's process can't be started, or was killed from outside.
    """
    metric = rules.metric_for(held_out.task)
    new = _Answered(challenger, challenger.answers(held_out))
    incomparable = ""
    with ExitStack() as opened:
        try:
            old = _answered(opened, champion, held_out, new) if champion else None
        except (ArtifactRejected, VerificationFailed) as error:
            # ONNX Runtime here may differ from Triton's, and the gate does not judge the live version: the
            # rule `incomparable` decides.
            log.warning("the live version can't be compared: %s", error)
            old, incomparable = None, error.message.removesuffix(".")
        second = improvement_on(rules, metric, theirs, challenger, old.model if old else None)
        measured = _measured(rules, held_out, [new, old] if old else [new])
    return Evidence(
        rows=held_out.rows,
        metric=metric,
        challenger=measured[0],
        champion=measured[1] if old else None,
        incomparable=incomparable,
        improvement=rules.improvement(metric, held_out, old.answers, new.answers) if old else None,
        baseline=metric.value(constant_answers(held_out, new.answers.shape[-1]), held_out.target),
        contradicted=contradicted_rows(held_out, theirs),
        on_champion_rows=second,
    )


def _answered(opened: ExitStack, champion: Champion, held_out: HeldOut, new: _Answered) -> _Answered:
    """Return the champion with its answers; raises ArtifactRejected, VerificationFailed."""
    name = f"version {champion.release.active_version}, which serves,"
    model = opened.enter_context(OnnxModel(champion.file, name, new.model.limits))
    answers = model.answers(held_out)
    if answers.shape != new.answers.shape:
        raise DoesNotFit(
            f"{model.name} answers in shape {list(answers.shape)}, the challenger in {list(new.answers.shape)}.",
            hint="They tell apart other classes.",
        )
    return _Answered(model, answers)


def _measured(rules: Rules, held_out: HeldOut, answered: Sequence[_Answered]) -> list[Measured]:
    models = [one.model for one in answered]
    latencies = latencies_ms(models, held_out, rows=rules.latency_rows, rounds=rules.latency_rounds)
    return [
        Measured(scores=scores(one.answers, held_out), latency_ms=latency_ms, size_bytes=one.model.size_bytes)
        for one, latency_ms in zip(answered, latencies, strict=True)
    ]
