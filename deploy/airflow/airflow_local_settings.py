"""Imports the modules of deploy tasks once, in the process from which Airflow forks its tasks.

Airflow imports a module of this name at its start if there is one, for example in ``$AIRFLOW_HOME/config``
("Configuring local settings" in its documentation). Only what starts tasks takes the time and the memory,
some 60 MB that its children share: the scheduler with its LocalExecutor, and Celery's workers.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

STARTS_TASKS = ("scheduler", "worker", "standalone")
"""Subcommands of ``airflow`` whose processes fork tasks."""
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
        # If a module is missing, the task that needs it gives the better error; the scheduler has to start.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
