"""The dashboard of one model: its versions beside each other, and its candidate."""

from __future__ import annotations

from deploy.grafana.board import Board, Row
from deploy.grafana.panels import Chart

_OF_CANDIDATE = '{model="$model"}[$__rate_interval]'

_VERSIONS = [
    Chart(
        "Latency by version, p95",
        "s",
        [
            ('model_version:gateway_latency_seconds:p95_5m{model="$model"}', "version {{version}}"),
            ('model:gateway_latency_seconds:p50_5m{model="$model"}', "all, p50"),
            ('model:gateway_latency_seconds:p99_5m{model="$model"}', "all, p99"),
        ],
    ),
    Chart(
        "Share that failed, by version",
        "percentunit",
        [('model_version:gateway_failures:ratio5m{model="$model"}', "version {{version}}")],
    ),
    Chart(
        "Requests by version",
        "reqps",
        [('model_version:gateway_requests:rate5m{model="$model"}', "version {{version}}")],
    ),
    Chart(
        "Queue against compute",
        "s",
        [
            ('model_version:triton_queue_seconds:mean5m{model="$model"}', "queue, version {{version}}"),
            ('model_version:triton_compute_seconds:mean5m{model="$model"}', "compute, version {{version}}"),
        ],
        text="Means of a request in Triton, whichever way it came.",
    ),
    Chart(
        "Share of the time that is waiting",
        "percentunit",
        [('model_version:triton_queue:ratio5m{model="$model"}', "version {{version}}")],
    ),
    Chart(
        "Version that is live",
        "none",
        [
            ('max by (model) (triton_deploy_live_version{model="$model"})', "live"),
            ('max by (model) (gateway_candidate_version{model="$model"} > 0)', "candidate"),
        ],
        steps=True,
    ),
]
_CANDIDATE = [
    Chart(
        "What the candidate gets",
        "percent",
        [
            ('max by (model) (gateway_canary_share_percent{model="$model"})', "answers"),
            ('max by (model) (gateway_shadow_share_percent{model="$model"})', "mirrored"),
        ],
        steps=True,
    ),
    Chart(
        "What live answered for it",
        "reqps",
        [
            (
                f"sum by (version, outcome) (rate(gateway_canary_failures_total{_OF_CANDIDATE}))",
                "{{outcome}}, {{version}}",
            )
        ],
        text="failed: live could; both: live could not either.",
    ),
    Chart(
        "Mirrored requests",
        "reqps",
        [
            (
                f"sum by (version, outcome) (rate(gateway_shadow_requests_total{_OF_CANDIDATE}))",
                "{{outcome}}, {{version}}",
            )
        ],
    ),
    Chart(
        "Time in Triton of mirrored requests, p95",
        "s",
        [
            (
                f"histogram_quantile(0.95, sum by (version, le) (rate(gateway_shadow_duration_seconds_bucket{_OF_CANDIDATE})))",
                "version {{version}}",
            )
        ],
    ),
    Chart(
        "Difference from live's answers, p95",
        "none",
        [
            (
                f"histogram_quantile(0.95, sum by (kind, le) (rate(gateway_shadow_difference_bucket{_OF_CANDIDATE})))",
                "{{kind}}",
            )
        ],
    ),
    Chart(
        "Share of answers with another label",
        "percentunit",
        [
            (
                f"(sum by (version) (rate(gateway_shadow_disagreements_total{_OF_CANDIDATE})) or sum by (version) (rate(gateway_shadow_requests_total{_OF_CANDIDATE})) * 0)"
                f' / sum by (version) (rate(gateway_shadow_requests_total{{model="$model", outcome="ok"}}[$__rate_interval]))',
                "version {{version}}",
            )
        ],
    ),
]
_OBJECTIVES = [
    Chart(
        "Burn of the failure budget",
        "none",
        [
            ('model:failure_burn:ratio1h{model="$model"}', "1 hour"),
            ('model:failure_burn:ratio6h{model="$model"}', "6 hours"),
            ('model:failure_burn:ratio3d{model="$model"}', "3 days"),
        ],
        text="At 1 the budget lasts 30 days. 14.4 over an hour pages: see docs/alerting.md.",
    ),
    Chart(
        "Burn of the latency budget",
        "none",
        [
            ('model:latency_burn:ratio1h{model="$model"}', "1 hour"),
            ('model:latency_burn:ratio6h{model="$model"}', "6 hours"),
            ('model:latency_burn:ratio3d{model="$model"}', "3 days"),
        ],
        text="Answers that took longer than 0.5 s at the gateway.",
    ),
    Chart(
        "Past the gateway",
        "reqps",
        [
            ('model:direct_requests:rate5m{model="$model"}', "requests"),
            ('model:direct_failures:rate5m{model="$model"}', "failures"),
        ],
        text="Triton's count at the public name, less the gateway's. Smoke tests are in it.",
    ),
]
ONE_MODEL = Board(
    uid="models-one",
    title="Models: one model",
    text="Versions beside each other; a line marks each release.",
    of_one_model=True,
    parts=[*_VERSIONS, Row("The candidate"), *_CANDIDATE, Row("Objectives"), *_OBJECTIVES],
)
