"""The lease: one deploy of a model at a time.

A lease is a numbered file, created with put-if-absent, and the highest number is in force. So of two
deployers that want a free lease exactly one wins, and the other notices. An expired lease is not free
before its deployment was settled. The lease saves wasted work and keeps two candidates apart. The
generation's own file guards a release (see releases.py).

Expiry compares the wall clocks of the hosts. A clock that jumps can end a lease early, which is harmless
because a fence precedes every effect. Or it can end a lease late: an expiry that lies further ahead than
the lease's duration is not believed.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from ..errors import LeaseHeld, StorageFailed, Superseded
from ..rules import reader
from ..rules.moments import utc_text
from ..rules.names import is_deploy_id
from ..rules.reader import Moment
from ..storage import storage_errors
from . import durable
from .reading import read_record

CLOCK_SKEW_S = 60.0
"""Allowed difference between the clocks of two hosts, seconds.

A lease that ends later than that was written by a wrong clock.
"""

GIVEN_BACK = "{}"
"""Content of the file of a lease that was given back."""

FRESH = 0.9
"""A lease is not renewed while it has more than this share of its duration left."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    deploy_id: str
    holder: str
    expires_at_utc: Moment
    duration_s: float

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """Read a lease; None when the text has none of these fields: the lease was given back."""
        data = reader.parsed(text)
        return reader.record(data, cls) if data.keys() & cls.__dataclass_fields__.keys() else None

    def left_s(self, now: datetime) -> float:
        return (datetime.fromisoformat(self.expires_at_utc) - now).total_seconds()

    def in_force(self, now: datetime) -> bool:
        return 0 < self.left_s(now) <= self.duration_s + CLOCK_SKEW_S


STAGING = ".staging-lease."
"""Prefix of the files of the staging Triton's lease. They lie in the model repository itself, where Triton
takes every folder for a model and ignores files."""


