"""A load that Triton refuses for the shapes of the configuration is tried once more with Triton's own shapes.

The deployer reads the shapes from its own ONNX Runtime. Triton's may be another version, or open the model
with other options, and infer others; its backend compares those exactly. So Triton is asked for its shapes,
and they replace those of the version's manifest, from which engine and switch are written. The record says
so first: a process that takes the step up again finds that fact, and writes the manifest again.

Only the manifest of a version that this deployment brought is replaced. The digest of an older one is part
of its releases.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import Superseded
from ..fleet.model_on_triton import NOT_TOLD
from ..model.model_config import check_options
from ..model.reported_shapes import runtime_version
from ..repository.installed_manifest import digest_of, opened_manifest
from ..rules.schema import Schema
from ..rules.shapes import Reported, differences, is_open, shape_facts, told, with_facts
from ..rules.triton_errors.row import OtherShapes
from ..rules.version_files import Manifest
from .materialize import refuse_breaking
from .step import RunningStep

log = logging.getLogger(__name__)


def load_with_shapes(step: RunningStep, manifest: Manifest, load: Callable[[Manifest], None]) -> None:
    """Load a candidate; once more with the shapes that Triton reports when it refuses the manifest's.

    Args:
        step: the load.
        manifest: the candidate.
        load: tries a manifest's candidate in the Tritons.

    Raises:
        OtherShapes: Triton refuses the shapes for good; the text has both shapes and both versions.
        SchemaChanged: Triton's shapes would break clients of the live version.
        ArtifactRejected: the version's options do not go with Triton's shapes.
        Superseded: the deployment lost its lease.
        DeployError: other errors of ``load``.
    """
    try:
        load(manifest)
    except OtherShapes as refused:
        load_again = _taken_over(step, manifest, refused)
    else:
        return
    try:
        load(load_again)
    except OtherShapes as refused:
        raise _for_good(step, refused) from refused


def write_recorded_shapes(step: RunningStep) -> None:
    """Write the manifest with recorded shapes, if the process that recorded them ended before it could."""
    record = step.record
    if not record.shapes:
        return
    with opened_manifest(step.folder.versions.path(record.version)) as installed:
        found = installed.read()
        due = with_facts(found, record.shapes)
        if found.deploy_id == record.deploy_id and digest_of(due) == record.manifest_digest:
            installed.replace(due)


def _taken_over(step: RunningStep, manifest: Manifest, refused: OtherShapes) -> Manifest:
    """Replace a candidate's shapes by those of the Triton that refused them, and return its new manifest."""
    record, ours = step.record, Schema.from_dict(manifest.schema)
    if record.shapes or manifest.deploy_id != record.deploy_id or not is_open(ours):
        raise _for_good(step, refused) from refused
    step.keep_lease()
    reported = refused.reported or _asked(step, manifest, refused)
    if not differences(ours, reported.schema):
        raise _for_good(step, refused) from refused
    check_options(dict(manifest.options), reported.schema)
    facts = shape_facts(ours, reported, runtime_version())
    better = with_facts(manifest, facts)
    refuse_breaking(step.folder.versions, record, better.offer)
    with opened_manifest(step.folder.versions.path(manifest.version)) as installed:
        if installed.read() != manifest:
            raise Superseded(
                f"The manifest of version {manifest.version} was changed by another process.",
                hint="Start a new deploy if you still want yours.",
            )
        step.note(shapes=facts, manifest_digest=digest_of(better))
        installed.replace(better)
    log.warning("version %s is loaded once more with the %s", manifest.version, told(facts))
    return better


def _asked(step: RunningStep, manifest: Manifest, refused: OtherShapes) -> Reported:
    """Return the shapes of the first serving Triton; raises OtherShapes when it does not tell them."""
    try:
        reported = step.serving.ask_shapes(manifest)
    except NOT_TOLD as error:
        asked = refused.worded(
            f"{refused.message} Asked for its own shapes, that Triton does not tell them (with --disable-auto-complete-config none "
            f"does): {error}"
        )
        raise _for_good(step, asked) from refused
    step.keep_lease()
    return reported


def _for_good(step: RunningStep, refused: OtherShapes) -> OtherShapes:
    """Return the refusal with the shapes that were taken over before, and with the versions that disagree."""
    facts = step.record.shapes
    before = (
        f" Triton {facts['triton']} had other ones: {'; '.join(facts['differences'])}, and the configuration has those."
        if facts
        else ""
    )
    versions = ", ".join(f"{version} at {url}" for url, version in step.serving.server_versions().items())
    return refused.worded(
        f"{refused.message}{before} The deployer has ONNX Runtime {runtime_version()}; Triton is {versions or 'away'}, and does not "
        "tell that of its backend."
    )
