"""A deployment record and a live release that tests of records, files and retention begin with."""

from __future__ import annotations

from datetime import UTC, datetime

from ml_code.triton_deploy.rules.deployment import Deployment, Pinned, State
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.release import Release

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

RECORD = Deployment(
    deploy_id="d1",
    model="m",
    state=State.PINNED,
    pinned=Pinned(version=3, run_id="r", alias="A", artifact_uri="s3://b/p", fingerprint="f"),
    base_generation=7,
    base_version=2,
    actor="me",
    times_utc={"pinned": utc_text(NOW)},
)

LIVE = Release(
    model="m",
    generation=7,
    active_version=2,
    run_id="r2",
    alias="A",
    digest="x",
    previous_version=1,
    warm_versions=(1,),
    deploy_id="d0",
    actor="me",
    updated_at_utc=utc_text(NOW),
)
