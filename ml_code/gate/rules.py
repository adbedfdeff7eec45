"""The rules of the gate, with their units and defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from ..training.heldout import HeldOut, Task
from ..triton_deploy.errors import Misconfigured
from ..triton_deploy.settings.checks import Check
from ..triton_deploy.settings.environment import FromEnvironment, Problem, setting
from .scores import METRICS, Array, Improvement, Metric, improvement

AUTO, BASELINE, OFF = "auto", "baseline", "off"
DEFAULT_METRICS: Mapping[Task, str] = {"classification": "log_loss", "regression": "rmse"}


def _refusal(variable: str, value: object, problem: str, hint: str) -> Misconfigured:
    rule = variable.removeprefix("GATE_").lower()
    return Misconfigured(f"The gate's rule {rule} ({variable}) is {value!r}: {problem}.", hint=hint)


def _one_of(*choices: str) -> Check:
    def check(variable: str, value: str, default: str) -> None:
        if value not in choices:
            raise _refusal(variable, value, f"none of {', '.join(choices)}", "Use one of them.")

    return check


def _between_0_and_1(variable: str, value: float, default: float) -> None:
    if not 0 < value < 1:
        raise _refusal(variable, value, "not between 0 and 1", "Use 0.95 for an interval of 95 %.")


def _enough_for_an_interval(variable: str, value: int, default: int) -> None:
    if value < 100:
        raise _refusal(variable, value, "too few for an interval", "Use 100 or more.")


def _one_at_least(variable: str, value: int, default: int) -> None:
    if value < 1:
        raise _refusal(variable, value, "less than 1", "Use 1 or more.")


def _time_to_answer(variable: str, value: float, default: float) -> None:
    if not value > 0:
        raise _refusal(variable, value, "no time at all", "Use a time in which a model can answer.")


def _floor(variable: str, value: str, default: str) -> None:
    if value in (BASELINE, OFF):
        return
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise _refusal(variable, value, "neither a number, 'baseline' nor 'off'", "Use one of them.")


@dataclass(frozen=True, kw_only=True)
class Rules(FromEnvironment):
    """The rules; read from the environment, and overridden for a run by ``overridden``.

    The table in docs/retrain.md is generated from the metadata of these fields.
    """

    metric: str = setting(
        "GATE_METRIC",
        AUTO,
        "What decides: `log_loss`, `brier` or `accuracy` of a classification, `rmse` or `mae` of a regression; `auto` is the first of each.",
        check=_one_of(AUTO, *METRICS),
    )
    demand: str = setting(
        "GATE_DEMAND",
        "better",
        "`better`: the whole interval of the improvement lies above the margin. `not_worse`: above minus the margin.",
        check=_one_of("better", "not_worse"),
    )
    margin: float = setting("GATE_MARGIN", 0.0, "The margin, in units of the metric.")
    confidence: float = setting(
        "GATE_CONFIDENCE", 0.95, "Confidence of the interval, between 0 and 1.", check=_between_0_and_1
    )
    resamples: int = setting(
        "GATE_RESAMPLES",
        2000,
        "Resamples of the paired bootstrap, at least 100.",
        check=_enough_for_an_interval,
    )
    block_rows: int = setting(
        "GATE_BLOCK_ROWS",
        1,
        "Rows that are resampled together, in their order: 1 for independent rows; for a time series about as many as the errors are correlated over.",
        check=_one_at_least,
    )
    seed: int = setting("GATE_SEED", 7, "Seed of the bootstrap: the same rows give the same interval.")
    min_rows: int = setting(
        "GATE_MIN_ROWS", 30, "Fewer held-out rows than this decide nothing.", check=_one_at_least
    )
    floor: str = setting(
        "GATE_FLOOR",
        BASELINE,
        "What the challenger has to reach whichever version is live, in units of the metric; `baseline`: better than the best constant answer; `off`.",
        check=_floor,
    )
    incomparable: str = setting(
        "GATE_INCOMPARABLE",
        "refuse",
        "When the champion can't take the held-out rows: `refuse`, or `floor`, which judges the challenger alone.",
        check=_one_of("refuse", "floor"),
    )
    champion_rows: str = setting(
        "GATE_CHAMPION_ROWS",
        "refuse",
        "When the challenger is worse than the champion on the champion's own held-out rows (the whole interval lies below minus the margin), or unpinned rows have other targets there: `refuse`, or `note` it, for data that drift.",
        check=_one_of("refuse", "note"),
    )
    unpinned_rows: str = setting(
        "GATE_UNPINNED_ROWS",
        "accept",
        "When training recorded no digest of the held-out rows (tag `triton_deploy.heldout_digest` of the run): `accept` them, and say so, or `refuse`.",
        check=_one_of("accept", "refuse"),
    )
    max_ece_increase: float = setting(
        "GATE_MAX_ECE_INCREASE",
        0.05,
        "Largest increase of the expected calibration error over the champion's, 0 to 1; 1 is no limit. Classification only.",
    )
    max_latency_ratio: float = setting(
        "GATE_MAX_LATENCY_RATIO",
        2.0,
        "Largest ratio of the challenger's median latency to the champion's; 0 is no limit.",
    )
    latency_slack_ms: float = setting(
        "GATE_LATENCY_SLACK_MS", 1.0, "A difference of latency up to this is never too much, milliseconds."
    )
    max_latency_ms: float = setting(
        "GATE_MAX_LATENCY_MS",
        0.0,
        "Largest median latency, whatever the champion's, milliseconds; 0 is no limit.",
    )
    latency_rows: int = setting(
        "GATE_LATENCY_ROWS", 1, "Rows of a request whose latency is measured.", check=_one_at_least
    )
    latency_rounds: int = setting(
        "GATE_LATENCY_ROUNDS",
        200,
        "Measured requests to each model, in turn; cut short after 20 s.",
        check=_one_at_least,
    )
    max_size_ratio: float = setting(
        "GATE_MAX_SIZE_RATIO",
        4.0,
        "Largest ratio of the challenger's size on disk to the champion's; 0 is no limit.",
    )
    size_slack_bytes: int = setting(
        "GATE_SIZE_SLACK_BYTES", 1 << 20, "A difference of size up to this is never too much, bytes."
    )
    timeout_s: float = setting(
        "GATE_TIMEOUT_S",
        600.0,
        "Longest that either model may take to load and answer all held-out rows, and for one measured request, seconds.",
        check=_time_to_answer,
    )

    def overridden(self, values: Mapping[str, Any]) -> Self:
        """Return these rules with some replaced.

        Args:
            values: new values by field name, such as ``{"metric": "accuracy", "margin": 0.005}``.

        Raises:
            Misconfigured: a name is none of the rules, or a value has the wrong type or is out of range.
        """
        known = {f.name: f for f in self.declared()}
        for name, value in values.items():
            if name not in known:
                raise Misconfigured(
                    f"{name!r} is no rule of the gate.", hint=f"The rules are {', '.join(sorted(known))}."
                )
            default = known[name].default
            allowed = (int, float) if isinstance(default, float) else (type(default),)
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise Misconfigured(
                    f"The rule {name} is {value!r}, which is no {'number' if float in allowed else 'whole number' if int in allowed else 'text'}.",
                    hint=f"Its default is {default!r}.",
                )
        changed = replace(self, **values)
        changed.check()
        return changed

    def problems(self) -> Iterator[Problem]:
        """See FromEnvironment.problems. Only a number of ``overridden`` can be negative or infinite."""
        yield from super().problems()
        for f in self.declared():
            value = getattr(self, f.name)
            if isinstance(value, (int, float)) and not 0 <= value < float("inf"):
                variable = f.metadata["variable"]
                problem = _refusal(variable, value, "no number of 0 or more", "Use a number of 0 or more.")
                yield Problem(variable, problem)

    def metric_for(self, task: Task) -> Metric:
        """Return the metric that decides.

        Raises:
            Misconfigured: the rule names a metric of the other task.
        """
        name = DEFAULT_METRICS[task] if self.metric == AUTO else self.metric
        metric = METRICS[name]
        fitting = [m.name for m in METRICS.values() if m.task == task]
        if metric.task != task:
            hint = f"Use one of {', '.join(fitting)}."
            raise _refusal("GATE_METRIC", self.metric, f"no metric of a {task}", hint)
        return metric

    def improvement(
        self, metric: Metric, held_out: HeldOut, champion: Array, challenger: Array
    ) -> Improvement:
        """Return the challenger's improvement over the champion, with the interval of these rules.

        Args:
            metric: the deciding metric.
            held_out: the rows.
            champion: the champion's scored output on these rows.
            challenger: the challenger's scored output on these rows.
        """
        return improvement(
            metric,
            metric.rows(champion, held_out.target),
            metric.rows(challenger, held_out.target),
            confidence=self.confidence,
            resamples=self.resamples,
            block_rows=self.block_rows,
            seed=self.seed,
        )
