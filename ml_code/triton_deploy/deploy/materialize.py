"""From the artifact store to a version directory: stream, check, install with one rename.

The version's name appears when every byte is on disk and checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..clients.artifacts import ArtifactStore
from ..clients.fetch_version import Artifact, consists_of, proven_digest, refuse_too_large
from ..errors import ArtifactRejected, NotFound, Quarantined, SchemaChanged, StorageFailed
from ..model import model_config, onnx_model
from ..model.reference_limits import Limits
from ..model.signature import Signer
from ..repository import ModelFolder
from ..repository.quarantine import Quarantine
from ..repository.versions import Versions
from ..rules.deployment import Deployment
from ..rules.identity import has_content_of, refuse_another
from ..rules.schema import Offer, Schema, breaking_offer
from ..rules.shapes import known_shapes
from ..rules.unused import unused
from ..rules.version_files import (
    DIGEST_TAG,
    GOLDEN,
    MODEL_FILE,
    MOST_BYTES,
    OPTIONS,
    SERVING_EXAMPLE,
    SMOKE_CASE,
    FileEntry,
    Manifest,
    RemoteFile,
    source_fingerprint,
)
from ..settings import Settings
from ..storage import storage_errors
from .incoming import IncomingFiles, Report

log = logging.getLogger(__name__)


class GoldenMissing(ArtifactRejected):
    """The version has no golden inputs, and the operator demands them. Its files are not blamed."""

    kind, blames_artifact = "golden_missing", False


class DigestMissing(ArtifactRejected):
    """Training recorded no digest of the version, and the operator demands one. Its files are not blamed."""

    kind, blames_artifact = "digest_missing", False


class Materializer:
    """Brings one deployment's artifact into the repository.

    Args:
        settings: limits and transfer parameters.
        folder: the model's place in the repository.
        store: where the artifact is.
        sign: opens a model without its weights, and returns its inputs and outputs.
    """

    def __init__(
        self,
        settings: Settings,
        folder: ModelFolder,
        store: Callable[[], ArtifactStore],
        sign: Signer,
    ) -> None:
        self._sign = sign
        self._settings = settings
        self._versions = folder.versions
        self._staging = folder.staging
        self._quarantine = folder.quarantine
        self._store = store

    def run(self, record: Deployment, released: Callable[[], bool], report: Report) -> Manifest:
        """Install the pinned version, or find that it is installed.

        Args:
            record: a pinned deployment.
            released: whether the version was live before, so that its directory is trusted. Raises
                Superseded when the deployment has lost its lease: then the directory may be another
                deployment's.
            report: called with the progress of the transfer.

        Returns:
            The manifest of the version's directory.

        Raises:
            ArtifactRejected: the artifact is junk, unsafe, too large or not the recorded one; or, logged
                without golden inputs, it is run and goes over a limit.
            GoldenMissing: it was logged without golden inputs, and the settings demand them.
            DigestMissing: training recorded no digest, and the settings demand one.
            OtherFiles: training recorded another digest than the files have.
            SchemaChanged: it would break clients of the live version.
            Quarantined: its digest failed before.
            AnotherVersion: the repository has another version of the same number.
            AccessDenied, NotFound, Unavailable: it can't be read.
            Unavailable: no process can be started to run it in.
            StorageFailed: it can't be written, or would fill the disk.
        """
        self._check_digest(record)
        installed = self._versions.manifest(record.version)
        if installed is not None and _is_trusted(installed, record, released):
            self._versions.sync_names()
            self._check_installed(record, installed)
            log.info("version %s is in the repository already; nothing is copied", record.version)
            return installed
        if installed is not None:
            # A process left it that went on after its deployment was rolled back.
            self._quarantine.add_leftover(installed)
        try:
            return self._bring(record, report)
        except StorageFailed:
            # Free the staged bytes: on a full disk the rollback needs the space for its records.
            with contextlib.suppress(StorageFailed):
                self._staging.discard(record.deploy_id)
            raise

    def is_to_be_copied(self, record: Deployment, released: Callable[[], bool]) -> bool:
        """Whether ``run`` would copy the files; False when it would find them installed. Changes nothing.

        Args:
            record: a pinned deployment.
            released: whether the version was live before.
        """
        installed = self._versions.manifest(record.version)
        return installed is None or not _is_trusted(installed, record, released)

    def check_before(self, record: Deployment, copied: bool, files: Iterable[RemoteFile]) -> None:
        """Raise the errors of ``run`` that can be known before a byte is read; changes nothing.

        Args:
            record: a pinned deployment.
            copied: whether its files are to be copied.
            files: the files that it consists of.

        Raises:
            AnotherVersion, ArtifactRejected, SchemaChanged, StorageFailed: as for ``run``.
        """
        self._check_digest(record)
        if copied:
            self._check_listing(files)
        else:
            self._check_installed(record, self._versions.require(record.version))

    def _bring(self, record: Deployment, report: Report) -> Manifest:
        staging = self._staging.prepare(record.deploy_id)
        files = tuple(self._fetch(record, staging, report))
        digest = proven_digest(files, record.pinned.expected_digest)
        if not record.force:
            refuse_quarantined(self._quarantine, digest=digest)
        inferred = onnx_model.inspect(
            staging / MODEL_FILE,
            max_opset=self._settings.triton.max_opset,
            max_ir_version=self._settings.triton.max_ir_version,
            limits=Limits.of(self._settings),
            sign=self._sign,
        )
        schema = known_shapes(inferred, self._versions.readable_manifest(record.base_version or 0))
        options = model_config.check_options(_read_json(staging / OPTIONS), schema)
        refuse_breaking(self._versions, record, Offer(schema, options))
        smoke_case = self._write_smoke_case(staging, schema)
        manifest = Manifest(
            version=record.version,
            digest=digest,
            fingerprint=record.pinned.fingerprint,
            artifact_uri=record.pinned.artifact_uri,
            run_id=record.pinned.run_id,
            deploy_id=record.deploy_id,
            files=(*files, smoke_case),
            schema=schema.to_dict(),
            options=options,
            inferred={} if schema == inferred else inferred.to_dict(),
        )
        self._staging.install(record.deploy_id, manifest)
        return manifest

    def _fetch(self, record: Deployment, staging: Path, report: Report) -> Iterator[FileEntry]:
        """Bring the files of the version: the model, its external data, and the ``triton`` folder."""
        artifact = Artifact.at(record.pinned.artifact_uri, self._store())
        if source_fingerprint(artifact.uri, artifact.listed.values()) != record.pinned.fingerprint:
            # Nothing is known against the files that are there now, so they must not go into quarantine.
            raise NotFound(
                f"The files at {artifact.uri} changed since the snapshot.",
                hint="Deploy again when the upload is complete.",
            )
        self._check_listing(artifact.listed.values())
        twin = self._versions.with_digest(record.pinned.expected_digest)
        incoming = IncomingFiles(artifact, staging, self._settings, self._versions, twin, report)
        yield from consists_of(artifact.listed, staging, incoming.bring)
        if GOLDEN not in artifact.listed:
            incoming.bring_example()

    def _check_listing(self, files: Iterable[RemoteFile]) -> None:
        """Refuse files by their names and sizes, before a byte is read."""
        listed = tuple(files)
        if self._settings.smoke.require_golden == "yes" and GOLDEN not in {file.path for file in listed}:
            raise GoldenMissing(
                f"The version was logged without {GOLDEN}, and TRITON_DEPLOY_REQUIRE_GOLDEN demands it.",
                hint=f"Log {GOLDEN} beside model.onnx, KServe v2 JSON with inputs and the outputs to expect, and register a new version: see docs/training.md.",
            )
        for sentence in unused(file.path for file in listed):
            log.warning("%s", sentence)
        _check_sizes(listed)
        self._check_room(listed)

    def _check_digest(self, record: Deployment) -> None:
        if self._settings.transfer.require_digest == "yes" and not record.pinned.expected_digest:
            raise DigestMissing(
                f"Training recorded no digest of version {record.version} (tag {DIGEST_TAG}), and TRITON_DEPLOY_REQUIRE_DIGEST demands it.",
                hint="Register a new version with its digest in that tag, as ml_code/train_model.py does: see docs/training.md.",
            )

    def _check_room(self, files: Iterable[RemoteFile]) -> None:
        size = refuse_too_large(files, self._settings)
        free = self._staging.free_bytes()
        if free < size + self._settings.transfer.min_free_bytes:
            raise StorageFailed(
                f"The model repository has {free} bytes free; the artifact needs {size} and {self._settings.transfer.min_free_bytes} must remain (TRITON_DEPLOY_MIN_FREE_BYTES).",
                hint="Free space on the model repository's file system, then deploy again.",
            )

    def _check_installed(self, record: Deployment, installed: Manifest) -> None:
        refuse_another(record.model, record.pinned, installed)
        if not has_content_of(installed, record.pinned):
            raise ArtifactRejected(
                f"Version {record.version} is in the repository with other content than MLflow has now.",
                hint="A version never changes: register the new files as a new version.",
            )
        refuse_breaking(self._versions, record, installed.offer)

    def _write_smoke_case(self, staging: Path, schema: Schema) -> FileEntry:
        # Smoke cases need numpy, and the snapshot, which imports this module, does not.
        from ..model import derived_case, smoke_case

        given = _read_text(staging / GOLDEN)
        if given is not None:
            case = smoke_case.parse_case(given, schema)
        else:
            # The lease is not renewed meanwhile; the deadline is far below it.
            limits = Limits.of(self._settings)
            example = _read_text(staging / SERVING_EXAMPLE)
            case = derived_case.derive_case(staging / MODEL_FILE, schema, example, limits)
            log.info(
                "the model was logged without golden inputs; it is tried with %s",
                smoke_case.told(case.source),
            )
        data = case.to_json().encode()
        with storage_errors(f"writing {staging / SMOKE_CASE}"):
            (staging / SMOKE_CASE).write_bytes(data)
        return FileEntry(path=SMOKE_CASE, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _is_trusted(installed: Manifest, record: Deployment, released: Callable[[], bool]) -> bool:
    """Whether an installed directory is this deployment's own, or of a version that was live before."""
    return installed.deploy_id == record.deploy_id or released()


