"""One model on every Triton of a repository: tries a candidate, flips to it, restores the live version.

A candidate may end the process that loads or runs it. So a lifeline holds each Triton that meets a
candidate, and the candidate goes to one Triton first, and to the others only after that Triton has come
through it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from ..clients.triton import Triton
from ..errors import ArtifactRejected, DeployError, EndedTriton, FlipUnanswered, NotFound, Unavailable
from ..repository import ModelFolder
from ..rules.moments import utc_text
from ..rules.names import engine_name
from ..rules.shapes import Reported
from ..rules.version_files import Manifest
from ..settings import Settings
from .index_cache import IndexCache
from .lifelines import held_by_lifeline
from .model_on_triton import ModelOnTriton
from .replicas import Replicas
from .serving_files import ServingFiles

if TYPE_CHECKING:
    from .smoke import SmokeTest

log = logging.getLogger(__name__)

T = TypeVar("T")


class Fleet:
    """One model on every Triton of the repository.

    Args:
        folder: the model's place in the repository.
        tritons: the servers.
        settings: deadlines, tolerances and the quorum.

    Attributes:
        files: the configurations of the model's engines and switch.
        unanswered: flips to a candidate that got no answer and may still arrive: time by the Triton's
            address.
        ended: Tritons that ended while they met a candidate: time by the Triton's address.
    """

    def __init__(self, folder: ModelFolder, tritons: Sequence[Triton], settings: Settings) -> None:
        self._folder = folder
        self._model = folder.model
        self._replicas = Replicas(tritons, settings.triton.quorum)
        self._settings = settings
        self.files = ServingFiles(folder)
        self.unanswered: dict[str, str] = {}
        self.ended: dict[str, str] = {}

    def on(self, triton: Triton) -> ModelOnTriton:
        """Return the model on one of the Tritons."""
        return ModelOnTriton(triton, self._folder, self.files, self._settings)

    def load_candidate(
        self,
        manifest: Manifest,
        deploy_id: str,
        *,
        fresh: bool,
        first: Callable[[str], object] = lambda url: None,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Load a candidate's engine beside the live one.

        First into one Triton, which has to answer, then into the rest at once.

        Args:
            manifest: the candidate.
            deploy_id: the candidate's deployment.
            fresh: the candidate's files are new, so a loaded engine of that name holds other files.
            first: called with the address of each Triton that is about to meet the candidate alone.
            then: called after one Triton has come through the candidate, before the rest load it.

        Raises:
            EndedTriton: a Triton ended while it loaded or ran the candidate.
            ArtifactRejected: Triton can't load the candidate.
            Unavailable: a Triton did not load it in time.
        """
        version = manifest.version
        if fresh or not self.files.engine_is_whole(manifest):
            self.files.write_candidate(manifest, deploy_id)

        def load(triton: Triton) -> bool:
            return self.on(triton).load_candidate(manifest, fresh=fresh)

        def load_and_ask(triton: Triton) -> bool:
            first(triton.url)
            loaded = load(triton)
            if loaded:
                # Any answer will do: whether the engine is ready, and its answers right, is for the next
                # steps.
                with contextlib.suppress(ArtifactRejected, NotFound):
                    self._smoke_test(version).ask_engine(triton)
            return loaded

        self._replicas.one_then_rest(
            self._held(version, "loaded", load_and_ask), self._held(version, "loaded", load), then=then
        )

    def ask_shapes(self, manifest: Manifest) -> Reported:
        """Ask the first Triton that answers for the shapes that its session has of a candidate.

        Args:
            manifest: the candidate, which the Triton refused.

        Raises:
            EndedTriton: the Triton ended meanwhile.
            ValueError, DeployError: see ``ModelOnTriton.ask_shapes``.
        """
        away: Unavailable | None = None
        for triton in self._replicas.all:
            ask = self._held(
                manifest.version, "told the shapes of", lambda triton: self.on(triton).ask_shapes(manifest)
            )
            try:
                return ask(triton)
            except Unavailable as error:
                away = error
        raise away or Unavailable("No Triton is known.", hint="See TRITON_DEPLOY_GRPC_URLS.")

    def wait_ready(self, version: int) -> None:
        """Wait until exactly this version is ready on every Triton; raises NotFound when it is not in time.

        Neither a load that succeeded nor the unversioned ready call shows that: both are about any version.
        """
        self._replicas.on_all(lambda triton: self.on(triton).wait_ready(version))

    def smoke(self, version: int) -> dict[str, Any]:
        """Ask exactly this version, on every Triton, and compare with the expected answers.

        Returns:
            ``source`` of the inputs, ``requests`` sent to each Triton, ``latency_ms`` (the slowest
            Triton's median), ``max_abs_error``, and the same two for each Triton below ``tritons``.

        Raises:
            VerificationFailed: wrong or non-finite answers.
            AnsweredLate: late answers.
            EndedTriton: a Triton ended while it answered.
            ArtifactRejected: the model fails on the inputs.
            NotFound, Unavailable: the version is not there any more, or does not answer in time.
        """
        test = self._smoke_test(version)
        measure = self._held(version, "answered with", test.measure)
        return test.judge(self._replicas.one_then_rest(measure, measure).answers)

    def switch_to(self, manifest: Manifest, settle_s: float = 0) -> Mapping[str, str]:
        """Make the public name point at a loaded version, and check its answers.

        First on one Triton, then on the rest at once. The caller undoes a flip that failed on some Triton
        (``restore``).

        Args:
            manifest: the version.
            settle_s: how long clients of the first Triton meet the version before clients of the rest,
                seconds.

        Returns:
            The reason for which a Triton was passed over, by its address.

        Raises:
            EndedTriton: a Triton ended after the flip.
            AnsweredLate: the version is loaded, and the public name does not answer in time.
            DeployError: the flip failed, or the answer is wrong.
        """
        version = manifest.version
        # Right before the flip, on every Triton: a switch to a version that is not loaded takes the
        # public model down.
        ready = self._replicas.on_all(lambda triton: self.on(triton).require_ready(version))

        def flip_and_ask(triton: Triton) -> None:
            self._flip(manifest, triton)
            self._smoke_test(version).check_public_name(triton)

        def flip_and_settle(triton: Triton) -> None:
            flip_and_ask(triton)
            if settle_s:
                # A client's request may end a Triton where no golden input does.
                time.sleep(settle_s)

        flipped = self._replicas.one_then_rest(
            self._held(version, "was flipped to", flip_and_settle),
            self._held(version, "was flipped to", flip_and_ask),
            among=ready.answers,
            # To compare would expose the clients of a second Triton.
            compare=False,
        )
        return {**ready.away, **flipped.away}

    def restore(self, manifest: Manifest | None, spared: Collection[str] = ()) -> None:
        """Make the public name point at the live version on every Triton where it does not.

        Args:
            manifest: the live version; None when no version is live: the public name is taken down.
            spared: addresses of Tritons whose process has ended since the flip, and which may be away: a
                restarted Triton serves the version that the files name.
        """
        self._replicas.on_all(self._sparing(spared, lambda triton: self.on(triton).restore(manifest)))

    def restore_without_files(self, version: int, spared: Collection[str] = ()) -> None:
        """Make the public name point at the live version, whose files are gone, where it is still loaded.

        Triton serves an engine in its memory without the files. Where the engine is not loaded, the
        public name stays as it is and an error is logged: nothing could take its place.

        Args:
            version: the live version.
            spared: see ``restore``.
        """
        self._replicas.on_all(
            self._sparing(spared, lambda triton: self.on(triton).restore_without_files(version))
        )

    def hold(self, manifest: Manifest) -> None:
        """Have a version's engine on disk and loaded on every Triton."""
        self.files.complete_engine(manifest)

        def load(triton: Triton) -> None:
            if not self.on(triton).is_ready(manifest.version):
                self.on(triton).load(manifest.version)

        self._replicas.on_all(load)

    def retire(self, versions: Sequence[int]) -> None:
        """Unload versions and remove their engines, as far as possible.

        An engine that can't be unloaded stays, and that is logged. The folder of an engine that hangs in
        a Triton stays as well: Triton does not list an engine without a folder.
        """
        for version in versions:
            failed = [triton for triton in self._replicas.all if not self.on(triton).try_to_unload(version)]
            if not any(self.on(triton).hangs(version) for triton in failed):
                self._folder.engines.remove(version)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The Tritons' gRPC addresses, in the order of the settings."""
        return tuple(triton.url for triton in self._replicas.all)

    def serves(self, version: int) -> bool:
        """Whether every Triton answers the public name with this version."""
        asked = self._replicas.on_all(lambda triton: triton.ready_versions(self._model))
        return all(versions == (version,) for versions in asked.answers.values())

    def is_loaded(self, version: int) -> bool:
        """Whether every Triton that answers has a version ready.

        Raises:
            Unavailable: too few Tritons answer.
        """
        asked = self._replicas.on_all(lambda triton: self.on(triton).is_ready(version))
        return all(asked.answers.values())

    def first_with(self, version: int) -> str:
        """Return the address of the first Triton that has a version ready.

        Raises:
            NotFound: no Triton has it.
            Unavailable: no Triton that answers has it, and some do not answer.
        """
        silent: Unavailable | None = None
        for triton in self._replicas.all:
            try:
                if self.on(triton).is_ready(version):
                    return triton.url
            except Unavailable as error:
                silent = error
        if silent is not None:
            raise silent
        raise NotFound(
            f"No Triton has version {version} of {self._model} ready.",
            hint="They were restarted, or somebody unloaded it; deploy again.",
        )

    def without_memory_of(self, version: int, among: Collection[str]) -> tuple[str, ...]:
        """Return the Tritons that do not know an engine that they were told to load: they are new processes.

        Args:
            version: the version.
            among: addresses of the Tritons that were told; a Triton that does not answer is not returned.
        """
        lost = []
        for triton in self._replicas.all:
            with contextlib.suppress(Unavailable):
                if triton.url in among and engine_name(self._model, version) not in triton.states():
                    lost.append(triton.url)
        return tuple(lost)

    def server_versions(self) -> dict[str, str]:
        """Return the version of each Triton that answers, by its address."""
        found = {}
        for triton in self._replicas.all:
            with contextlib.suppress(DeployError):
                found[triton.url] = triton.about().version
        return found

    def public_versions(self, survey: IndexCache) -> dict[str, int | str | None]:
        """Return each Triton's version of the public name: None without one, a text if it can't be asked."""

        def ask(triton: Triton) -> int | str | None:
            try:
                versions = survey.loaded(triton, self._model).get(self._model, ())
            except DeployError as error:
                return error.message
            return versions[-1] if versions else None

        return dict(self._replicas.on_all(ask).answers)

    def _held(self, version: int, doing: str, act: Callable[[Triton], T]) -> Callable[[Triton], T]:
        """Return an action during which a lifeline holds the Triton; notes a Triton that ended."""
        watched = held_by_lifeline(act, self._model, version, doing)

        def held(triton: Triton) -> T:
            try:
                return watched(triton)
            except EndedTriton:
                self.ended[triton.url] = utc_text(datetime.now(UTC))
                self.unanswered.pop(triton.url, None)
                raise

        return held

    def _flip(self, manifest: Manifest, triton: Triton) -> None:
        try:
            self.on(triton).flip(manifest)
        except FlipUnanswered:
            self.unanswered[triton.url] = utc_text(datetime.now(UTC))
            raise

    def _sparing(self, spared: Collection[str], act: Callable[[Triton], None]) -> Callable[[Triton], None]:
        """Return an action that passes over a spared Triton that is away."""

        def back(triton: Triton) -> None:
            try:
                act(triton)
            except Unavailable as error:
                if triton.url not in spared:
                    raise
                log.warning(
                    "Triton at %s ended, and serves the live version when it is back: %s", triton.url, error
                )

        return back

    def _smoke_test(self, version: int) -> SmokeTest:
        # Imports numpy, which most steps do not need.
        from .smoke import SmokeTest

        return SmokeTest.read(self._folder, version, self._settings)