class Lease:
    """The lease of one model, or of the staging Triton.

    Args:
        folder: directory of the lease's files.
        model: name for messages.
        prefix: prefix of the files' names.
    """

    def __init__(self, folder: Path, model: str, prefix: str = "") -> None:
        self._folder = folder
        self._model = model
        self._prefix = prefix

    def acquire(self, deploy_id: str, now: datetime, duration_s: float) -> None:
        """Take the lease for a deployment, or renew it if the deployment has it.

        Args:
            deploy_id: the deployment.
            now: aware time.
            duration_s: duration of the lease without a renewal, seconds.

        Raises:
            LeaseHeld: another deployment has the lease, perhaps an expired one. The process that settles
                that deployment gives the lease back, so no deployment takes over from one that was not
                settled.
            Superseded: another deployment has just taken the lease.
            StorageFailed: the lease can't be written.
        """
        with storage_errors(f"taking the lease of {self._model}"):
            durable.make_directory(self._folder)
            number, text = self._newest()
            held = self._held(number, text)
            mine = _Held(
                deploy_id=deploy_id,
                holder=_this_process(),
                expires_at_utc=utc_text(now + timedelta(seconds=duration_s)),
                duration_s=duration_s,
            )
            if held and held.deploy_id == deploy_id:
                kept = reader.keeping(asdict(mine), text, _Held)
                durable.replace_file(self._path(number), json.dumps(kept))
                if self._numbers()[-1] != number:
                    raise self._lost(deploy_id)
                return
            if held or not durable.create_file(self._path(number + 1), json.dumps(asdict(mine))):
                raise self.refusal()
            for old in self._numbers()[:-2]:
                self._path(old).unlink(missing_ok=True)

    def renew(self, deploy_id: str, now: datetime, duration_s: float) -> None:
        """Prolong the lease that a deployment holds; this is the fence in front of every effect.

        A lease that this process has just renewed is only read, because a durable write costs milliseconds.

        Raises:
            Superseded: the deployment has lost the lease.
        """
        _, held = self._latest()
        if held is None or held.deploy_id != deploy_id:
            raise self._lost(deploy_id)
        fresh = held.duration_s == duration_s and FRESH * duration_s < held.left_s(now) <= duration_s
        if not fresh or held.holder != _this_process():
            self.acquire(deploy_id, now, duration_s)

    def require(self, deploy_id: str) -> None:
        """Raise Superseded unless the deployment holds the lease. Writes nothing."""
        _, held = self._latest()
        if held is None or held.deploy_id != deploy_id:
            raise self._lost(deploy_id)

    def release(self, deploy_id: str) -> None:
        """Give the lease back; another deployment's lease stays as it is."""
        number, held = self._latest()
        if held and held.deploy_id == deploy_id:
            with storage_errors(f"giving back the lease of {self._model}"):
                durable.replace_file(self._path(number), GIVEN_BACK)

    def last(self, now: datetime) -> tuple[str | None, bool]:
        """Return the deployment that still has the lease, or None, and whether that lease is in force."""
        _, held = self._latest()
        return (held.deploy_id, held.in_force(now)) if held else (None, False)

    def refusal(self) -> LeaseHeld:
        """Return the error for a caller that wants the lease while another deployment has it."""
        _, held = self._latest()
        who = f"Deployment {held.deploy_id} ({held.holder})" if held else "Another deployment"
        return LeaseHeld(
            f"{who} is deploying {self._model}"
            + (f"; its lease ends at {held.expires_at_utc}." if held else "."),
            hint="Try again when it has ended. If it is not to go on, this undoes it at once: "
            f"triton-deploy rollback {self._model} --deploy-id {held.deploy_id if held else '…'}.",
        )

    def _lost(self, deploy_id: str) -> Superseded:
        _, held = self._latest()
        return Superseded(
            f"{deploy_id} lost its lease of {self._model}" + (f" to {held.deploy_id}." if held else "."),
            hint="It was silent for too long or was rolled back. Nothing is lost; start it anew.",
        )

    def _latest(self) -> tuple[int, _Held | None]:
        number, text = self._newest()
        return number, self._held(number, text)

    def _newest(self) -> tuple[int, str]:
        """Return the number and the text of the file in force.

        Without a file, that is 0 and the text of a lease that was given back.
        """
        with storage_errors(f"reading the lease of {self._model}"):
            while numbers := self._numbers():
                path = self._path(numbers[-1])
                try:
                    return numbers[-1], read_record(path, str, "The lease", self._advice)
                except FileNotFoundError:
                    # A later file has replaced it, unless it is a link that leads nowhere: that one would
                    # stay for ever.
                    if path.is_symlink():
                        raise StorageFailed(
                            f"The lease {path} is a link that leads nowhere.", hint=self._advice
                        ) from None
            return 0, GIVEN_BACK

    def _held(self, number: int, text: str) -> _Held | None:
        try:
            held = _Held.from_json(text)
            # A holder of the staging Triton's lease is written as MODEL:DEPLOY_ID.
            if held and not is_deploy_id(
                held.deploy_id.rpartition(":")[2] if self._prefix else held.deploy_id
            ):
                raise ValueError(f"{held.deploy_id!r} is not the id of a deployment")
            return held
        except ValueError as error:
            raise StorageFailed(
                f"The lease {self._path(number)} can't be read: {error}.", hint=self._advice
            ) from error

    @property
    def _advice(self) -> str:
        return (
            f"Nobody can tell which deployment of {self._model} is under way. Make sure that none is, move the file away, "
            f"and run 'triton-deploy reconcile': it takes out what that deployment left in Triton."
        )

    def _numbers(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        names = (path.stem.removeprefix(self._prefix) for path in self._folder.glob(f"{self._prefix}*.json"))
        return sorted(int(name) for name in names if name.isdigit())

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}{number:06d}.json"


def _this_process() -> str:
    """Return the host and process id of this process, for a person who has to find the holder of a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"
