"""Saves each task of a deploy its imports: Airflow forks tasks from the process that imports this at its start.

Airflow imports a module of this name when it finds one, for example in ``$AIRFLOW_HOME/config`` ("Configuring local settings" in its
documentation). Only what starts tasks takes the time and the memory, some 60 MB that its children share: the scheduler with its LocalExecutor,
and Celery's workers.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

STARTS_TASKS = ("scheduler", "worker", "standalone")
"""Subcommands of ``airflow`` whose process tasks are forked from."""
USED_BY_TASKS = (
    "google.protobuf.json_format",
    "google.protobuf.text_format",
    "ml_code.triton_deploy.deploy.deployer",
    "ml_code.triton_deploy.model.smoke_case",
    "ml_code.triton_deploy.clients.http.connections",
    "numpy",
    "onnx",
    "requests",
    "tritonclient.grpc",
)

if not set(STARTS_TASKS).isdisjoint(sys.argv):
    for name in USED_BY_TASKS:
        # A task that needs what is missing says so better than a scheduler that does not start.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
