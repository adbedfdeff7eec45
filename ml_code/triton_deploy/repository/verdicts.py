"""Verdicts on releases: how each did with clients, and which versions a bake found bad. Only reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import DeployError, TakenBack
from ..rules.bake_record import Bake, BakeVerdict
from ..rules.deployment import Pinned
from ..rules.identity import Origin, is_another, origin_of, same_files
from ..rules.release import BAKED_BADLY, NOT_JUDGED, Release
from ..rules.shapes import told
from ..rules.version_files import Manifest
from . import ModelFolder

CANARY, BAKE = "canary", "bake"
"""The judges of a release: one before its commit, one after."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The verdicts on a release, and whose shapes it has.

    Attributes:
        bake: record of its bake; None while the bake has not ended, or when none was due.
        unjudged: a sentence for each step of its canary that ended without a verdict, with the reason.
        shapes: whose shapes the release has, in a line; empty for the deployer's, or when the record of its
            deployment is gone.
    """

    bake: Bake | None = None
    unjudged: tuple[str, ...] = ()
    shapes: str = ""

    @property
    def without_verdict(self) -> tuple[str, ...]:
        """Which of CANARY and BAKE should have judged the release and did not."""
        baked = self.bake is not None and self.bake.verdict is BakeVerdict.NO_DATA
        return (*((CANARY,) if self.unjudged else ()), *((BAKE,) if baked else ()))

    def __str__(self) -> str:
        """Return the verdicts in a line; empty when no judge was due."""
        parts = [f"its canary {NOT_JUDGED}{'; '.join(self.unjudged)}"] if self.unjudged else []
        if self.bake is not None:
            said = {
                BakeVerdict.PASSED: "passed its bake: ",
                BakeVerdict.FAILED: BAKED_BADLY,
                BakeVerdict.NO_DATA: NOT_JUDGED,
                BakeVerdict.SUPERSEDED: "not watched to the end: ",
            }
            parts.append(said[self.bake.verdict] + "; ".join(self.bake.reasons))
        return ". ".join(parts)


@dataclass(frozen=True, kw_only=True)
class BadVersion:
    """A version that a bake found bad, and no later one good.

    Attributes:
        version: its number.
        generation: generation of the release that baked.
        why: the bake's reasons.
        at_utc: end of the bake.
        origin: the version's run and digest; None when its release is gone.
    """

    version: int
    generation: int
    why: str
    at_utc: str
    origin: Origin | None


def judged(folder: ModelFolder, release: Release) -> Judged:
    """Return the verdicts on a release; raises StorageFailed when its records can't be read.

    Args:
        folder: the model's place in the repository.
        release: one of its releases.
    """
    record = folder.journal.find(release.deploy_id)
    canary = record.canary if record else None
    return Judged(
        bake=folder.bakes.find(release.generation),
        unjudged=canary.unjudged if canary else (),
        shapes=told(record.shapes) if record else "",
    )


def in_a_line(folder: ModelFolder, release: Release) -> str:
    """Return the verdicts on a release in a line for people, even if its records can't be read."""
    verdicts, _ = in_lines(folder, release)
    return verdicts


def in_lines(folder: ModelFolder, release: Release) -> tuple[str, str]:
    """Return the verdicts on a release, and whose shapes it has, each as ``in_a_line`` does."""
    try:
        how = judged(folder, release)
    except DeployError:
        return "how it was judged can't be read", ""
    return str(how), how.shapes


def bad_versions(folder: ModelFolder) -> list[BadVersion]:
    """Return the versions that a bake found bad and no later bake found good, newest bake first.

    A bake that ended without such a verdict changes nothing.
    """
    found: dict[int, Bake] = {}
    for bake in folder.bakes.newest_first():
        if bake.verdict in (BakeVerdict.PASSED, BakeVerdict.FAILED):
            found.setdefault(bake.version, bake)
    return [
        BadVersion(
            version=bake.version,
            generation=bake.generation,
            why="; ".join(bake.reasons),
            at_utc=bake.ended_at_utc,
            origin=_origin(folder, bake),
        )
        for bake in found.values()
        if bake.verdict is BakeVerdict.FAILED
    ]


def refuse_bad(folder: ModelFolder, wanted: Pinned | Manifest) -> None:
    """Raise TakenBack when a bake found a version bad, or another version with the same files.

    The live version is never refused.

    Args:
        folder: the model's place in the repository.
        wanted: the version to deploy.
    """
    origin, live = origin_of(wanted), folder.releases.latest()
    if live is not None and live.active_version == wanted.version and live.run_id == wanted.run_id:
        return
    same = next((bad for bad in bad_versions(folder) if _is_same(bad, wanted.version, origin)), None)
    if same is not None:
        which = "" if same.version == wanted.version else f", which has the files of version {same.version},"
        raise TakenBack(
            f"Version {wanted.version} of {folder.model}{which} {BAKED_BADLY}{same.why} (release {same.generation}, {same.at_utc}).",
            hint="Register a repaired version; to deploy this one again all the same, use --force (the parameter force).",
        )


def not_bad(folder: ModelFolder, versions: Iterable[int]) -> int | None:
    """Return the first of some versions that no bake found bad; None when all were."""
    bad = {one.version for one in bad_versions(folder)}
    return next((version for version in versions if version not in bad), None)


def _is_same(bad: BadVersion, version: int, wanted: Origin) -> bool:
    if bad.origin is None:
        return bad.version == version
    if bad.version == version and not is_another(bad.origin, wanted):
        return True
    return same_files(bad.origin, wanted)


def _origin(folder: ModelFolder, bake: Bake) -> Origin | None:
    release = folder.releases.find(bake.generation)
    return Origin(run_id=release.run_id, digest=release.digest) if release else None
