"""The steps of a deploy and the way back, in the order in which they happen; ``Deployer`` runs them."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING

from ..repository.verdicts import refuse_bad
from ..rules.deployment import Deployment, State
from ..rules.version_files import Manifest
from .decide import ActingHands, decide_deploy, way_back
from .disk_space import require_room
from .failures import flip_in_doubt
from .integrity import check_candidate
from .materialize import Materializer
from .request import DeployRequest
from .shapes import load_with_shapes, write_recorded_shapes
from .step import RunningStep

if TYPE_CHECKING:
    from .collaborators import Collaborators
    from .deployments import Deployments

log = logging.getLogger(__name__)


def snapshot(request: DeployRequest, deployments: Deployments, via: Collaborators) -> Deployment:
    """Settle an abandoned deploy, resolve the alias once, take the lease, and record all of it."""
    return decide_deploy(request, deployments, via, ActingHands(deployments)).begun


def materialize(step: RunningStep, via: Collaborators) -> None:
    """Bring the artifact into the repository, checked and durable, under its version's name."""
    folder, uri = step.folder, step.record.pinned.artifact_uri
    materializer = Materializer(via.settings, folder, lambda: via.stores(uri), via.sign)
    manifest = materializer.run(step.record, step.was_released, step.renewing(via.report))
    if not step.record.force:
        refuse_bad(folder, manifest)  # Where training recorded no digest, it is known only now.
    step.reached(digest=manifest.digest, manifest_digest=folder.versions.manifest_digest(manifest.version))


def load(step: RunningStep, via: Collaborators) -> None:
    """Try the candidate in the staging Triton, then load it into every Triton beside the live version."""
    step.folder.traps.refuse()
    write_recorded_shapes(step)
    manifest = step.folder.versions.require(step.record.version)
    require_room(via.settings, manifest.version, step.folder)
    check_candidate(step, manifest)
    fresh = manifest.deploy_id == step.record.deploy_id

    def try_and_load(candidate: Manifest) -> None:
        via.try_in_staging(step, candidate)
        step.serving.load_candidate(
            candidate, step.record.deploy_id, fresh=fresh, first=step.note_given, then=step.keep_lease
        )

    try:
        load_with_shapes(step, manifest, try_and_load)
        step.reached()
    finally:
        step.deployments.last.give_back(step.record)


def ready(step: RunningStep, via: Collaborators) -> None:
    """Wait until every Triton has exactly this version ready."""
    step.serving.wait_ready(step.record.version)
    step.reached()


def smoke(step: RunningStep, via: Collaborators) -> None:
    """Compare the candidate's answers with the expected ones, on every Triton."""
    measured = step.serving.smoke(step.record.version)
    step.reached(smoke=measured)
    log.info(
        "version %s answers as expected: %s requests (%s inputs), %s ms each, largest difference %.3g",
        step.record.version,
        *(measured[name] for name in ("requests", "source", "latency_ms", "max_abs_error")),
    )


def commit(step: RunningStep, via: Collaborators) -> None:
    """Flip the switch, check through the public name, record the decision, and write the release."""
    flipped = step.record.state is not State.COMMITTING
    if flipped:
        step.refuse_outdated()
        if step.record.state in (State.VERIFIED, State.TRIED):
            step.reached(State.SWITCHING)  # From here on clients may reach the candidate.
        with step.flipping() as serving:
            manifest = step.folder.versions.require(step.record.version)
            away = serving.switch_to(manifest, step.settle_s)
            step.keep_lease()
            serving.files.complete_engine(
                manifest
            )  # Earlier code, which may finish the commit, completes none.
            step.reached(State.COMMITTING, away=dict(away), unanswered=dict(serving.unanswered))
    step.record = finish(step.deployments, step.record, flipped=flipped)


def finish(deployments: Deployments, record: Deployment, *, flipped: bool = False) -> Deployment:
    """Write the release of a decided deployment and all that follows from it; safe to repeat."""
    last = deployments.last
    deployments.publish(record)
    last.project()
    if not flipped:
        last.try_to_restore()
    record = deployments.move(record, State.COMMITTED, failure=None)
    last.retire(deployments.folder.engines.versions())
    return deployments.ended(record)


def rollback(deployments: Deployments, record: Deployment, by: str) -> Deployment:
    """Put the public name back, take the candidate out, keep its files; or finish a decided commit."""
    due, folder, last = way_back(record), deployments.folder, deployments.last
    if due.finishes:
        log.info("deployment %s was past its decision: finishing the commit", record.deploy_id)
        return finish(deployments, record)
    failure = record.failure or deployments.failure_without_error(record, by)
    if record.state is not State.ROLLING_BACK:
        record = deployments.move(record, State.ROLLING_BACK, failure=failure)
    if due.switches_back:
        last.restore(spared=record.ended)
    if record.version in folder.engines.versions():
        if folder.releases.latest() and flip_in_doubt(record, failure):
            log.info("version %s is not taken out before the next reconcile or deploy", record.version)
        else:
            last.retire([record.version])
    began = datetime.fromisoformat(record.times_utc[State.ROLLING_BACK])
    kept = folder.quarantine.add(record, failure, began)
    record = deployments.move(record, State.ROLLED_BACK, quarantine=kept.name if kept else "")
    return deployments.ended(record)
