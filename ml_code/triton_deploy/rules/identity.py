"""Tells apart two versions of the same number by their runs and sources.

If a registered model was deleted and made anew, MLflow begins to count at 1 again. Then the repository
and MLflow have different versions of the same number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import AnotherVersion, InvalidInput
from .deployment import Pinned
from .locations import LoggedModelRef, RunPlace, parse
from .version_files import Manifest

ONNX_FOLDER = "onnx"
"""Folder of a run that may have the ONNX files of any of the run's versions, whatever the version was
registered from."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a version.

    Attributes:
        run_id: MLflow run; empty if the version was registered without a run.
        place: location of the files, or the source of the registration; empty if unknown.
        digest: digest of the version's files, or empty.
    """

    run_id: str
    place: str = ""
    digest: str = ""

    @property
    def run(self) -> str:
        """The run, for messages."""
        return f"run {self.run_id}" if self.run_id else "no run"


def origin_of(version: Manifest | Pinned) -> Origin:
    """Return the origin of an installed version, or of a version that an alias names."""
    digest = version.digest if isinstance(version, Manifest) else version.expected_digest
    return Origin(run_id=version.run_id, place=version.artifact_uri, digest=digest)


def is_another(here: Origin, there: Origin) -> bool:
    """Whether two versions of the same number are known to be different.

    Versions of the same run are told apart by their places, if the places can be compared; equal digests
    mean the same files.

    Args:
        here: origin of the repository's version.
        there: origin of MLflow's version.
    """
    if here.run_id != there.run_id:
        return True
    if here.digest and here.digest == there.digest:
        return False
    one, other = _comparable(here), _comparable(there)
    if not one or not other or ("run", ONNX_FOLDER) in (one, other):
        return False
    return one[0] == other[0] and one[1] != other[1]


def same_files(one: Origin, other: Origin) -> bool:
    """Whether two versions of any numbers have the same files: equal digests, or one place of one run."""
    if one.digest and other.digest:
        return one.digest == other.digest
    places = _comparable(one), _comparable(other)
    if one.run_id != other.run_id or None in places or ("run", ONNX_FOLDER) in places:
        return False
    return places[0] == places[1]


def has_content_of(installed: Manifest, pinned: Pinned) -> bool:
    """Whether an installed version has the files of a pinned version.

    The listing of a place does not change when files of the same sizes replace the files there. So the
    listing counts only for the same run, and only if training recorded no digest.
    """
    if pinned.expected_digest:
        return installed.digest == pinned.expected_digest
    return installed.fingerprint == pinned.fingerprint and installed.run_id == pinned.run_id


def refuse_another(model: str, pinned: Pinned, installed: Manifest | None) -> None:
    """Raise AnotherVersion when the repository has another version of the same number.

    Args:
        model: public model name.
        pinned: the version that an alias names.
        installed: the repository's version of that number, if it was ever released.
    """
    if installed is None or has_content_of(installed, pinned):
        return
    here, there = origin_of(installed), origin_of(pinned)
    if is_another(here, there):
        raise AnotherVersion(
            f"Version {pinned.version} of {model} in MLflow ({there.run}, {there.place}) is another one than version {pinned.version} in "
            f"the model repository ({here.run}, {here.place}): the model was deleted in MLflow and made anew.",
            hint=way_forward(model, pinned.alias),
        )


def way_forward(model: str, alias: str) -> str:
    """Return the advice for a version whose number is taken."""
    return (
        f"Give the new version a number that is free: triton-deploy renumber {model} --alias {alias}. It registers the version again in "
        "MLflow, above every number that the repository knows, and moves the alias to it. What serves is not touched. Then deploy."
    )


def _comparable(origin: Origin) -> tuple[str, str] | None:
    """Return the part of a place that is the same in every notation, or None if it is unknown."""
    try:
        location = parse(origin.place)
    except InvalidInput:
        return None
    if isinstance(location, LoggedModelRef):
        return "model", location.model_id
    if isinstance(location, RunPlace):
        return "run", location.path
    text = str(location).rstrip("/")
    if logged := re.search(r"/models/(m-[^/]+)/artifacts(?:/|$)", text):
        return "model", logged[1]
    _, inside, path = text.partition(f"/{origin.run_id}/artifacts") if origin.run_id else (text, "", "")
    return ("run", path.strip("/")) if inside else ("place", text)
