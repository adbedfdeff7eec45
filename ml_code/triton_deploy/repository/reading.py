"""Reading of this package's files: which error means that a file is gone, damaged, or not known.

- ``FileNotFoundError``: the file is gone. The caller decides whether that is an error.
- ``StorageFailed`` that names the file: it is damaged. It holds something else, or is a directory.
- ``StorageFailed`` for which ``is_disk_failure`` is true: the disk fails. The file may be whole.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import StorageFailed
from ..storage import storage_errors, storage_failed

T = TypeVar("T")


def read_record(
    path: Path, decode: Callable[[str], T], what: str, hint: str, text: Callable[[], str] | None = None
) -> T:
    """Return the record in a file.

    Args:
        path: the file.
        decode: makes a record of the text; raises ValueError when the text is not one.
        what: name of the record for messages: ``The release record``.
        hint: advice to the user when the file holds something else.
        text: reads the file as UTF-8; by default by its path.

    Raises:
        FileNotFoundError: there is no such file.
        StorageFailed: the file can't be read, or holds no such record; the message names the file.
    """
    try:
        return decode(text() if text else path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise StorageFailed(f"{what} {path} can't be read: it is a directory.", hint=hint) from error
    except UnicodeDecodeError as error:
        raise StorageFailed(f"{what} {path} can't be read: it is not UTF-8 text.", hint=hint) from error
    except ValueError as error:
        raise StorageFailed(f"{what} {path} can't be read: {error}.", hint=hint) from error
    except OSError as error:
        raise storage_failed(error, f"reading {path}") from error


def read_existing_record(
    path: Path, decode: Callable[[str], T], what: str, hint: str, text: Callable[[], str] | None = None
) -> T:
    """Return the record in a file that must be there; see ``read_record``.

    Raises:
        StorageFailed: the file is gone, can't be read, or holds no such record; the message names the file.
    """
    try:
        return read_record(path, decode, what, hint, text)
    except FileNotFoundError as error:
        raise StorageFailed(f"{what} {path} is gone.", hint=hint) from error


def is_gone(error: OSError) -> bool:
    """Whether an error of the system means that a path leads to nothing; other errors leave that open."""
    return error.errno in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)


def is_disk_failure(error: StorageFailed) -> bool:
    """Whether a read failed because the disk did (EIO): then the file may be whole."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO


def matching_paths(folder: Path, pattern: str) -> list[Path]:
    """Return the paths below a folder that match a glob pattern, sorted.

    Raises:
        StorageFailed: the folder can't be listed.
    """
    with storage_errors(f"listing {folder}"):
        return sorted(folder.glob(pattern))
