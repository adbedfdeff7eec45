"""Writes that survive a power cut: every function returns only when what it did, or found done, is on disk.

The order is the classic one: write a temporary file, fsync it, rename or link it into place, fsync the directory. Without
the first fsync a crash can leave an empty file under the final name; without the second it can lose the name.

A process that is killed between the last two leaves a name that everybody sees and that a power cut can still take away. So
whoever finds his work done syncs the directory before he builds on it. A file whose fsync failed is not synced again, because the second
call may succeed although the data are gone: it is removed and written anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from pathlib import Path

FILE_MODE = 0o644
"""Triton may run as another user: what it has to read must not be private."""

OPEN_ELSEWHERE = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)
"""What removing a directory and its ``.nfs…`` files fails with on NFS while a process has one of its files open."""


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents, durably; an existing one is fine."""
    if path.is_dir():
        # What is in it was put there by somebody for whom this function had returned.
        with os.scandir(path) as entries:
            empty = next(entries, None) is None
        if empty:
            fsync_directory(path.parent)
        return
    make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o755)
    fsync_directory(path.parent)


def write_temporary(path: Path, text: str) -> Path:
    """Write ``text`` to a new, synced file beside ``path`` and return where."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), FILE_MODE)
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


TEMPORARY = re.compile(r"\.([a-z]+\.pbtxt|[a-z]+\.json|[0-9]+\.json|[0-9]+)\.[0-9a-f]{8}\.tmp")
"""Names of what ``write_temporary`` and ``point`` write before it gets its name."""


def is_temporary(path: Path) -> bool:
    """Whether something has the name of what a write of this package leaves when it never ends."""
    return TEMPORARY.fullmatch(path.name) is not None


def replace_file(path: Path, text: str) -> None:
    """Put ``text`` under ``path``: a reader sees the old content or the new, never a part."""
    temporary = write_temporary(path, text)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def ensure_content(path: Path, text: str) -> None:
    """Make ``path`` hold ``text``; a file that does already is not touched, so its times stay."""
    # By bytes: what lies there may be anything. A folder with nothing in it is nobody's loss.
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(OSError):
            path.rmdir()
    if not path.is_file() or path.read_bytes() != text.encode():
        replace_file(path, text)
    else:
        fsync_directory(path.parent)


def create_file(path: Path, text: str) -> bool:
    """Put ``text`` under ``path`` unless something is there: one winner among any number of writers.

    Uses ``link(2)``, which is atomic on local file systems and on NFS.

    Returns:
        True when this call created the file, False when it existed.
    """
    temporary = write_temporary(path, text)
    created = True
    try:
        os.link(temporary, path)
    except FileExistsError:
        created = False
    except OSError:
        # NFS may report a failure for a link that was made (the answer was lost, the retry found it): the link
        # count of our own file tells. See link(2), NOTES, and open(2) on O_EXCL.
        if temporary.stat().st_nlink != 2:
            raise
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return created


def point(link: Path, target: str) -> None:
    """Make a symbolic link lead to ``target``, with one rename; one that does already is not touched."""
    if link.is_symlink() and os.readlink(link) == target:
        fsync_directory(link.parent)
        return
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(target)
    try:
        temporary.replace(link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(link.parent)


def rename(source: Path, target: Path) -> None:
    """Rename within one file system, durably on both ends."""
    source.rename(target)
    fsync_directory(target.parent)
    if source.parent != target.parent:
        fsync_directory(source.parent)


def remove_tree(path: Path) -> bool:
    """Remove a directory that nobody needs any more, also while others remove it.

    Returns:
        False when something is left that a process has open: NFS keeps its files as ``.nfs…`` until they are closed.

    Raises:
        OSError: it can't be removed for another reason; what could be removed is.
    """
    refused: list[OSError] = []

    def refuse(function: object, name: str, raised: tuple[object, BaseException, object]) -> None:
        error = raised[1]
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, *OPEN_ELSEWHERE):
            refused.append(error)

    shutil.rmtree(path, onerror=refuse)
    if refused:
        raise refused[0]
    return not path.exists()


def fsync_tree(root: Path) -> None:
    """Sync every file and directory below ``root``, and ``root`` itself."""

    def refuse(error: OSError) -> None:
        # Without this, os.walk passes over a directory that can't be read, and it stays unsynced.
        raise error

    for folder, _, names in os.walk(root, onerror=refuse):
        for name in names:
            fd = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        fsync_directory(Path(folder))
