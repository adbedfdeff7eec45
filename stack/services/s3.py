"""S3: rclone, on a folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ..readiness import bucket_is_there
from ..site import Service, Site
from ..supervision import Program

BUCKET = "mlflow"
_ACCESS_KEY = "stack"
_REGION = "us-east-1"


def environment(site: Site) -> dict[str, str]:
    """Return the variables by which MLflow, the deployer and boto3 use the bucket."""
    return {
        "MLFLOW_S3_ENDPOINT_URL": site.url("s3"),
        # The whole bucket is MLflow's: experiments that bypass its proxy have folders of their own in it.
        "TRITON_DEPLOY_ARTIFACT_ROOTS": f"s3://{BUCKET}",
        "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": site.secret("s3-secret-key"),
        "AWS_DEFAULT_REGION": _REGION,
        # rclone answers a ranged GET with the checksum of the whole object, which botocore would refuse.
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return S3 with MLflow's bucket."""
    root = site.state_dir / "s3"
    root.mkdir(exist_ok=True)
    secret_key = site.secret("s3-secret-key")
    rclone_env = {
        **env,
        # In the environment, because ``ps`` shows arguments to every user; the value is a CSV record.
        "RCLONE_AUTH_KEY": f'"{_ACCESS_KEY},{secret_key}"',
        "RCLONE_CONFIG": str(site.state_dir / "rclone.conf"),
    }
    rclone = str(Path(sys.executable).with_name("rclone"))
    address = urlsplit(site.url("s3")).netloc
    argv = [rclone, "serve", "s3", str(root), "--addr", address]
    return Service(
        programs=[Program("s3", argv, rclone_env)],
        probe=lambda: bucket_is_there(site.url("s3"), _ACCESS_KEY, secret_key, BUCKET),
        ports=["s3"],
    )
