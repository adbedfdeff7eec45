"""The tasks of ``revert_triton`` and ``decide_canary``: a person's requests."""

from __future__ import annotations

from airflow.sdk import get_current_context

from ..triton_deploy.rules.names import deploy_id_for
from ..triton_deploy.settings import Settings
from .deploy_run import no_vain_retries


def revert() -> None:
    """Check the earlier version as a candidate and make it live."""
    from ..triton_deploy.deploy.deployer import Deployer
    from ..triton_deploy.deploy.request import RevertRequest
    from ..triton_deploy.rules.names import check_reason

    context = get_current_context()
    params = context["params"]
    # Each try has its own deployment: a deployment that was rolled back can't go on. The number of the try
    # is 0 in 'airflow tasks test'.
    run_id, this_try = context["run_id"], context["ti"].try_number
    earlier = [deploy_id_for(f"{run_id}-{attempt}") for attempt in range(1, this_try)]
    with no_vain_retries():
        request = RevertRequest(
            model=params["model"],
            deploy_id=deploy_id_for(f"{run_id}-{this_try}"),
            version=params["to"],
            actor=f"airflow:{run_id}",
            reason=check_reason(params["reason"] or ""),
            unverified=params["unverified"],
        )
        Deployer(Settings.from_env()).revert(request, earlier)


def decide() -> str:
    """Record what is said, for the run of the deploy to do; returns what comes of it."""
    from ..triton_deploy.deploy.canary_decisions import done
    from ..triton_deploy.rules.names import check_reason

    context = get_current_context()
    params = context["params"]
    with no_vain_retries():
        _, lines = done(
            Settings.from_env(),
            params["model"],
            params["decision"],
            by=f"airflow:{context['run_id']}",
            reason=check_reason(params["reason"] or ""),
            deploy_id=params["deploy_id"] or "",
        )
    print(*lines, sep="\n")
    return lines[0]
