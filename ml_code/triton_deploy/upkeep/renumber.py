"""Give a version of a model that was deleted in MLflow and made anew a number that the repository lacks.

Everything happens in MLflow: no serving version is touched, and clients see no number twice. MLflow numbers
the versions one after the other, so the taken numbers are used up by stopgap versions, which are deleted
afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..clients.mlflow_board import Board
from ..errors import AliasNotFound, AnotherVersion, Superseded
from ..repository import ModelFolder
from ..rules.identity import Origin, is_another, origin_of
from ..rules.names import check_alias
from ..rules.standing import KEYS, Registered

STOPGAP = "triton_deploy.stopgap"
"""Tag of a version that only uses up its number. It is deleted at the end, or by the next renumbering."""

MOST = 1000
"""The most numbers that one renumbering uses up; each takes about 20 ms."""

log = logging.getLogger(__name__)


class Registrar(Board, Protocol):
    """A board that also registers versions; raises the errors of Board."""

    def register(self, model: str, like: Registered, tags: Mapping[str, str]) -> int:
        """Register a version's run and source once more, and return the new number, which is the next one."""

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version."""

    def delete_version(self, model: str, version: int) -> None:
        """Delete a version; its run and its files stay."""


@dataclass(frozen=True, kw_only=True)
class Renumbered:
    """The old and the new number of a version.

    Attributes:
        model: model name.
        alias: the alias that names the version.
        was: the old number.
        now: the new number; the old one when that is free, and 0 in a dry run that would change it.
        above: the highest number that the repository knows.
        run_id: the version's run, or empty.
    """

    model: str
    alias: str
    was: int
    now: int
    above: int
    run_id: str

    @property
    def needed(self) -> bool:
        """Whether the number was taken."""
        return self.now != self.was


class Renumbering:
    """Gives the version behind an alias a number that the repository does not know.

    Args:
        folder: the model's place in the repository; it is only read.
        registrar: MLflow's registry.
        prefix: prefix of the tags that say how a version serves; they are not copied.
    """

    def __init__(self, folder: ModelFolder, registrar: Registrar, prefix: str) -> None:
        self._folder = folder
        self._registrar = registrar
        self._prefix = prefix

    def run(self, alias: str, *, dry_run: bool = False) -> Renumbered:
        """Register the version again above every number in the repository, and move the alias to it.

        Safe to repeat.

        Args:
            alias: the alias.
            dry_run: change nothing.

        Returns:
            The old and the new number. They are equal, and nothing is done, when the repository has no
            other version of the number.

        Raises:
            AliasNotFound: the alias is not set.
            AnotherVersion: more than MOST numbers would have to be used up.
            Superseded: the alias was moved meanwhile; it stays where it is.
            DeployError: MLflow refuses or does not answer; repeat it. The alias still names the old version.
        """
        model = self._folder.model
        named = self._named(check_alias(alias))
        highest = max(self._numbers(), default=0)
        done = Renumbered(
            model=model,
            alias=alias,
            was=named.version,
            now=named.version,
            above=highest,
            run_id=named.origin.run_id,
        )
        if not self._is_taken(named):
            return done
        known = self._registrar.versions(model)
        last = max(known, default=0)
        if highest - last > MOST:
            raise AnotherVersion(
                f"The repository knows versions of {model} up to {highest}, and MLflow's last one is {last}: more than {MOST} numbers would "
                "have to be used up.",
                hint="Register the model under another name, and deploy that one.",
            )
        if dry_run:
            return Renumbered(**{**vars(done), "now": 0})
        while last < highest:
            last = self._registrar.register(model, named, {STOPGAP: "yes"})
        now = self._registrar.register(model, named, self._tags_of(named))
        if self._named(alias).version != named.version:
            self._registrar.delete_version(model, now)
            raise Superseded(
                f"Alias {alias} of {model} was moved while version {named.version} was registered again.",
                hint="Look at what it names now: triton-deploy deploy, with --dry-run.",
            )
        self._registrar.set_alias(model, alias, now)
        for version, registered in self._registrar.versions(model).items():
            if STOPGAP in registered.tags:
                self._registrar.delete_version(model, version)
        log.info("version %s of %s is registered again as version %s", named.version, model, now)
        return Renumbered(**{**vars(done), "now": now})

    def _named(self, alias: str) -> Registered:
        named = self._registrar.named(self._folder.model, alias)
        if named is None:
            raise AliasNotFound(
                f"Alias {alias} of {self._folder.model} is not set in MLflow.",
                hint="Set it on the version that is to be deployed.",
            )
        return named

    def _is_taken(self, named: Registered) -> bool:
        """Whether the repository has, or had live, another version: clients would see one number for both."""
        manifest = self._folder.versions.manifest(named.version)
        origins = [origin_of(manifest)] if manifest else []
        origins += [
            Origin(run_id=release.run_id, digest=release.digest)
            for release in self._folder.releases.history()
            if release.active_version == named.version
        ]
        return bool(origins) and all(is_another(origin, named.origin) for origin in origins)

    def _numbers(self) -> Iterator[int]:
        """Yield every version number that the repository knows."""
        yield from (release.active_version for release in self._folder.releases.history())
        yield from self._folder.versions.installed()
        for name in self._folder.quarantine.contents():
            number = name.partition(".")[0]
            if number.isdigit():
                yield int(number)

    def _tags_of(self, named: Registered) -> dict[str, str]:
        about_serving = {f"{self._prefix}.{key}" for key in KEYS}
        return {key: value for key, value in named.tags.items() if key not in {*about_serving, STOPGAP}}
