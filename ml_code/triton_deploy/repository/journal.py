"""The journal of a deployment: one small file for each fact, never rewritten.

A fact is added with put-if-absent under the next number. So a worker that was stopped and wakes up can't
overwrite the decision that a rollback made meanwhile: its own next fact finds the number taken.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DeployError, NotFound, StorageFailed, Superseded
from ..rules.deployment import Deployment
from ..rules.names import check_deploy_id, is_deploy_id
from ..rules.writer import to_json
from ..storage import storage_errors
from . import durable
from .reading import read_existing_record


class Journal:
    """All deployments of one model.

    Args:
        folder: directory with one sub-directory for each deployment.
        model: name for messages.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._folder = folder
        self._model = model

    def find(self, deploy_id: str) -> Deployment | None:
        """Return the deployment as last recorded, or None when it has no record.

        Raises:
            StorageFailed: the record can't be read.
        """
        entries = self._entries(deploy_id)
        return self._read(entries[-1]) if entries else None

    def find_readable(self, deploy_id: str) -> Deployment | None:
        """Return the deployment as last recorded, or None when it has no record that can be read.

        For a search among all deployments: the caller that needs this one gets the error.
        """
        with contextlib.suppress(DeployError):
            return self.find(deploy_id)
        return None

    def get(self, deploy_id: str) -> Deployment:
        """Return the deployment as last recorded; raises NotFound when it has no record."""
        record = self.find(deploy_id)
        if record is None:
            raise NotFound(
                f"There is no deployment {deploy_id} of {self._model}.",
                hint="Run the snapshot step first, with the same deploy id.",
            )
        return record

    def sync(self, deploy_id: str) -> None:
        """Make a deployment's record durable, before the caller acts on it.

        The process that wrote the record may have been killed before it synced the directory.
        """
        folder = self._folder / check_deploy_id(deploy_id)
        with storage_errors(f"syncing {folder}"):
            durable.fsync_directory(folder)

    def append(self, record: Deployment, after: Deployment | None) -> Deployment:
        """Add a fact.

        Args:
            record: the deployment with the new fact.
            after: the last record as far as the caller knows; None to begin.

        Returns:
            ``record``.

        Raises:
            Superseded: another process has added a fact since.
            StorageFailed: the fact can't be written.
        """
        entries = self._entries(record.deploy_id)
        last = self._read(entries[-1]) if entries else None
        slot = self.path(record.deploy_id) / f"{len(entries) + 1:04d}.json"
        with storage_errors(f"recording that {record.deploy_id} is {record.state}"):
            durable.make_directory(slot.parent)
            before = entries[-1].read_text(encoding="utf-8") if entries else ""
            if last != after or not durable.create_file(slot, to_json(record, before)):
                raise self._superseded(record.deploy_id)
        return record

    def path(self, deploy_id: str) -> Path:
        """Return the directory of a deployment's facts."""
        return self._folder / check_deploy_id(deploy_id)

    def ids(self) -> list[str]:
        """Return the ids of all deployments, sorted; foreign entries are skipped."""
        with storage_errors(f"listing {self._folder}"):
            names = sorted(os.listdir(self._folder)) if self._folder.is_dir() else []
        return list(filter(is_deploy_id, names))

    def all(self) -> Iterator[Deployment]:
        """Yield every deployment as last recorded, by id.

        Raises:
            StorageFailed: a record can't be read.
        """
        return self._records(self.find)

    def readable(self) -> Iterator[Deployment]:
        """Yield every deployment whose record can be read, by id; see ``find_readable``."""
        return self._records(self.find_readable)

    def _records(self, find: Callable[[str], Deployment | None]) -> Iterator[Deployment]:
        for deploy_id in self.ids():
            record = find(deploy_id)
            if record is not None:
                yield record

    def _entries(self, deploy_id: str) -> list[Path]:
        folder = self.path(deploy_id)
        with storage_errors(f"listing {folder}"):
            return sorted(folder.glob("[0-9]*.json")) if folder.is_dir() else []

    def _read(self, path: Path) -> Deployment:
        hint = "Restore it from a backup, or move its folder away after you have checked what serves with 'triton-deploy status'."
        record = read_existing_record(path, Deployment.from_json, "The deployment record", hint)
        if (record.deploy_id, record.model) != (path.parent.name, self._model):
            raise StorageFailed(
                f"The deployment record {path} is that of {record.deploy_id} of {record.model}.", hint=hint
            )
        return record

    def _superseded(self, deploy_id: str) -> Superseded:
        record = self.get(deploy_id)
        return Superseded(
            f"Deployment {deploy_id} of {self._model} was moved to {record.state} by somebody else.",
            hint="Nothing is lost; look at 'triton-deploy status' and start a new deploy if you still want it.",
        )
