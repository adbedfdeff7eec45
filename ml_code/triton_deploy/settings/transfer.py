"""The transfer of a version's files: allowed sources, deadlines, parallel reads and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import Misconfigured
from ..rules.artifact_roots import ArtifactRoots
from ..rules.web_address import fault, shown
from .checks import one_of, web_address
from .environment import FromEnvironment, setting


def _s3_address(variable: str, url: str, default: str) -> None:
    web_address(variable, url, default)
    if "@" in url and not fault(url):
        raise Misconfigured(
            f"{variable}={shown(url)!r} has a user and a password in it, which S3 does not take.",
            hint="Leave them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )


def _roots(variable: str, roots: Sequence[str], default: object) -> None:
    ArtifactRoots.parse(roots)


@dataclass(frozen=True, kw_only=True)
class TransferSettings(FromEnvironment):
    """Sources, deadlines, parallel reads and size limits of a transfer."""

    s3_endpoint_url: str = setting(
        "MLFLOW_S3_ENDPOINT_URL",
        "",
        "S3 endpoint for models stored at `s3://…`, with its scheme; empty means AWS.",
        check=_s3_address,
    )
    artifact_roots: tuple[str, ...] = setting(
        "TRITON_DEPLOY_ARTIFACT_ROOTS",
        (),
        "Places that a version's files may be read from, each with all below it, comma-separated: `s3://bucket/folder`, `mlflow-artifacts:/folder`. Unset: what MLflow hands out (`mlflow-artifacts:`) and nothing in S3 directly. Where no folder of `mlflow-artifacts:` is named, all of it may be read.",
        check=_roots,
    )
    timeout_s: float = setting(
        "TRITON_DEPLOY_TRANSFER_TIMEOUT_S",
        30.0,
        "Longest silence while an artifact is transferred, seconds.",
        positive=True,
    )
    probe_timeout_s: float = setting(
        "TRITON_DEPLOY_PROBE_TIMEOUT_S",
        3.0,
        "Longest wait for S3 behind a presigned URL before MLflow's proxy is used, seconds.",
        positive=True,
    )
    streams: int = setting(
        "TRITON_DEPLOY_TRANSFER_STREAMS", 4, "Parallel ranged reads of one artifact.", positive=True
    )
    range_bytes: int = setting(
        "TRITON_DEPLOY_TRANSFER_RANGE_BYTES", 16 << 20, "Size of one ranged read, bytes.", positive=True
    )
    min_bytes_per_s: int = setting(
        "TRITON_DEPLOY_TRANSFER_MIN_BYTES_PER_S",
        16384,
        "Slowest transfer that goes on, bytes a second, on the average of `TRITON_DEPLOY_TRANSFER_TIMEOUT_S`; 0 takes any.",
    )
    max_artifact_bytes: int = setting(
        "TRITON_DEPLOY_MAX_ARTIFACT_BYTES",
        20 << 30,
        "Largest artifact that is accepted, bytes in all files.",
        positive=True,
    )
    min_free_bytes: int = setting(
        "TRITON_DEPLOY_MIN_FREE_BYTES", 64 << 20, "Free space that must remain beside the new version, bytes."
    )
    require_digest: str = setting(
        "TRITON_DEPLOY_REQUIRE_DIGEST",
        "no",
        "`yes` refuses versions of which training recorded no digest (tag `triton_deploy.digest`); `no` takes what the artifact store has.",
        check=one_of("no", "yes"),
    )

    @property
    def allowed_artifacts(self) -> ArtifactRoots:
        """The places that files may be read from; raises Misconfigured if the setting can't be parsed."""
        return ArtifactRoots.parse(self.artifact_roots)
