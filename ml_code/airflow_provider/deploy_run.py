"""What the tasks of a run have in common: which deployment it makes, and which errors a retry is good for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from ..triton_deploy.errors import DeployError
from ..triton_deploy.rules.names import deploy_id_for


def deploy_id_of(context: Any) -> str:
    """Return the id of the deployment that a run makes: its ``deploy_id`` param, or what follows from the run's id.

    Args:
        context: the task's.
    """
    return str(context["params"].get("deploy_id") or deploy_id_for(str(context["run_id"])))


@contextmanager
def no_vain_retries() -> Iterator[None]:
    """Fail the task at once on an error that a retry can't mend; raises AirflowFailException."""
    try:
        yield
    except DeployError as error:
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from error
