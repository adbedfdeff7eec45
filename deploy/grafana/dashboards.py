"""The dashboards as code: writes ``dashboards/*.json``, which Grafana is provisioned with (``make docs``).

Built with Grafana's own types. Every expression is asked of a real Prometheus in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LineInterpolation
from grafana_foundation_sdk.models.dashboard import Dashboard as Built
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).with_name("dashboards")
PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8

Query = tuple[str, str]
"""An expression, and what to call its series."""


def chart(
    title: str, unit: str, *queries: Query, text: str = "", span: int = 8, lines: bool = False
) -> TimeSeries:
    """Return a chart over time.

    Args:
        title: its title.
        unit: Grafana's name of the unit.
        queries: what it shows.
        text: what to know about it.
        span: width, of 24.
        lines: steps instead of slopes: for shares, versions, and what is not in between.
    """
    panel = (
        TimeSeries()
        .title(title)
        .description(text)
        .unit(unit)
        .min(0)
        .datasource(PROMETHEUS)
        .span(span)
        .height(HEIGHT)
        .legend(VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True))
    )
    if lines:
        panel = panel.line_interpolation(LineInterpolation.STEP_AFTER)
    for query in _targets(queries):
        panel = panel.with_target(query)
    return panel


def number(
    title: str, unit: str, *queries: Query, text: str = "", span: int = 4, red_from: float = 0
) -> Stat:
    """Return large numbers as of now, red from a value on if there is one."""
    panel = (
        Stat().title(title).description(text).unit(unit).datasource(PROMETHEUS).span(span).height(HEIGHT // 2)
    )
    steps = [Threshold(value=None, color="green")]
    if red_from:
        steps.append(Threshold(value=red_from, color="red"))
    panel = panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for query in _targets(queries, instant=True):
        panel = panel.with_target(query)
    return panel


def table(title: str, *queries: Query, text: str = "", span: int = 24) -> Table:
    """Return a table with a row a model, and a column a query."""
    panel = Table().title(title).description(text).datasource(PROMETHEUS).span(span).height(HEIGHT // 2)
    for query in _targets(queries, instant=True):
        panel = panel.with_target(query.format(PromQueryFormat.TABLE))
    names = {f"Value #{ref}": name for ref, (_, name) in zip("ABCDEFGH", queries, strict=False)}
    return panel.transformations(
        [
            DataTransformerConfig(id_val="merge", options={}),
            DataTransformerConfig(
                id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": names}
            ),
        ]
    )


def _targets(queries: Sequence[Query], *, instant: bool = False) -> list[Dataquery]:
    return [
        (
            Dataquery().expr(expression).legend_format(name).ref_id(ref).instant()
            if instant
            else Dataquery().expr(expression).legend_format(name).ref_id(ref)
        )
        for ref, (expression, name) in zip("ABCDEFGH", queries, strict=False)
    ]


def begin(uid: str, title: str, text: str, *, model: bool) -> Dashboard:
    """Return an empty dashboard that lets one choose the data source, and the model where there is one to choose."""
    board = (
        Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["models"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    if model:
        board = board.with_variable(
            QueryVariable("model")
            .label("Model")
            .datasource(PROMETHEUS)
            .query("label_values(triton_deploy_generation, model)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    return board


def fleet() -> Dashboard:
    """Return the dashboard of all models, and of the servers."""
    board = begin(
        "models-fleet", "Models: fleet", "Every model, and the servers that they run on.", model=False
    )
    for panel in (
        number("Models", "none", ("count(triton_deploy_live_version)", "models")),
        number(
            "Tritons away",
            "none",
            ('sum(up{job="triton"} == bool 0)', "away"),
            text="Of those that Prometheus knows.",
            red_from=1,
        ),
        number("Gateways away", "none", ('sum(up{job="gateway"} == bool 0)', "away"), red_from=1),
        number("Deploys under way", "none", ("sum(triton_deploy_unfinished)", "deploys")),
        number("In quarantine", "none", ("sum(triton_deploy_quarantined)", "versions"), red_from=1),
        number(
            "Not put right by reconcile",
            "none",
            ("sum(triton_deploy_reconcile_problems)", "problems"),
            red_from=1,
        ),
        table(
            "What is live",
            ("max by (model) (triton_deploy_live_version)", "version"),
            ("max by (model) (triton_deploy_generation)", "release"),
            ("time() - max by (model) (triton_deploy_release_timestamp_seconds)", "seconds since"),
            ("max by (model) (model:requests:rate5m)", "requests/s"),
            ("max by (model) (model:failures:ratio5m)", "share failed"),
            ("max by (model) (model:gateway_latency_seconds:p95_5m)", "p95, seconds"),
            ("max by (model) (gateway_canary_share_percent)", "canary, %"),
            ("max by (model) (triton_deploy_release_without_verdict)", "without a verdict"),
        ),
        chart("Requests", "reqps", ("model:requests:rate5m", "{{model}}")),
        chart("Share that failed", "percentunit", ("model:failures:ratio5m", "{{model}}")),
        chart(
            "Latency, p95",
            "s",
            ("model:gateway_latency_seconds:p95_5m", "{{model}}"),
            text="Of the clients of the gateway.",
        ),
        chart(
            "Memory of each Triton",
            "bytes",
            ("nv_cpu_memory_used_bytes", "{{instance}}"),
            text="Of the machine that it runs on, as Triton sees it.",
        ),
        chart("Requests that wait in the gateway", "none", ("gateway_queue_length", "{{instance}}")),
        chart(
            "How old what the gateways know is",
            "s",
            ("gateway_release_staleness_seconds", "{{model}} {{instance}}"),
            text="Since current.json was last read.",
        ),
    ):
        board = board.with_panel(panel)
    return board


def one_model() -> Dashboard:
    """Return the dashboard of one model: its versions beside each other, and its candidate."""
    board = begin(
        "models-one",
        "Models: one model",
        "Versions beside each other; a line marks each release.",
        model=True,
    )
    of_candidate = '{model="$model"}[$__rate_interval]'
    for panel in (
        chart(
            "Latency by version, p95",
            "s",
            ('model_version:gateway_latency_seconds:p95_5m{model="$model"}', "version {{version}}"),
            ('model:gateway_latency_seconds:p50_5m{model="$model"}', "all, p50"),
            ('model:gateway_latency_seconds:p99_5m{model="$model"}', "all, p99"),
        ),
        chart(
            "Share that failed, by version",
            "percentunit",
            ('model_version:gateway_failures:ratio5m{model="$model"}', "version {{version}}"),
        ),
        chart(
            "Requests by version",
            "reqps",
            ('model_version:gateway_requests:rate5m{model="$model"}', "version {{version}}"),
        ),
        chart(
            "Queue against compute",
            "s",
            ('model_version:triton_queue_seconds:mean5m{model="$model"}', "queue, version {{version}}"),
            ('model_version:triton_compute_seconds:mean5m{model="$model"}', "compute, version {{version}}"),
            text="Means of a request in Triton, whichever way it came.",
        ),
        chart(
            "Share of the time that is waiting",
            "percentunit",
            ('model_version:triton_queue:ratio5m{model="$model"}', "version {{version}}"),
        ),
        chart(
            "Version that is live",
            "none",
            ('max by (model) (triton_deploy_live_version{model="$model"})', "live"),
            ('max by (model) (gateway_candidate_version{model="$model"} > 0)', "candidate"),
            lines=True,
        ),
    ):
        board = board.with_panel(panel)
    board = board.with_row(Row("The candidate"))
    for panel in (
        chart(
            "What the candidate gets",
            "percent",
            ('max by (model) (gateway_canary_share_percent{model="$model"})', "answers"),
            ('max by (model) (gateway_shadow_share_percent{model="$model"})', "mirrored"),
            lines=True,
        ),
        chart(
            "What live answered for it",
            "reqps",
            (
                f"sum by (version, outcome) (rate(gateway_canary_failures_total{of_candidate}))",
                "{{outcome}}, {{version}}",
            ),
            text="failed: live could; both: live could not either.",
        ),
        chart(
            "Mirrored requests",
            "reqps",
            (
                f"sum by (version, outcome) (rate(gateway_shadow_requests_total{of_candidate}))",
                "{{outcome}}, {{version}}",
            ),
        ),
        chart(
            "Time in Triton of mirrored requests, p95",
            "s",
            (
                f"histogram_quantile(0.95, sum by (version, le) (rate(gateway_shadow_duration_seconds_bucket{of_candidate})))",
                "version {{version}}",
            ),
        ),
        chart(
            "Difference from live's answers, p95",
            "none",
            (
                f"histogram_quantile(0.95, sum by (kind, le) (rate(gateway_shadow_difference_bucket{of_candidate})))",
                "{{kind}}",
            ),
        ),
        chart(
            "Share of answers with another label",
            "percentunit",
            (
                f"(sum by (version) (rate(gateway_shadow_disagreements_total{of_candidate})) or sum by (version) (rate(gateway_shadow_requests_total{of_candidate})) * 0)"
                f' / sum by (version) (rate(gateway_shadow_requests_total{{model="$model", outcome="ok"}}[$__rate_interval]))',
                "version {{version}}",
            ),
        ),
    ):
        board = board.with_panel(panel)
    return board


def deployments() -> Dashboard:
    """Return the dashboard of deployments: how long they take, where they fail, what is left to do."""
    board = begin("models-deployments", "Models: deployments", "What the deployer's records say.", model=True)
    of_model = '{model="$model"}'
    for panel in (
        number(
            "Since the last success",
            "s",
            (f"time() - max(triton_deploy_last_success_timestamp_seconds{of_model})", ""),
        ),
        number(
            "Since the last failure",
            "s",
            (f"time() - max(triton_deploy_last_failure_timestamp_seconds{of_model})", ""),
        ),
        number("Under way", "none", (f"max(triton_deploy_unfinished{of_model})", "")),
        number(
            "Silent for",
            "s",
            (f"max(triton_deploy_unfinished_age_seconds{of_model})", ""),
            text="Of the deploy that is under way.",
            red_from=1500,
        ),
        number("In quarantine", "none", (f"max(triton_deploy_quarantined{of_model})", ""), red_from=1),
        number(
            "Alias names another version",
            "none",
            (f"max(triton_deploy_alias_drift{of_model})", ""),
            red_from=1,
        ),
        chart(
            "Duration by step, of the last deployment",
            "s",
            (f"max by (step) (triton_deploy_step_duration_seconds{of_model})", "{{step}}"),
            span=12,
            lines=True,
            text="The pauses of what runs the steps are in it.",
        ),
        chart(
            "Deployments by outcome",
            "none",
            (
                f"sum by (outcome) (max by (outcome, step) (triton_deploy_deployments{of_model}))",
                "{{outcome}}",
            ),
            span=12,
            lines=True,
            text="Of those whose records are kept.",
        ),
        chart(
            "Failures by step",
            "none",
            ('max by (step) (triton_deploy_deployments{model="$model", outcome="rolled_back"})', "{{step}}"),
            lines=True,
        ),
        chart(
            "Bake of the last release",
            "none",
            (f"max by (verdict) (triton_deploy_bake_result{of_model})", "{{verdict}}"),
            lines=True,
        ),
        chart(
            "Reconcile",
            "none",
            (f"max(triton_deploy_reconcile_repairs{of_model})", "put right"),
            (f"max(triton_deploy_reconcile_problems{of_model})", "not put right"),
            lines=True,
        ),
    ):
        board = board.with_panel(panel)
    return board


BOARDS = {"fleet": fleet, "model": one_model, "deployments": deployments}


def to_json(board: Dashboard) -> str:
    """Return a dashboard as the text that its file holds."""
    content: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    # Grafana's types know only a part of the annotations that its Prometheus source has.
    of_releases = "max by (model) (triton_deploy_release_timestamp_seconds%s) * 1000"
    chosen = any(variable["name"] == "model" for variable in content["templating"]["list"])
    content["annotations"] = {
        "list": [
            {
                "name": "Releases",
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "enable": True,
                "iconColor": "blue",
                "expr": of_releases % ('{model="$model"}' if chosen else ""),
                "step": "60s",
                "titleFormat": "Release",
                "textFormat": "{{model}}",
                "useValueForTime": True,
            }
        ]
    }
    # What is written has to be what Grafana's types read.
    Built.from_json(content)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write the dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for name, board in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(to_json(board()), encoding="utf-8")


if __name__ == "__main__":
    main()
