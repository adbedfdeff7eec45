"""Programs of Debian 12 for the tests: see ``stack.debian_packages``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from stack import debian_packages
from stack.debian_packages import library_path

__all__ = ["REPOSITORY", "library_path", "unpacked"]

REPOSITORY = Path(__file__).resolve().parents[3]


def unpacked(name: str, packages: Sequence[str], needed: tuple[str, ...] = ("",)) -> Path:
    """Return a folder that stands for ``/`` and holds these packages; skips the test where that is not Debian 12.

    Args:
        name: of the folder.
        packages: Debian's names.
        needed: how the names begin of those to unpack, of these packages and what they depend on.
    """
    try:
        return debian_packages.unpacked(REPOSITORY / ".cache" / name, packages, needed)
    except debian_packages.NotDebian12 as error:
        pytest.skip(str(error))
