"""Origins: the deployment that brought a directory, and the reason why it failed, as the journal has them.

The author of a model names the other files of a version's directory, and earlier code let such files have
the names of ours. So ``manifest.json`` and ``failure.json`` are only hints to a deployment, and that
deployment's record counts.

When the journal no longer has the record, the two files count, as long as they agree. The deployer wrote
the manifest last into every directory that it installed, and ``failure.json`` last into every directory
that it quarantined before installing it, each over the model's own file. So one of the two is the
deployer's, and a forged one beside it would have to say the same. A quarantined artifact thus stays
refused as long as its directory is there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from ..rules.deployment import Deployment, Failure
from ..rules.names import is_deploy_id
from ..storage import storage_errors
from .journal import Journal

MANIFEST = "manifest.json"
FAILURE = "failure.json"
MAX_BYTES = 64 << 20
"""A larger file is neither of these two."""

IN_BOTH_FILES = ("version", "deploy_id", "digest", "fingerprint")


class Origins:
    """Looks up the origins of one model's directories.

    Args:
        journal: the model's deployments.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def installing_deployment(self, path: Path) -> str:
        """Return the deployment that installed a version's directory; empty when that is not known."""
        deploy_id = _named_deployment(path, MANIFEST)
        record = self._find(deploy_id)
        return deploy_id if record is None or record.version == _version(path) else ""

    def failed_deployment(self, path: Path) -> str:
        """Return the deployment that brought a quarantined directory; empty when that is not known."""
        record = self._record_of(path)
        if record is not None:
            return record.deploy_id
        named = {_named_deployment(path, name) for name in (MANIFEST, FAILURE) if (path / name).is_file()}
        return named.pop() if len(named) == 1 else ""

    def failure(self, path: Path) -> Mapping[str, Any] | None:
        """Return the reason of a quarantined directory, as ``failure_content`` has it; None if not known."""
        record, written = self._record_of(path), _written_failure(path)
        if record is None:
            return written
        if record.failure is None or _is_leftover(path, record):
            return None
        return failure_content(
            record, record.failure, record.digest or str((written or {}).get("digest", ""))
        )

    def _record_of(self, path: Path) -> Deployment | None:
        """Return the record of the deployment that brought a quarantined directory.

        First choice is the deployment whose record names the directory, second a deployment that the
        directory's files name.
        """
        named = [self._find(_named_deployment(path, name)) for name in (MANIFEST, FAILURE)]
        known = [record for record in named if record and record.version == _version(path)]
        for record in chain(known, self._journal.readable()):
            if record.quarantine == path.name and record.version == _version(path):
                return record
        # The process died before it recorded the directory's name, or earlier code did not find its own
        # directory again.
        unnamed = (record for record in known if not record.quarantine or _is_leftover(path, record))
        return next(unnamed, None)

    def _find(self, deploy_id: str) -> Deployment | None:
        return self._journal.find_readable(deploy_id) if deploy_id else None


def failure_content(record: Deployment, failure: Failure, digest: str) -> dict[str, Any]:
    """Return the content of ``failure.json``, which tells people why a deployment failed.

    Args:
        record: the deployment.
        failure: the reason.
        digest: digest of the files that the deployment brought, or empty when it is not known.
    """
    return {
        **asdict(failure),
        "model": record.model,
        "version": record.version,
        "deploy_id": record.deploy_id,
        "digest": digest,
        "fingerprint": record.pinned.fingerprint,
        "artifact_uri": record.pinned.artifact_uri,
        "run_id": record.pinned.run_id,
        "smoke": dict(record.smoke),
    }


def leftover_name(version: int, deploy_id: str) -> str:
    """Return the quarantined name of a leftover: see Quarantine.add_leftover."""
    return f"{version}.failed_{deploy_id}"


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None when the file is missing or holds something else.

    Raises:
        StorageFailed: the file can't be read.
    """
    with storage_errors(f"reading {path}"):
        data = path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_BYTES else b""
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
        return content if isinstance(content, dict) else None
    return None


def _is_leftover(path: Path, record: Deployment) -> bool:
    return path.name != record.quarantine and path.name == leftover_name(record.version, record.deploy_id)


def _named_deployment(path: Path, name: str) -> str:
    """Return the deployment that a file of a directory names, if the file is of the directory's version."""
    return _deployment_in(read_json_object(path / name), path)


def _deployment_in(content: Mapping[str, Any] | None, path: Path) -> str:
    if content is None or content.get("version") != _version(path):
        return ""
    deploy_id = content.get("deploy_id")
    return deploy_id if isinstance(deploy_id, str) and is_deploy_id(deploy_id) else ""


def _written_failure(path: Path) -> Mapping[str, Any] | None:
    """Return the content of ``failure.json`` if it is of this version and no manifest beside it disagrees."""
    written, manifest = read_json_object(path / FAILURE), read_json_object(path / MANIFEST)
    if written is None or not _deployment_in(written, path):
        return None
    differs = manifest is not None and any(manifest.get(name) != written.get(name) for name in IN_BOTH_FILES)
    return None if differs else written


def _version(path: Path) -> int | None:
    digits = path.name.partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else None
