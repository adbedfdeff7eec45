"""A request that the live version can answer, from the smoke case in the repository; belongs in a thread."""

from __future__ import annotations

from pathlib import Path

from ...triton_deploy.errors import DeployError
from ...triton_deploy.model.smoke_case import parse_case
from ...triton_deploy.repository import ModelFolder
from ...triton_deploy.rules.version_files import SMOKE_CASE
from ..backend import Example
from ..predict.examples import example_of, invented

MOST_BYTES = 8 << 20
"""Largest smoke case that is read for an example, bytes: parsed JSON takes several times that in memory."""


def read_example(root: Path, model: str, version: int) -> Example | None:
    """Return an example for a version, or None when its files have none that can be shown.

    Args:
        root: the model repository; only read.
        model: public model name.
        version: the version.
    """
    try:
        folder = ModelFolder.at(root, model)
        manifest = folder.versions.manifest(version)
    except DeployError:
        return None
    if manifest is None:
        return None
    offer, path = manifest.offer, folder.versions.path(version) / SMOKE_CASE
    try:
        if path.stat().st_size <= MOST_BYTES:
            case = parse_case(path.read_text(encoding="utf-8"), offer.schema)
            found = example_of(case.sent(offer), offer.public, case.source)
            if found is not None:
                return found
    except (OSError, ValueError, DeployError):
        # Without the file, the signature still gives an example.
        pass
    return invented(offer.public)
