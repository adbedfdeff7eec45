"""The dashboard of all models, and of the servers that they run on."""

from __future__ import annotations

from deploy.grafana.board import Board
from deploy.grafana.panels import Chart, Number, Table

FLEET = Board(
    uid="models-fleet",
    title="Models: fleet",
    text="Every model, and the servers that they run on.",
    of_one_model=False,
    parts=[
        Number("Models", "none", [("count(triton_deploy_live_version)", "models")]),
        Number(
            "Tritons away",
            "none",
            [('sum(up{job="triton"} == bool 0)', "away")],
            text="Of those that Prometheus knows.",
            red_from=1,
        ),
        Number("Gateways away", "none", [('sum(up{job="gateway"} == bool 0)', "away")], red_from=1),
        Number("Deploys under way", "none", [("sum(triton_deploy_unfinished)", "deploys")]),
        Number("In quarantine", "none", [("sum(triton_deploy_quarantined)", "versions")], red_from=1),
        Number(
            "Not put right by reconcile",
            "none",
            [("sum(triton_deploy_reconcile_problems)", "problems")],
            red_from=1,
        ),
        Table(
            "What is live",
            [
                ("max by (model) (triton_deploy_live_version)", "version"),
                ("max by (model) (triton_deploy_generation)", "release"),
                ("time() - max by (model) (triton_deploy_release_timestamp_seconds)", "seconds since"),
                ("max by (model) (model:requests:rate5m)", "requests/s"),
                ("max by (model) (model:failures:ratio5m)", "share failed"),
                ("max by (model) (model:gateway_latency_seconds:p95_5m)", "p95, seconds"),
                ("max by (model) (gateway_canary_share_percent)", "canary, %"),
                ("max by (model) (triton_deploy_release_without_verdict)", "without a verdict"),
            ],
        ),
        Chart("Requests", "reqps", [("model:requests:rate5m", "{{model}}")]),
        Chart("Share that failed", "percentunit", [("model:failures:ratio5m", "{{model}}")]),
        Chart(
            "Latency, p95",
            "s",
            [("model:gateway_latency_seconds:p95_5m", "{{model}}")],
            text="Of the clients of the gateway.",
        ),
        Chart(
            "Memory of each Triton",
            "bytes",
            [("nv_cpu_memory_used_bytes", "{{instance}}")],
            text="Of the machine that it runs on, as Triton sees it.",
        ),
        Chart("Requests that wait in the gateway", "none", [("gateway_queue_length", "{{instance}}")]),
        Chart(
            "How old what the gateways know is",
            "s",
            [("gateway_release_staleness_seconds", "{{model}} {{instance}}")],
            text="Since current.json was last read.",
        ),
    ],
)
