"""Errors of a file system as a user reads them: which file, why, and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from .errors import DeployError, StorageFailed


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into StorageFailed.

    Args:
        doing: the work of the block, as it reads after "while": ``writing /models/…``.
    """
    try:
        yield
    except OSError as error:
        raise storage_failed(error, doing) from error


def storage_failed(error: OSError, doing: str) -> DeployError:
    """Return the StorageFailed for an OSError, with advice by its errno; see ``storage_errors``."""
    hints = {
        errno.ENOSPC: "Free space on the model repository's file system, then deploy again.",
        errno.EDQUOT: "Raise the quota of the model repository, then deploy again.",
        errno.EROFS: "Mount the model repository read-write for the deployer.",
        errno.EACCES: "Let the deployer's user write the model repository (same group on every worker).",
        errno.EPERM: "Let the deployer's user write the model repository (same group on every worker).",
    }
    place = f" ({error.filename})" if error.filename and str(error.filename) not in doing else ""
    return StorageFailed(
        f"The model repository failed while {doing}: {error.strerror or error}{place}.",
        hint=hints.get(error.errno or 0, "Check the model repository's file system and mount."),
    )
