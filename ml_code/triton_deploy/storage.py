"""What an error of a file system is to a user: which file, why, and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from .errors import DeployError, StorageFailed


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into StorageFailed.

    Args:
        doing: what was being done, as it reads after "while": ``writing /models/…``.
    """
    try:
        yield
    except OSError as error:
        raise storage_failed(error, doing) from error


def storage_failed(error: OSError, doing: str) -> DeployError:
    """Return the StorageFailed that tells a user of ``error`` what to do."""
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
