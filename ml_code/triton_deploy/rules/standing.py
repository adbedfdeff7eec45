"""The standing of versions, its tags in the registry, and advice on moved aliases. Pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .identity import Origin, is_another, same_files, way_forward
from .release import Release

LIVE, WARM, RETIRED, FAILED = "live", "warm", "retired", "failed"
KEYS = ("status", "generation", "time_utc", "reason", "verdict")
"""The tags of a version, without the prefix."""

ALIAS_DRIFT, NOT_TOLD = "alias_drift", "mlflow_not_told"
"""Kinds of notices."""

LONGEST_REASON = 500


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version as the registry has it.

    Attributes:
        version: number of the version.
        origin: run and source of the version.
        tags: tags of the version.
        description: description of the version, or empty.
    """

    version: int
    origin: Origin
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True)
class Notice:
    """A finding that needs no repair: a kind for machines, and a sentence for people."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The standing of a version.

    Attributes:
        status: ``live``, ``warm`` (loaded beside the live version), ``retired`` or ``failed``.
        time_utc: since when the version has this status.
        generation: the last release of the version, or None.
        reason: why the version failed or was taken back, or empty.
        verdict: verdict on the last release of the version, or empty.
        origin: origin of the version, as far as the repository knows it.
    """

    status: str
    time_utc: str
    generation: int | None = None
    reason: str = ""
    verdict: str = ""
    origin: Origin | None = None

    def is_of(self, shown: Registered) -> bool:
        """Whether the standing is about the registry's version, not a former one of the same number."""
        return self.origin is None or not is_another(self.origin, shown.origin)

    def tags(self) -> dict[str, str]:
        """Return the standing as tags, without the prefix."""
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
    """A version that failed.

    Attributes:
        version: number of the version.
        reason: why the version failed.
        at_utc: when the version failed.
        origin: origin of the version, or None if unknown.
        was_live: whether the version was live, and failed its bake.
    """

    version: int
    reason: str
    at_utc: str
    origin: Origin | None = None
    was_live: bool = False

    def has_files_of(self, named: Registered) -> bool:
        """Whether the version that an alias names has the failed version's files; the numbers may differ."""
        if self.origin is None:
            return False
        return same_files(self.origin, named.origin)


@dataclass(frozen=True)
class Change:
    """A tag to set, or to delete if ``value`` is None."""

    version: int
    key: str
    value: str | None


def standings(
    releases: Sequence[Release],
    failed: Iterable[FailedVersion],
    verdicts: Mapping[int, str] | None = None,
) -> dict[int, Standing]:
    """Return the standing of every version in the repository.

    Args:
        releases: all releases, newest first.
        failed: versions that were rolled back, in any order.
        verdicts: verdicts on releases, by generation.
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
    """Return the versions that were live before each release, by generation: a return to one is a revert."""
    found: dict[int, set[int]] = {}
    earlier: set[int] = set()
    for release in reversed(releases):
        found[release.generation] = earlier - {release.active_version}
        earlier = earlier | {release.active_version}
    return found


def changes(standing: Mapping[int, Standing], shown: Mapping[int, Registered], prefix: str) -> list[Change]:
    """Return the changes of tags after which the registry shows the standing of versions.

    Args:
        standing: the standing in the repository. A version that the repository does not know keeps its
            tags, unless they claim that it is loaded. Another version of the same number loses its tags:
            they are about the former version.
        shown: the registry's versions.
        prefix: prefix of the tags.
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
    """Return a text and advice if the deployed alias now names another version; empty if it does not.

    Args:
        live: the live release.
        named: the version that the release's alias names in the registry; None if the alias is not set.
        refused: versions in quarantine by their own fault, which are not deployed again.
        here: origin of the repository's version of the number that the alias names, if there is one.
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
    """Return the text for an alias that names another version of a number that the repository knows."""
    number, of_it = named.version, f"({here.run}): the model was deleted in MLflow and made anew."
    if number == live.active_version:
        return (
            f"Alias {live.alias} of {live.model} names version {number} of {named.origin.run} in MLflow, which is another version "
            f"{number} than the one that serves {of_it}"
        )
    return f"{what} Version {number} of {named.origin.run} is another one than version {number} in the repository {of_it}"


def _way_on(live: Release, named: Registered, here: Origin) -> str:
    """Return how to deploy the version that the alias names; the same files need no other number."""
    if here.digest and here.digest == named.origin.digest:
        return f"Its files are the same: deploy it (triton-deploy deploy {live.model} --alias {live.alias})."
    return way_forward(live.model, live.alias)


def _no_way_on(live: Release, named: Registered, failed: FailedVersion) -> str:
    """Return why the version that the alias names can't be deployed, and the advice."""
    same = "" if failed.version == named.version else f"It has the files of version {failed.version}. "
    what = "is not deployed again without --force" if failed.was_live else "is in quarantine"
    return (
        f"{same}Version {failed.version} failed ({failed.reason.rstrip('.')}) and {what}. Set the alias back to version "
        f"{live.active_version}, or register a repaired version and set it to that."
    )


def _is_former(failed: FailedVersion, named: Registered) -> bool:
    return failed.origin is not None and is_another(failed.origin, named.origin)
