"""How the Airflow of the tests is set: quicker than a user's, and with nothing that happens by itself."""

from __future__ import annotations

from pathlib import Path

from stack.ports import free_ports

RECONCILE_DAG = "reconcile_triton"
SOON_MISSED = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    # Three heartbeats of five tries each have to fail within the 45 s for which a test can hold a task.
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "2",
}
"""Airflow notices an orphaned task after 30 s, not 300, and a dead scheduler after 40 s, not 330."""
PARSED_ONCE = {
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3600",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
}
"""No test changes a DAG; parsing all of them every ten seconds takes a fifth of a core."""
WATCHED_MODEL, BY_EVENT = "watched_model", "by_event"
FOLLOWED = {"TRITON_EVENTS_ALLOW": f"*@{BY_EVENT}", "TRITON_EVENTS_WATCH": f"{WATCHED_MODEL}@{BY_EVENT}"}
"""Nothing else that a test moves is deployed by itself."""
PROMETHEUS_PORT = free_ports()["gateway"]
"""Where a test may start a Prometheus that Airflow's tasks ask."""
BAKES_ON_DEMAND = {
    "TRITON_DEPLOY_PROMETHEUS_URL": f"http://127.0.0.1:{PROMETHEUS_PORT}",
    "TRITON_DEPLOY_BAKE_MINUTES": "0",
    "TRITON_DEPLOY_BAKE_INTERVAL_S": "1",
    "TRITON_DEPLOY_BAKE_WINDOW_S": "10",
    "TRITON_DEPLOY_BAKE_MIN_REQUESTS": "40",
}
"""A release bakes when the run's form says so, and then quickly."""
CANARIES_ON_DEMAND = {
    "TRITON_DEPLOY_CANARY_NO_DATA": "pass",
    "TRITON_DEPLOY_CANARY_INTERVAL_S": "1",
}
"""Mostly no Prometheus is there to judge a candidate."""
SETTINGS = {
    **SOON_MISSED,
    **PARSED_ONCE,
    **FOLLOWED,
    **BAKES_ON_DEMAND,
    **CANARIES_ON_DEMAND,
    # A scheduled retraining would start at midnight.
    "RETRAIN_SCHEDULE": "off",
    "TRAINERS_PATH": str(Path(__file__).with_name("trainers")),
}