def refuse_breaking(versions: Versions, record: Deployment, offer: Offer) -> None:
    """Raise SchemaChanged when an offer would break clients of the live version, unless that is allowed."""
    if record.base_version is None:
        return
    try:
        live = versions.require(record.base_version)
    except (NotFound, StorageFailed) as error:
        # A live version whose files are gone needs a replacement all the more.
        log.warning("whether clients of version %s would break is not known: %s", record.base_version, error)
        return
    changes = breaking_offer(live.offer, offer)
    if changes and not record.allow_schema_change:
        raise SchemaChanged(
            f"Clients of version {record.base_version} would break: {'; '.join(changes)}.",
            hint="Change the clients first, then deploy with allow_schema_change; or keep the model's inputs and outputs.",
        )


def refuse_quarantined(quarantine: Quarantine, *, digest: str = "", fingerprint: str = "") -> None:
    """Raise Quarantined when an artifact of this digest or fingerprint failed before by its own fault."""
    for path, failure in quarantine.failures():
        same = (digest and failure.get("digest") == digest) or (
            fingerprint and failure.get("fingerprint") == fingerprint
        )
        if same and failure.get("blames_artifact"):
            raise Quarantined(
                f"This artifact failed before, at {failure.get('step')}: {failure.get('error')} It is in quarantine at {path}.",
                hint="Register a repaired version; to try the same files again, deploy with force.",
            )


def _check_sizes(files: Iterable[RemoteFile]) -> None:
    for file in files:
        if file.size_bytes > MOST_BYTES.get(file.path, file.size_bytes):
            raise ArtifactRejected(
                f"{file.path} has {file.size_bytes} bytes, more than the {MOST_BYTES[file.path]} that are read.",
                hint="Log the model again with a smaller one.",
            )


def _read_text(path: Path) -> str | None:
    """Return the text of a staged file, or None when the artifact has no such file."""
    with storage_errors(f"reading {path}"):
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _read_json(path: Path) -> Any:
    text = _read_text(path)
    try:
        return {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactRejected(
            f"{OPTIONS} of the model version is not JSON: {error}.",
            hint="Correct it and log the model again.",
        ) from error
