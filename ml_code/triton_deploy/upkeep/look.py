"""Compare a model's folder and the Tritons with its last release, and decide which repairs are due.

A look changes nothing. Its findings are made one by one, because a repair that was done may change the
findings that follow: ``repair.py`` does each before it asks for the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from ..clients.triton import Triton
from ..deploy.deployments import Deployments
from ..errors import DeployError
from ..fleet.index_cache import IndexCache, Loaded
from ..repository import ModelFolder
from ..rules.names import engine_name, engine_version
from ..rules.release import Release
from ..rules.version_files import Manifest
from .findings import Finding, Foreign, Hanging, Observation, Problem, Repair

SETTLE_S = 2.0
"""Time that a Triton may take to load or unload a model after a call, before a reconcile reports it as
hanging, seconds."""

NOT_TOUCHED = "Nothing was touched. Restore the model's releases from a backup."


@dataclass(frozen=True)
class Look:
    """Looks at one model.

    Attributes:
        deployments: the model's deployments; their methods do most repairs.
        survey: the engines on disk and in each Triton, remembered from its first look.
        tritons: the servers.
    """

    deployments: Deployments
    survey: IndexCache
    tritons: Sequence[Triton]

    @property
    def folder(self) -> ModelFolder:
        """The model's place in the repository."""
        return self.deployments.folder

    def observe(self) -> Observation:
        """Return all findings at once; raises StorageFailed when the repository can't be read."""
        return Observation.of(self.findings())

    def forget(self) -> Self:
        """Have the next findings made of a new survey, and return this look."""
        self.survey.forget()
        return self

    def findings(self) -> Iterator[Finding]:
        """Yield the findings, with the repairs in the order in which they have to be done: files first.

        Raises:
            StorageFailed: the repository can't be read.
        """
        folder = self.folder
        tritons, silent = self._ask_tritons()
        hanging = list(self._hanging(triton for triton, _ in tritons))
        yield from silent
        yield from hanging
        for path in folder.removals.undecided():
            # First of all: a gc that lost its lease may have taken the live version, and died before it put
            # that back.
            yield Repair(f"put {path.name} back", partial(folder.removals.settle, path))
        live = folder.releases.latest()
        lost = list(self._lost(live, tritons))
        yield from lost
        if lost:
            return
        manifest = folder.versions.readable_manifest(live.active_version) if live else None
        if live is not None:
            if folder.releases.projected() != live:
                yield Repair("rewrite current.json", self.deployments.last.project)
            if manifest is None:
                # ``damage`` reports the missing files. Triton may still serve them from memory: nothing
                # else is touched.
                yield from self._back_without_files(live, tritons)
                return
            yield from self._derived_files(live, manifest)
        yield from self._left_over(
            live, kept={found.version for found in hanging if found.version is not None}
        )
        for triton, loaded in tritons:
            yield from self._on_triton(live, triton, loaded)

    def still_hanging(self, seen: Iterable[Hanging]) -> list[Hanging]:
        """Return the names that still hang a moment later.

        A Triton passes through the same states after every call.

        Args:
            seen: the names that an earlier look found.
        """
        names = {found.name for found in seen}
        if not names:
            return []
        time.sleep(SETTLE_S)
        self.survey.forget()
        tritons, _ = self._ask_tritons()
        later = self._hanging(triton for triton, _ in tritons)
        return [found for found in later if found.name in names]

    def _ask_tritons(self) -> tuple[list[tuple[Triton, Loaded]], list[Problem]]:
        """Return the answering Tritons with the names that they have loaded, and a problem for each other."""
        answers: list[tuple[Triton, Loaded]] = []
        silent: list[Problem] = []
        for triton in self.tritons:
            try:
                answers.append((triton, self.survey.loaded(triton, self.folder.model)))
            except DeployError as error:
                silent.append(Problem(str(error)))
        return answers, silent

    def _hanging(self, tritons: Iterable[Triton]) -> Iterator[Hanging]:
        model = self.folder.model
        for triton in tritons:
            for name, state in self.survey.stuck(triton, model).items():
                version = engine_version(model, name)
                if version is not None or name == model:
                    yield Hanging(f"{name} on {triton.url}", str(state), version)

    def _lost(self, live: Release | None, tritons: Sequence[tuple[Triton, Loaded]]) -> Iterator[Problem]:
        """Yield the Tritons that serve a version that this deployer brought, and whose release is gone."""
        folder = self.folder
        for triton, loaded in tritons:
            serving = loaded.get(folder.model, ())
            if serving == _expected(live):
                continue
            for version in folder.ownership.lost(serving):
                yield Problem(
                    f"{triton.url} serves version {version} of {folder.model}, which this deployer brought, and no release is of it. "
                    f"{NOT_TOUCHED}"
                )

    def _back_without_files(
        self, live: Release, tritons: Sequence[tuple[Triton, Loaded]]
    ) -> Iterator[Repair]:
        """Yield the Tritons that have loaded the live version, whose files are gone, and do not serve it."""
        model, version = self.folder.model, live.active_version
        for triton, loaded in tritons:
            if version in loaded.get(engine_name(model, version), ()) and loaded.get(model, ()) != (version,):
                yield self._serve_again(triton, live)

    def _serve_again(self, triton: Triton, live: Release) -> Repair:
        return Repair(
            f"make {triton.url} serve version {live.active_version}",
            partial(self.deployments.last.restore, triton),
        )

    def _derived_files(self, live: Release, manifest: Manifest) -> Iterator[Repair]:
        fleet = self.deployments.serving()
        if not fleet.files.switch_is_written(manifest):
            yield Repair("rewrite the switch's config.pbtxt", self.deployments.last.project)
        for version in live.loaded_versions:
            kept = self.folder.versions.readable_manifest(version)
            if kept is not None and not fleet.files.engine_is_whole(kept):
                yield Repair(
                    f"rebuild the engine of version {version}", partial(fleet.files.complete_engine, kept)
                )

    def _left_over(self, live: Release | None, kept: set[int]) -> Iterator[Finding]:
        """Yield the leftovers of deployments in the repository.

        Args:
            live: the last release.
            kept: versions whose engines hang in a Triton. A Triton lists only models that have a folder, so
                the folder of an engine that hangs has to stay, or the next look would not see it.
        """
        folder = self.folder
        engines = sorted({*self.survey.engines(folder.model), *folder.engines.configured()})
        loaded_versions = live.loaded_versions if live else ()
        for version in engines:
            yield from (Foreign(str(path)) for path in folder.engines.foreign(version))
        for version in sorted(set(engines) - set(loaded_versions) - kept):
            if folder.ownership.owns_engine(version):
                yield Repair(
                    f"remove the engine of version {version}", partial(folder.engines.remove, version)
                )
            elif not folder.engines.foreign(version):
                yield Foreign(str(folder.engines.folders(version)[0]))
        yield from self._stages()
        ours = [
            version
            for version in engines
            if version in loaded_versions or folder.ownership.owns_engine(version)
        ]
        yield from self._temporaries(ours)

    def _stages(self) -> Iterator[Finding]:
        folder = self.folder
        for deploy_id in folder.staging.deploy_ids():
            if folder.ownership.owns_stage(deploy_id):
                yield Repair(
                    f"remove what deployment {deploy_id} had staged",
                    partial(folder.staging.discard, deploy_id),
                )
            else:
                yield Foreign(str(folder.staging.path(deploy_id)))

    def _temporaries(self, versions: Sequence[int]) -> Iterator[Repair]:
        folder = self.folder
        engines = [path for version in versions for path in folder.engines.folders(version)]
        for path in folder.staging.unfinished_files(engines):
            yield Repair(
                f"remove the unfinished file {path.name}", partial(folder.staging.remove_unfinished, path)
            )

    def _on_triton(self, live: Release | None, triton: Triton, loaded: Loaded) -> Iterator[Finding]:
        folder = self.folder
        wanted = {
            engine_name(folder.model, version): version for version in (live.loaded_versions if live else ())
        }
        for engine, version in wanted.items():
            if (
                version not in loaded.get(engine, ())
                and folder.versions.readable_manifest(version) is not None
            ):
                yield Repair(
                    f"load version {version} into {triton.url}",
                    partial(self.deployments.serving().on(triton).load, version),
                )
        if loaded.get(folder.model, ()) != _expected(live):
            if live:
                yield self._serve_again(triton, live)
            elif folder.ownership.may_have_flipped():
                yield Repair(
                    f"take {folder.model} out of {triton.url}", partial(self.deployments.last.restore, triton)
                )
            else:
                yield Foreign(f"{folder.model} in {triton.url}")
        yield from self._other_engines(triton, loaded, wanted)

    def _other_engines(self, triton: Triton, loaded: Loaded, wanted: Mapping[str, int]) -> Iterator[Finding]:
        """Yield the engines that a Triton has loaded and the last release does not want there."""
        folder = self.folder
        for name in loaded:
            number = engine_version(folder.model, name)
            if number is None or name in wanted:
                continue
            if folder.ownership.knows(number):
                switch_timeout_s = self.deployments.settings.triton.switch_timeout_s
                yield Repair(
                    f"unload {name} from {triton.url}", partial(triton.unload, name, switch_timeout_s)
                )
            else:
                yield Foreign(f"{name} in {triton.url}")


def _expected(live: Release | None) -> tuple[int, ...]:
    """Return the versions that a Triton has to serve under the public name."""
    return (live.active_version,) if live else ()
