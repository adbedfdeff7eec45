"""Writes that survive a power cut: a function returns only when its result, old or new, is on disk.

The order is the classic one: write a temporary file, fsync it, rename or link it into place, fsync the
directory. Without the first fsync a crash can leave an empty file under the final name; without the
second it can lose the name.

A process that is killed between the last two steps leaves a name that every process sees and that a power
cut can still take away. So a process that finds its work done syncs the directory before it builds on
that. A file whose fsync failed is not synced again, because the second call may succeed although the data
are gone: it is removed and written anew.
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
"""Mode of every file: Triton may run as another user, and has to read them."""

OPEN_ELSEWHERE = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)
"""Errors of removing a directory and its ``.nfs…`` files on NFS while a process has one of the files open."""


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents, durably; an existing directory is fine."""
    if path.is_dir():
        # A non-empty directory was already synced by the call that created it for the first entry.
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
    """Write ``text`` to a new, synced file beside ``path``, and return that file's path."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        _write_synced(fd, text)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _write_synced(fd: int, text: str) -> None:
    """Write ``text`` to an open file, sync it, and close it."""
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), FILE_MODE)
        os.fsync(file.fileno())


TEMPORARY = re.compile(r"\.([a-z]+\.pbtxt|[a-z]+\.json|[0-9]+\.json|[0-9]+)\.[0-9a-f]{8}\.tmp")
"""Names of the files that ``write_temporary`` and ``point`` write before they rename them."""


def is_temporary(path: Path) -> bool:
    """Whether a path has the name of a temporary file, which an interrupted write leaves behind."""
    return TEMPORARY.fullmatch(path.name) is not None


def replace_file(path: Path, text: str) -> None:
    """Put ``text`` under ``path``: a reader sees the old content or the new, never a part of either."""
    _rename_into_place(write_temporary(path, text), path)


def replace_within(directory: int, name: str, text: str) -> None:
    """Put ``text`` under a name in an open directory, wherever that is by now, as ``replace_file`` does."""
    temporary = f".{name}.{secrets.token_hex(4)}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE, dir_fd=directory)
    try:
        _write_synced(fd, text)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def ensure_content(path: Path, text: str) -> None:
    """Make ``path`` hold ``text``; a file that holds it already is not touched, so its times stay."""
    # An empty folder in the file's place can go. The content is compared as bytes, because it need not be
    # text.
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(OSError):
            path.rmdir()
    if not path.is_file() or path.read_bytes() != text.encode():
        replace_file(path, text)
    else:
        fsync_directory(path.parent)


def create_file(path: Path, text: str) -> bool:
    """Put ``text`` under ``path`` unless the name is taken: one winner among any number of writers.

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
        # NFS may report a failure for a link that was made: the answer was lost, and the retry found the
        # link. The link count of the temporary file tells. See link(2), NOTES, and open(2) on O_EXCL.
        if temporary.stat().st_nlink != 2:
            raise
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return created


def point(link: Path, target: str) -> None:
    """Make a symbolic link lead to ``target``, with one rename; a link that does already is not touched."""
    if link.is_symlink() and os.readlink(link) == target:
        fsync_directory(link.parent)
        return
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(target)
    _rename_into_place(temporary, link)


def _rename_into_place(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def rename(source: Path, target: Path) -> None:
    """Rename within one file system; both directories are synced."""
    source.rename(target)
    fsync_directory(target.parent)
    if source.parent != target.parent:
        fsync_directory(source.parent)


def remove_tree(path: Path) -> bool:
    """Remove a directory, also while another process removes it.

    Returns:
        False when files are left that a process has open: NFS keeps them as ``.nfs…`` until they are closed.

    Raises:
        OSError: a file can't be removed for another reason; all others are removed.
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
        # Without this, os.walk skips a directory that can't be read, and the directory stays unsynced.
        raise error

    for folder, _, names in os.walk(root, onerror=refuse):
        for name in names:
            fd = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        fsync_directory(Path(folder))
