"""Reads one file that this package wrote; what is wrong with it is an error of that one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import StorageFailed
from ..storage import storage_failed

T = TypeVar("T")


def read_record(path: Path, decode: Callable[[str], T], what: str, hint: str) -> T:
    """Return what a file holds.

    Args:
        path: the file.
        decode: makes a record of its text; raises ValueError when it is not one.
        what: what the file is, for messages: ``The release record``.
        hint: what to do when the file holds something else.

    Raises:
        FileNotFoundError: there is no such file.
        StorageFailed: it can't be read, or it is not such a record; the message names it.
    """
    try:
        return decode(path.read_text(encoding="utf-8"))
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
