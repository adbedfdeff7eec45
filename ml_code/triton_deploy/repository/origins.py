"""Which deployment brought a directory, and why it failed: as the journal has it.

The other files of a version's directory were named by whoever made the model, and earlier code let them have the names of ours. So what
``manifest.json`` and ``failure.json`` say is a hint to a deployment, and what counts is that deployment's record.

Only when the journal does not have it any more do the two files count, as long as they say the same: the deployer wrote the manifest last into
whatever it installed, and ``failure.json`` last into what it put aside before that, each over what was there, so of the two one is ours,
and a forged one beside it would have to say what that one says. A quarantined artifact so stays refused as long as its directory is there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import StorageFailed
from ..rules.deployment import Deployment, Failure
from ..rules.names import is_deploy_id
from ..storage import storage_errors
from .journal import Journal

MANIFEST = "manifest.json"
FAILURE = "failure.json"
MAX_BYTES = 64 << 20
"""What is larger is none of these two files."""

IN_BOTH_FILES = ("version", "deploy_id", "digest", "fingerprint")


class Origins:
    """Tells of the directories of one model where they come from.

    Args:
        journal: the model's deployments.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def installing_deployment(self, path: Path) -> str:
        """Return the deployment that installed a version's directory; empty when nothing of ours says which."""
        deploy_id = _named_deployment(read_json_object(path / MANIFEST), path)
        record = self._find(deploy_id)
        return deploy_id if record is None or record.version == _version(path) else ""

    def failed_deployment(self, path: Path) -> str:
        """Return the deployment that brought what is in a quarantined directory; empty when nothing of ours says which."""
        record = self._record_of(path)
        if record is not None:
            return record.deploy_id
        claims = {
            name: _named_deployment(read_json_object(path / name), path)
            for name in (MANIFEST, FAILURE)
            if (path / name).is_file()
        }
        return claims.popitem()[1] if len(set(claims.values())) == 1 else ""

    def failure(self, path: Path) -> Mapping[str, Any] | None:
        """Return why a quarantined directory was put aside, as failure_content has it; None when nothing of ours says why."""
        record, written = self._record_of(path), _written_failure(path)
        if record is None:
            return written
        if record.failure is None or _is_leftover(path, record):
            return None
        return failure_content(
            record, record.failure, record.digest or str((written or {}).get("digest", ""))
        )

    def _record_of(self, path: Path) -> Deployment | None:
        """Return the record of the deployment that brought a quarantined directory: the one that names it, else one that the files name."""
        known = [
            record
            for record in map(self._find, _named_deployments(path))
            if record and record.version == _version(path)
        ]
        for record in chain(known, self._all()):
            if record.quarantine == path.name and record.version == _version(path):
                return record
        # It died before it recorded the name, or earlier code did not find its own directory again.
        unnamed = (record for record in known if not record.quarantine or _is_leftover(path, record))
        return next(unnamed, None)

    def _all(self) -> Iterator[Deployment]:
        for deploy_id in self._journal.ids():
            record = self._find(deploy_id)
            if record is not None:
                yield record

    def _find(self, deploy_id: str) -> Deployment | None:
        # One that can't be read is as good as gone: it is told where it is needed itself.
        with contextlib.suppress(StorageFailed):
            return self._journal.find(deploy_id) if deploy_id else None
        return None


def failure_content(record: Deployment, failure: Failure, digest: str) -> dict[str, Any]:
    """Return what ``failure.json`` tells people of a deployment that failed.

    Args:
        record: the deployment.
        failure: why it failed.
        digest: digest of what it brought, or empty when that is not known.
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
    """Return the name of a directory that a deployment left which was rolled back before: see Versions.set_aside."""
    return f"{version}.failed_{deploy_id}"


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None when there is no such file or it holds something else; raises StorageFailed."""
    with storage_errors(f"reading {path}"):
        data = path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_BYTES else b""
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
        return content if isinstance(content, dict) else None
    return None


def _is_leftover(path: Path, record: Deployment) -> bool:
    return path.name != record.quarantine and path.name == leftover_name(record.version, record.deploy_id)


def _named_deployments(path: Path) -> list[str]:
    """Return the deployments that the files in a directory name, the manifest's first."""
    found = (_named_deployment(read_json_object(path / name), path) for name in (MANIFEST, FAILURE))
    return list(dict.fromkeys(filter(None, found)))


def _named_deployment(content: Mapping[str, Any] | None, path: Path) -> str:
    """Return the deployment that a file in a directory names, or empty when it names none of this version."""
    deploy_id = (content or {}).get("deploy_id")
    of_this = content is not None and content.get("version") == _version(path)
    return deploy_id if of_this and isinstance(deploy_id, str) and is_deploy_id(deploy_id) else ""


def _written_failure(path: Path) -> Mapping[str, Any] | None:
    """Return what ``failure.json`` says, unless it says nothing of this version or a manifest beside it says something else."""
    written, manifest = read_json_object(path / FAILURE), read_json_object(path / MANIFEST)
    if written is None or not _named_deployment(written, path):
        return None
    differs = manifest is not None and any(manifest.get(name) != written.get(name) for name in IN_BOTH_FILES)
    return None if differs else written


def _version(path: Path) -> int | None:
    digits = path.name.partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else None
