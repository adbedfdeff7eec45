"""Which deployment a run makes, and which of its errors a retry may mend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from ..triton_deploy.errors import DeployError
from ..triton_deploy.rules.names import deploy_id_for


def deploy_id_of(context: Any) -> str:
    """Return the id of a run's deployment: the ``deploy_id`` param, or an id that follows from the run's id.

    Args:
        context: the context of a task of the run.
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


def failure_in(event: Mapping[str, Any]) -> AirflowException:
    """Return the exception for an error of a trigger: AirflowFailException if a retry can't mend the error.

    Args:
        event: ``error``, the text, and ``retryable``.
    """
    kind = AirflowException if event["retryable"] else AirflowFailException
    return kind(event["error"])
