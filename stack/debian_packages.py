"""Programs of Debian 12, downloaded and checked by apt, and unpacked into a cache folder, not installed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import StackError

APT_TIMEOUT_S = 300.0
_RULE = 2
"""Version of this module's rule for the choice of packages; a change of it unpacks again."""


def unpacked(cache: Path, packages: Sequence[str], needed: tuple[str, ...] = ("",)) -> Path:
    """Return a folder that stands for ``/`` and has these packages and their dependencies.

    Packages that every Debian has are left out. The packages that the system has installed make no
    difference, because a program looks for its data beside itself. Processes that call this at the same
    time wait for each other. Delete ``cache`` to get newer packages.

    Args:
        cache: the folder above.
        packages: Debian's names.
        needed: prefixes of package names: of these packages and their dependencies, only matching ones are
            unpacked.

    Raises:
        StackError: this system is not Debian 12, or apt can't provide the packages.
    """
    _check_debian_12(packages)
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"root-{_fingerprint(packages, needed)}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            work = cache / "incomplete"
            shutil.rmtree(work, ignore_errors=True)
            for package in _download(work, packages, needed):
                subprocess.run(["dpkg", "-x", str(package), str(work / "root")], check=True)
            # The rename comes last, so that a folder of this name is always complete.
            (work / "root").rename(root)
            for other in (work, *(path for path in cache.glob("root*") if path != root)):
                shutil.rmtree(other)
    return root


def library_path(root: Path) -> str:
    """Return the ``LD_LIBRARY_PATH`` for programs in a folder that ``unpacked`` returned."""
    patterns = ("usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib/*-linux-gnu/pulseaudio")
    return ":".join(str(folder) for pattern in patterns for folder in root.glob(pattern))


class NotDebian12(StackError):
    """The packages do not fit this system."""


def _check_debian_12(packages: Sequence[str]) -> None:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "12"):
        raise NotDebian12(f"{', '.join(packages)}: taken from Debian 12's packages; use a container of that")


def _fingerprint(packages: Sequence[str], needed: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([_RULE, *packages, "", *needed]).encode()).hexdigest()[:12]


def _download(work: Path, packages: Sequence[str], needed: tuple[str, ...]) -> list[Path]:
    archives = work / "archives"
    (archives / "partial").mkdir(parents=True)
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "status").touch()
    # apt changes nothing of the system here, so it needs no lock and no root. With an empty status file it
    # treats every package as not installed.
    options = [
        "Debug::NoLocking=true",
        f"Dir::Cache={work}",
        f"Dir::State::status={work / 'status'}",
        "Acquire::Retries=3",
    ]
    try:
        return _fetch(options, archives, packages, needed)
    except StackError:
        # The package lists of the system are empty or out of date: use lists of our own, and leave the
        # system's untouched.
        options.append(f"Dir::State::lists={work / 'lists'}")
        _apt_get(options, ["update"], work)
        return _fetch(options, archives, packages, needed)


def _fetch(
    options: Sequence[str], archives: Path, packages: Sequence[str], needed: tuple[str, ...]
) -> list[Path]:
    wanted = _with_what_they_need(options, archives, packages)
    names = wanted - _with_what_they_need(options, archives, _essential())
    _apt_get(options, ["download", *sorted(name for name in names if name.startswith(needed))], archives)
    return sorted(archives.glob("*.deb"))


def _with_what_they_need(options: Sequence[str], folder: Path, packages: Sequence[str]) -> set[str]:
    install = ["install", "--simulate", "--no-install-recommends", "--yes", *packages]
    return set(re.findall(r"^Inst (\S+)", _apt_get(options, install, folder), re.MULTILINE))


def _essential() -> list[str]:
    """Return the packages that every Debian has."""
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Essential} ${Package}\n"],
        check=True,
        capture_output=True,
        text=True,
    )
    return re.findall(r"^yes (\S+)$", listed.stdout, re.MULTILINE)


def _apt_get(options: Sequence[str], arguments: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        ["apt-get", *(part for option in options for part in ("-o", option)), *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=APT_TIMEOUT_S,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        raise StackError(f"apt-get {' '.join(arguments)} failed:\n{done.stdout}")
    return done.stdout
