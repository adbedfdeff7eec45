"""How versions stand, what a registry's pages have to be told of it, and what to do when an alias means something else. Pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .identity import Origin, is_another, same_files, way_forward
from .release import Release

LIVE, WARM, RETIRED, FAILED = "live", "warm", "retired", "failed"
KEYS = ("status", "generation", "time_utc", "reason", "verdict")
"""The tags of a version, below the prefix."""

ALIAS_DRIFT, NOT_TOLD = "alias_drift", "mlflow_not_told"
"""Kinds of notices."""

LONGEST_REASON = 500


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version as the registry's pages have it.

    Attributes:
        version: its number.
        origin: its run, and what it was registered from.
        tags: its tags.
        description: its description, or empty.
    """

    version: int
    origin: Origin
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True)
class Notice:
    """Something worth knowing that harms nothing that serves: its kind for machines, and a sentence."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a version stands.

    Attributes:
        status: ``live``, ``warm`` (loaded beside it), ``retired`` or ``failed``.
        time_utc: since when.
        generation: the release that made it live last, or None.
        reason: why it failed or was taken back, or empty.
        verdict: how its last release was judged, or empty.
        origin: where it came from, as far as the repository knows.
    """

    status: str
    time_utc: str
    generation: int | None = None
    reason: str = ""
    verdict: str = ""
    origin: Origin | None = None

    def is_of(self, shown: Registered) -> bool:
        """Whether it is of the version that the registry shows, not of a former one of the same number."""
        return self.origin is None or not is_another(self.origin, shown.origin)

    def tags(self) -> dict[str, str]:
        """Return it as tags, without the prefix."""
        generation = "" if self.generation is None else str(self.generation)
        values = (
            self.status,
            generation,
            self.time_utc,
            self.reason[:LONGEST_REASON],
            self.verdict[:LONGEST_REASON],
        )
        return {key: value for key, value in zip(KEYS, values, strict=True) if value}


@dataclass(frozen=True)
class FailedVersion:
    """A version that failed, why, and when; where it came from, as far as that is known; and whether it was live and a bake found it bad."""

    version: int
    reason: str
    at_utc: str
    origin: Origin | None = None
    was_live: bool = False

    def has_files_of(self, named: Registered) -> bool:
        """Whether it failed with the files of the version that an alias names, whatever number that has."""
        if self.origin is None:
            return False
        return same_files(self.origin, named.origin)


@dataclass(frozen=True)
class Change:
    """A tag that is to be set, or deleted when ``value`` is None."""

    version: int
    key: str
    value: str | None


def standings(
    releases: Sequence[Release],
    failed: Iterable[FailedVersion],
    verdicts: Mapping[int, str] | None = None,
) -> dict[int, Standing]:
    """Return how versions stand, as the repository has it.

    Args:
        releases: newest first.
        failed: versions that were rolled back, in any order.
        verdicts: how releases were judged, by their generation.
    """
    found: dict[int, Standing] = {}
    known_before = _known_before(releases)
    loaded = releases[0].loaded_versions if releases else ()
    for after, release in zip([None, *releases], releases, strict=False):
        version = release.active_version
        if version not in found:
            since = after or release
            status = LIVE if after is None else WARM if version in loaded else RETIRED
            taken_back = after is not None and after.active_version in known_before[release.generation]
            found[version] = Standing(
                status=status,
                time_utc=since.updated_at_utc,
                generation=release.generation,
                reason=since.reason if taken_back else "",
                verdict=(verdicts or {}).get(release.generation, ""),
                origin=Origin(run_id=release.run_id, digest=release.digest),
            )
    for failure in sorted(failed, key=lambda failure: failure.at_utc):
        known = found.get(failure.version)
        if failure.version not in loaded and (known is None or known.time_utc <= failure.at_utc):
            found[failure.version] = Standing(
                status=FAILED,
                time_utc=failure.at_utc,
                generation=known.generation if known else None,
                reason=failure.reason,
                origin=failure.origin or (known.origin if known else None),
            )
    return found


def _known_before(releases: Sequence[Release]) -> dict[int, set[int]]:
    """Return which versions had been live before each release, by its generation: who goes back to one of them takes the release back."""
    found: dict[int, set[int]] = {}
    earlier: set[int] = set()
    for release in reversed(releases):
        found[release.generation] = earlier - {release.active_version}
        earlier = earlier | {release.active_version}
    return found


