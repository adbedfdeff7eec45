"""The states that a disk may have after a power cut: POSIX's promises are kept, the rest is open.

``Recorder`` notes what an operation does to the files below a folder. ``Disk`` plays that again, call by
call, and says after any of them what the power would leave:

- of a file whose data were not synced since they were written: what was synced last, or nothing, or a part,
or zeros, or all of it; - of the names made and removed in a directory that was not synced since: any of
them, whatever became of the others. Syncing a file does not
  keep its name. A rename is there or not, as a whole.

Modes and times of files are not looked at.
"""

from __future__ import annotations

import itertools
import os
import random
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tests.support.fakes import FakeTriton
from tests.support.faults.killed_process import Killer
from tests.support.faults.system_calls import Call

HARMLESS = {"chmod", "fchmod", "chown", "fchown", "lchown", "utime", "close"}
"""Calls that change neither data nor names."""

Tree: TypeAlias = Mapping[str, bytes | str | None]
"""By path: a file's bytes, where a link leads, or None for a directory."""

Op: TypeAlias = tuple[Any, ...]
"""A recorded change: a method of ``Disk``, and its arguments."""


class Recorder(Killer):
    """Records the changes below ``root``; kills as a Killer does."""

    def __init__(self, triton: FakeTriton, root: Path, at: int = 1 << 30) -> None:
        super().__init__(triton, at)
        self._root = str(root)
        self._handles = itertools.count()
        self._open: dict[int, tuple[int, str]] = {}
        """Handle and path of each open descriptor."""
        self.ops: list[Op] = []
        self.syncs: list[tuple[int, Path]] = []
        """Number of each call that syncs a directory, and which."""

    def _gate(self, call: Call, make: Callable[[], Any]) -> Any:
        if self._elsewhere:
            return make()
        offset = self._offset(call)
        result = super()._gate(call, make)
        if call.name == "fsync" and stat.S_ISDIR(os.fstat(call.args[0]).st_mode):
            self.syncs.append((self.count, Path(self._open[call.args[0]][1])))
        noted = getattr(self, f"_on_{call.name}", None)
        if noted is not None:
            noted(call, result, offset)
        else:
            assert not call.changes or call.name in HARMLESS, f"the model does not know {call}"
        return result

    def _offset(self, call: Call) -> int:
        return os.lseek(call.args[0], 0, os.SEEK_CUR) if call.name == "write" else 0

    def _note(self, name: str, *args: Any) -> None:
        paths = [arg for arg in args if isinstance(arg, str)]
        if all(path.startswith(self._root) for path in paths):
            short = [arg[len(self._root) :].strip("/") if isinstance(arg, str) else arg for arg in args]
            self.ops.append((name, *short))

    def _path(self, call: Call, at: int = 0, directory: str = "dir_fd") -> str:
        fd = call.options.get(directory)
        path = os.fspath(call.args[at])
        return path if fd is None else os.path.join(self._open[fd][1], path)

    def _on_open(self, call: Call, result: Any, offset: int) -> None:
        if not call.changes and not isinstance(result, int):
            return
        fd = result if isinstance(result, int) else result.fileno()
        flags, path = call.args[1], self._path(call)
        handle = next(self._handles)
        self._open[fd] = handle, path
        self._note("open", path, handle, bool(flags & os.O_CREAT), bool(flags & os.O_TRUNC))

    def _on_close(self, call: Call, result: Any, offset: int) -> None:
        self._open.pop(call.args[0], None)

    def _on_write(self, call: Call, result: int, offset: int) -> None:
        fd, data = call.args
        self._note_of(fd, "write", offset, bytes(data)[:result])

    def _on_pwrite(self, call: Call, result: int, offset: int) -> None:
        fd, data, at = call.args
        self._note_of(fd, "write", at, bytes(data)[:result])

    def _on_ftruncate(self, call: Call, result: Any, offset: int) -> None:
        self._note_of(call.args[0], "truncate", call.args[1])

    def _on_fsync(self, call: Call, result: Any, offset: int) -> None:
        self._note_of(call.args[0], "fsync")

    def _note_of(self, fd: int, name: str, *args: Any) -> None:
        handle, path = self._open[fd]
        if path.startswith(self._root):
            self.ops.append((name, handle, *args))

    def _on_link(self, call: Call, result: Any, offset: int) -> None:
        self._note("link", self._path(call, 0, "src_dir_fd"), self._path(call, 1, "dst_dir_fd"))

    def _on_rename(self, call: Call, result: Any, offset: int) -> None:
        self._note("rename", self._path(call, 0, "src_dir_fd"), self._path(call, 1, "dst_dir_fd"))

    _on_replace = _on_rename

    def _on_unlink(self, call: Call, result: Any, offset: int) -> None:
        self._note("remove", self._path(call))

    _on_rmdir = _on_remove = _on_unlink

    def _on_mkdir(self, call: Call, result: Any, offset: int) -> None:
        self._note("mkdir", self._path(call))

    def _on_symlink(self, call: Call, result: Any, offset: int) -> None:
        path = self._path(call, 1)
        if path.startswith(self._root):
            self.ops.append(("symlink", path[len(self._root) :].strip("/"), os.fspath(call.args[0])))


@dataclass(eq=False)
class File:
    data: bytes = b""
    synced: bytes = b""


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Directory:
    entries: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)


Node: TypeAlias = File | Link | Directory
Change: TypeAlias = list[tuple[Directory, str, Node | None]]
"""Names that are made or (None) removed together."""


