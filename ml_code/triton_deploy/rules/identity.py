"""Which version a number means: versions are known by their run and source.

MLflow begins to count at 1 again when a registered model was deleted and made anew: then the repository and MLflow have a version of
the same number that is not the same one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import AnotherVersion, InvalidInput
from .deployment import Pinned
from .locations import LoggedModelRef, RunPlace, parse
from .version_files import Manifest

ONNX_FOLDER = "onnx"
"""Folder of a run in which the ONNX files of any of its versions may be, whatever the version was registered from."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a version came from.

    Attributes:
        run_id: MLflow run; empty when it was registered without one.
        place: where its files are, or what it was registered from; empty when that is not known.
        digest: digest of its files, or empty.
    """

    run_id: str
    place: str = ""
    digest: str = ""

    @property
    def run(self) -> str:
        """The run, for messages."""
        return f"run {self.run_id}" if self.run_id else "no run"


def origin_of(version: Manifest | Pinned) -> Origin:
    """Return where an installed version, or one that an alias names, came from."""
    digest = version.digest if isinstance(version, Manifest) else version.expected_digest
    return Origin(run_id=version.run_id, place=version.artifact_uri, digest=digest)


def is_another(here: Origin, there: Origin) -> bool:
    """Whether two versions of the same number are known to be different ones.

    Two of the same run are told apart by their places, where those can be compared; equal digests mean the same files.

    Args:
        here: the repository's.
        there: MLflow's.
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
    """Whether two versions, of whatever numbers, are known to have the same files: equal digests, or the same place of the same run."""
    if one.digest and other.digest:
        return one.digest == other.digest
    places = _comparable(one), _comparable(other)
    if one.run_id != other.run_id or None in places or ("run", ONNX_FOLDER) in places:
        return False
    return places[0] == places[1]


def has_content_of(installed: Manifest, pinned: Pinned) -> bool:
    """Whether an installed version has the files that an alias means.

    The listing of a place does not change when other files of the same sizes are put there. So it counts only for the same run, and
    only where training recorded no digest.
    """
    if pinned.expected_digest:
        return installed.digest == pinned.expected_digest
    return installed.fingerprint == pinned.fingerprint and installed.run_id == pinned.run_id


def refuse_another(model: str, pinned: Pinned, installed: Manifest | None) -> None:
    """Raise AnotherVersion when the repository has another version of the same number.

    Args:
        model: public model name.
        pinned: what an alias means.
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
    """Return what to do about a number that is taken."""
    return (
        f"Give the new version a number that is free: triton-deploy renumber {model} --alias {alias}. It registers the version again in "
        "MLflow, above every number that the repository knows, and moves the alias to it. What serves is not touched. Then deploy."
    )


def _comparable(origin: Origin) -> tuple[str, str] | None:
    """Return what of a place stays the same when it is written in another form, or None when that is not known."""
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