def changes(standing: Mapping[int, Standing], shown: Mapping[int, Registered], prefix: str) -> list[Change]:
    """Return what has to be changed for the registry to show how versions stand.

    Args:
        standing: as the repository has it. A version of which it knows nothing keeps its tags, unless they claim that it is loaded.
            Another version of the same number loses them: they tell of the former one.
        shown: the versions that the registry has.
        prefix: what the tags begin with.
    """
    found = []
    for version, registered in shown.items():
        tags, known = registered.tags, standing.get(version)
        if known is not None and not known.is_of(registered):
            found += [Change(version, f"{prefix}.{key}", None) for key in KEYS if f"{prefix}.{key}" in tags]
            continue
        wanted = known.tags() if known else None
        if wanted is None:
            if tags.get(f"{prefix}.status") in (LIVE, WARM):
                found.append(Change(version, f"{prefix}.status", RETIRED))
            continue
        for key in KEYS:
            if wanted.get(key) != tags.get(f"{prefix}.{key}"):
                found.append(Change(version, f"{prefix}.{key}", wanted.get(key)))
    return found


def drift(
    live: Release | None,
    named: Registered | None,
    refused: Iterable[FailedVersion] = (),
    here: Origin | None = None,
) -> str:
    """Return what to know and do when the alias that was deployed means something else now, or nothing.

    Args:
        live: what serves.
        named: the version that its alias names, as the registry has it; None when it is not set.
        refused: versions in quarantine by their own fault, which are not deployed again.
        here: where the repository's version of the number that the alias names came from, if there is one.
    """
    if live is None or not live.alias:
        return ""
    another = named is not None and here is not None and is_another(here, named.origin)
    if named is not None and named.version == live.active_version and not another:
        return ""
    alias = f"Alias {live.alias} of {live.model}"
    if named is None:
        return (
            f"{alias} is not set in MLflow any more, and version {live.active_version} serves. Set it to version "
            f"{live.active_version} again, or to the version that is to be deployed."
        )
    what = f"{alias} names version {named.version} in MLflow, and version {live.active_version} serves."
    refused = list(refused)
    if here is not None and another:
        what = _told_apart(live, named, here, what)
        failed = next((one for one in refused if one.has_files_of(named)), None)
        return f"{what} {_way_on(live, named, here) if failed is None else _no_way_on(live, named, failed)}"
    of_it = (one for one in refused if one.version == named.version and not _is_former(one, named))
    failed = next(of_it, None) or next((one for one in refused if one.has_files_of(named)), None)
    if failed is not None:
        return f"{what} {_no_way_on(live, named, failed)}"
    return (
        f"{what} Deploy it (triton-deploy deploy {live.model} --alias {live.alias}), or set the alias to version "
        f"{live.active_version}."
    )


def _told_apart(live: Release, named: Registered, here: Origin, what: str) -> str:
    """Say that the alias names another version of a number that the repository knows."""
    number, of_it = named.version, f"({here.run}): the model was deleted in MLflow and made anew."
    if number == live.active_version:
        return (
            f"Alias {live.alias} of {live.model} names version {number} of {named.origin.run} in MLflow, which is another version "
            f"{number} than the one that serves {of_it}"
        )
    return f"{what} Version {number} of {named.origin.run} is another one than version {number} in the repository {of_it}"


def _way_on(live: Release, named: Registered, here: Origin) -> str:
    """Say how the version that the alias names can be deployed; one with the same files needs no other number."""
    if here.digest and here.digest == named.origin.digest:
        return f"Its files are the same: deploy it (triton-deploy deploy {live.model} --alias {live.alias})."
    return way_forward(live.model, live.alias)


def _no_way_on(live: Release, named: Registered, failed: FailedVersion) -> str:
    """Say why the version that the alias names is not to be deployed, and what to do instead."""
    same = "" if failed.version == named.version else f"It has the files of version {failed.version}. "
    what = "is not deployed again without --force" if failed.was_live else "is in quarantine"
    return (
        f"{same}Version {failed.version} failed ({failed.reason.rstrip('.')}) and {what}. Set the alias back to version "
        f"{live.active_version}, or register a repaired version and set it to that."
    )


def _is_former(failed: FailedVersion, named: Registered) -> bool:
    return failed.origin is not None and is_another(failed.origin, named.origin)