class Disk:
    """Files as the kernel shows them, and which of it is on the disk for sure.

    Args:
        root: folder whose content is there at the start, all of it synced.
    """

    def __init__(self, root: Path) -> None:
        self._root = self._loaded(root)
        self._pending: list[Change] = []
        self._handles: dict[int, Node] = {}

    def play(self, op: Op) -> None:
        """Play the recorded changes."""
        getattr(self, f"_{op[0]}")(*op[1:])

    def seen(self) -> Tree:
        """Return the files as the kernel shows them: the state after a killed process."""
        return self._tree(lambda folder: folder.entries, lambda file: file.data)

    def certain(self) -> Tree:
        """Return only the synced state."""
        return self._tree(lambda folder: folder.synced, lambda file: file.synced)

    def names_without_data(self) -> Tree:
        """Return all names, with no data in files that were not synced, as ext4 used to leave them."""
        return self._tree(lambda folder: folder.entries, lambda file: file.synced)

    def possible(self, choice: random.Random) -> Tree:
        """Return the synced state and the part of the rest that ``choice`` chooses."""
        survives = choice.choice((0.1, 0.5, 0.9))
        kept: dict[Directory, dict[str, Node]] = {}
        for change in self._pending:
            if choice.random() < survives:
                for folder, name, node in change:
                    _put(kept.setdefault(folder, dict(folder.synced)), name, node)
        return self._tree(lambda folder: kept.get(folder, folder.synced), lambda file: _part(file, choice))

    # What was recorded

    def _open(self, path: str, handle: int, create: bool, truncate: bool) -> None:
        folder, name = self._parent(path)
        if create and name not in folder.entries:
            self._change([(folder, name, File())])
        node = self._node(path)
        if truncate and isinstance(node, File):
            node.data = b""
        self._handles[handle] = node

    def _write(self, handle: int, offset: int, data: bytes) -> None:
        file = self._file(handle)
        before = file.data.ljust(offset, b"\0")
        file.data = before[:offset] + data + before[offset + len(data) :]

    def _truncate(self, handle: int, size: int) -> None:
        file = self._file(handle)
        file.data = file.data[:size].ljust(size, b"\0")

    def _fsync(self, handle: int) -> None:
        node = self._handles[handle]
        if isinstance(node, File):
            node.synced = node.data
            return
        for change in [change for change in self._pending if any(folder is node for folder, _, _ in change)]:
            self._pending.remove(change)
            for folder, name, entry in change:
                _put(folder.synced, name, entry)

    def _link(self, source: str, target: str) -> None:
        self._change([(*self._parent(target), self._node(source))])

    def _rename(self, source: str, target: str) -> None:
        self._change([(*self._parent(target), self._node(source)), (*self._parent(source), None)])

    def _remove(self, path: str) -> None:
        self._change([(*self._parent(path), None)])

    def _mkdir(self, path: str) -> None:
        self._change([(*self._parent(path), Directory())])

    def _symlink(self, path: str, target: str) -> None:
        self._change([(*self._parent(path), Link(target))])

    # How

    def _change(self, change: Change) -> None:
        self._pending.append(change)
        for folder, name, node in change:
            _put(folder.entries, name, node)

    def _file(self, handle: int) -> File:
        node = self._handles[handle]
        assert isinstance(node, File)
        return node

    def _node(self, path: str) -> Node:
        node: Node = self._root
        for part in Path(path).parts:
            assert isinstance(node, Directory)
            node = node.entries[part]
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        folder = self._node(os.path.dirname(path))
        assert isinstance(folder, Directory)
        return folder, os.path.basename(path)

    def _loaded(self, path: Path) -> Directory:
        folder = Directory()
        for entry in path.iterdir():
            if entry.is_symlink():
                folder.entries[entry.name] = Link(os.readlink(entry))
            elif entry.is_dir():
                folder.entries[entry.name] = self._loaded(entry)
            else:
                data = entry.read_bytes()
                folder.entries[entry.name] = File(data, data)
        folder.synced = dict(folder.entries)
        return folder

    def _tree(
        self, entries: Callable[[Directory], Mapping[str, Node]], content: Callable[[File], bytes]
    ) -> Tree:
        # A file with two names has one content.
        chosen: dict[File, bytes] = {}

        def walk(folder: Directory, prefix: str) -> Iterator[tuple[str, bytes | str | None]]:
            for name, node in sorted(entries(folder).items()):
                if isinstance(node, Directory):
                    yield prefix + name, None
                    yield from walk(node, f"{prefix}{name}/")
                elif isinstance(node, Link):
                    yield prefix + name, node.target
                else:
                    yield prefix + name, chosen.setdefault(node, content(node))

        return dict(walk(self._root, ""))


def _put(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _part(file: File, choice: random.Random) -> bytes:
    if file.data == file.synced:
        return file.data
    end = choice.randrange(len(file.data) + 1)
    zeros = bytes(len(file.data) - end)
    return choice.choice((file.synced, b"", file.data[:end], file.data[:end] + zeros, bytes(end), file.data))


def lay_out(tree: Tree, root: Path) -> None:
    """Write a tree into a new folder."""
    root.mkdir()
    for name, content in tree.items():
        if content is None:
            (root / name).mkdir()
        elif isinstance(content, str):
            (root / name).symlink_to(content)
        else:
            (root / name).write_bytes(content)
