"""Programs of Debian 12, downloaded and checked by apt, unpacked into a cache folder, not installed."""

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stack.errors import StackError

APT_TIMEOUT_S = 300.0


def unpacked(cache: Path, packages: Sequence[str], needed: tuple[str, ...] = ("",)) -> Path:
    """Return a folder that stands for ``/`` and holds these packages with what they need beyond what is installed.

    Processes wait for each other. To take newer packages, delete ``cache``.

    Args:
        cache: folder for it.
        packages: Debian's names.
        needed: how the names begin of those to unpack, of these packages and what they depend on.

    Raises:
        StackError: this is not Debian 12, or apt can't provide them.
    """
    _check_debian_12(packages)
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / "root"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            work = cache / "incomplete"
            shutil.rmtree(work, ignore_errors=True)
            _download(work, packages)
            for package in sorted((work / "archives").glob("*.deb")):
                if package.name.startswith(needed):
                    subprocess.run(["dpkg", "-x", str(package), str(work / "root")], check=True)
            # The rename comes last, so that a folder of this name is always complete.
            (work / "root").rename(root)
            shutil.rmtree(work)
    return root


def library_path(root: Path) -> str:
    """Return the ``LD_LIBRARY_PATH`` for programs in such a folder."""
    patterns = ("usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib/*-linux-gnu/pulseaudio")
    return ":".join(str(folder) for pattern in patterns for folder in root.glob(pattern))


class NotDebian12(StackError):
    """The packages are those of another system than this one."""


def _check_debian_12(packages: Sequence[str]) -> None:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "12"):
        raise NotDebian12(f"{', '.join(packages)}: taken from Debian 12's packages; use a container of that")


def _download(work: Path, packages: Sequence[str]) -> None:
    (work / "archives" / "partial").mkdir(parents=True)
    (work / "lists" / "partial").mkdir(parents=True)
    # No lock is needed, hence no root: apt only reads the system's state here.
    options = ["Debug::NoLocking=true", f"Dir::Cache={work}", "Acquire::Retries=3"]
    download = ["install", "--download-only", "--reinstall", "--no-install-recommends", "--yes", *packages]
    if _apt_get(options, download).returncode == 0:
        return
    # The system's package lists are empty or out of date; ours leave them untouched.
    options.append(f"Dir::State::lists={work / 'lists'}")
    update = _apt_get(options, ["update"])
    done = _apt_get(options, download)
    if done.returncode != 0:
        raise StackError(f"apt cannot provide {' '.join(packages)}:\n{update.stdout}{done.stdout}")


def _apt_get(options: Sequence[str], arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", *(part for option in options for part in ("-o", option)), *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=APT_TIMEOUT_S,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )
