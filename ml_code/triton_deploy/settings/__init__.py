"""Settings: read from the environment once, into a frozen object, with units in the names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput, Misconfigured, StorageFailed
from ..rules.names import check_model
from .bake import BakeSettings
from .canary import CanarySettings
from .environment import FromEnvironment, Problem, group, setting
from .mlflow import MlflowSettings
from .notify import NotifySettings
from .retention import RetentionSettings
from .smoke import SmokeSettings
from .transfer import TransferSettings
from .triton import DNS_PREFIX, TritonSettings

__all__ = ["DNS_PREFIX", "Settings"]


def _model_name(variable: str, name: str, default: str) -> None:
    try:
        check_model(name)
    except InvalidInput as error:
        raise Misconfigured(f"{variable}: {error.message}", hint=error.hint) from error


@dataclass(frozen=True, kw_only=True)
class Settings(FromEnvironment):
    """All settings of a deployer; ``from_env`` reads them from the environment.

    Each group declares its settings and their checks in its own file. docs/reference/settings.md lists them.
    """

    repository: Path | None = setting(
        "TRITON_DEPLOY_REPOSITORY",
        None,
        "Folder of the model repository that Triton serves, shared with it. Required.",
    )
    triton: TritonSettings = group(TritonSettings)
    default_model: str = setting(
        "TRITON_DEPLOY_MODEL",
        "best_model",
        "Model that the DAG deploys when its form names no other.",
        check=_model_name,
    )
    mlflow: MlflowSettings = group(MlflowSettings)
    transfer: TransferSettings = group(TransferSettings)
    smoke: SmokeSettings = group(SmokeSettings)
    notify: NotifySettings = group(NotifySettings)
    canary: CanarySettings = group(CanarySettings)
    lease_s: float = setting(
        "TRITON_DEPLOY_LEASE_S",
        900.0,
        "How long a silent deploy keeps others away from its model, seconds.",
        positive=True,
    )
    retention: RetentionSettings = group(RetentionSettings)
    bake: BakeSettings = group(BakeSettings)

    @property
    def repository_root(self) -> Path:
        """The folder of the model repository.

        Raises:
            Misconfigured: the folder is not set, or is not a folder.
            StorageFailed: the file system does not tell.
        """
        if self.repository is None:
            raise Misconfigured(
                "TRITON_DEPLOY_REPOSITORY is not set.",
                hint="Set it to the folder that Triton was started with (--model-repository).",
            )
        try:
            found = self.repository.is_dir()
        except OSError as error:
            raise StorageFailed(
                f"The model repository {self.repository} can't be looked at: {error.strerror}.",
                hint="Check its file system and mount.",
            ) from error
        if not found:
            raise Misconfigured(
                f"The model repository {self.repository} is not a folder on this machine.",
                hint="Set TRITON_DEPLOY_REPOSITORY to the folder that is shared with Triton, and mount it on every worker.",
            )
        return self.repository

    @property
    def canary_requests(self) -> int:
        """Least requests that a step of a canary has to see before it ends."""
        return self.canary.min_requests or self.bake.min_requests

    def problems(self) -> Iterator[Problem]:
        """See FromEnvironment.problems. A model has to give its reference answers within the lease."""
        yield from super().problems()
        if self.smoke.require_golden == "no" and self.smoke.reference_timeout_s >= self.lease_s:
            yield Problem(
                "TRITON_DEPLOY_REFERENCE_TIMEOUT_S",
                Misconfigured(
                    f"TRITON_DEPLOY_REFERENCE_TIMEOUT_S={self.smoke.reference_timeout_s:g} is not less than "
                    f"TRITON_DEPLOY_LEASE_S={self.lease_s:g}: another deploy would take a model that is run for its answers for abandoned.",
                    hint="Lower the first, or raise the second.",
                ),
                beside=("TRITON_DEPLOY_LEASE_S",),
            )
