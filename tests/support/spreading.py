"""Which tests share a worker of pytest-xdist: those that share servers, which a worker starts for itself.

A group runs on one worker, in this order of groups: what takes longest comes first, so that the workers end
together. A file that no group names is a group by itself; of the folders in ``SINGLY`` every test is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdist.scheduler import LoadScopeScheduling

GROUPS: Mapping[str, Sequence[str]] = {
    # A running Airflow: idle, it takes a quarter of a core, so there is one.
    "airflow": ["integration/airflow/"],
    # Airflows of a test's own, and Airflow's command line, which needs none that runs.
    "own-airflow": [
        "integration/airflow/test_distributed.py",
        "integration/platform/test_up.py",
        "integration/airflow/test_command_line.py",
    ],
    # Two Tritons and a gateway.
    "gateway": ["integration/gateway/"],
    # S3, MLflow and Triton.
    "stack": [
        "integration/mlflow_s3/",
        "integration/platform/test_doctor.py",
        "integration/platform/test_initialize.py",
        "integration/platform/test_how_to.py",
        "integration/platform/test_stack.py",
        "integration/triton/test_bad_inputs.py",
        "integration/triton/test_deploy_under_traffic.py",
        "integration/triton/test_network_faults.py",
        "integration/triton/test_revert_and_reconcile.py",
        "integration/triton/test_triton_port.py",
        "integration/triton/test_many_deployers.py",
        "integration/triton/test_many_swaps.py",
        "integration/triton/test_zoo_dozen.py",
        "torch/",
    ],
    # Ten minutes a test. Last, because pytest-xdist gives the next group to a worker that has two tests left.
    "endless": ["integration/gateway/test_soak.py"],
}
SINGLY = ("tests/faults/",)


def group_of(nodeid: str) -> str:
    """Return the group of a test."""
    path = nodeid.partition("::")[0]
    at, _ = _place_of(path)
    if at < len(GROUPS):
        return [*GROUPS][at]
    return nodeid if path.startswith(SINGLY) else path


def order_of(nodeid: str) -> tuple[int, int]:
    """Return where a test stands: by its group, and in that by its place."""
    return _place_of(nodeid.partition("::")[0])


def _place_of(path: str) -> tuple[int, int]:
    # The longest name is the most particular.
    named = [
        (len(place), at, position)
        for at, places in enumerate(GROUPS.values())
        for position, place in enumerate(places)
        if path.startswith(f"tests/{place}")
    ]
    return max(named)[1:] if named else (len(GROUPS), 0)


class ByServers(LoadScopeScheduling):
    """Gives a worker one group after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
