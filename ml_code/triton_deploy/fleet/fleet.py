"""What a deploy does to the Tritons of a repository: first to one alone, then to the rest alike.

A model may end the process that loads or runs it. So each Triton that meets a candidate is held by a lifeline meanwhile, and no other one
meets it before the first has come through.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from ..clients.triton import Inference, Triton
from ..clients.triton.lifeline import Life
from ..errors import (
    AnsweredLate,
    ArtifactRejected,
    DeployError,
    EndedTriton,
    FlipUnanswered,
    Misconfigured,
    NotFound,
    Unavailable,
    VerificationFailed,
)
from ..model import model_config
from ..repository import ModelFolder
from ..rules.moments import utc_text
from ..rules.names import engine_name
from ..rules.schema import Schema
from ..rules.version_files import SMOKE_CASE, Manifest
from ..settings import Settings
from ..storage import storage_errors
from .index_cache import IndexCache
from .replicas import Replicas

if TYPE_CHECKING:
    from ..model.smoke_case import SmokeCase

SMOKE_REQUESTS = 5
READY_POLL_S = 0.1

log = logging.getLogger(__name__)

T = TypeVar("T")


class Fleet:
    """One model on every Triton of the repository.

    Args:
        folder: the model's place in the repository.
        tritons: the servers.
        settings: deadlines, tolerances and the quorum.

    Attributes:
        unanswered: flips of this object that got no answer and may still arrive: when, by the Triton's address.
        ended: Tritons that ended while this object did something to them: when, by address.
    """

    def __init__(self, folder: ModelFolder, tritons: Sequence[Triton], settings: Settings) -> None:
        self._model = folder.model
        self._versions = folder.versions
        self._engines = folder.engines
        self._replicas = Replicas(tritons, settings.triton.quorum)
        self._settings = settings
        self.unanswered: dict[str, str] = {}
        self.ended: dict[str, str] = {}

    def load_candidate(
        self,
        manifest: Manifest,
        deploy_id: str,
        *,
        fresh: bool,
        first: Callable[[str], object] = lambda url: None,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Load one version's engine beside whatever serves: into one Triton, which has to answer, then into the rest at once.

        Args:
            manifest: the version.
            deploy_id: the deployment that wants it.
            fresh: its files are new, so an engine of that name that is still loaded holds something else.
            first: told the address of each Triton that is to meet it alone.
            then: called when one has come through it, before the rest get it.

        Raises:
            EndedTriton: a Triton ended while it loaded or ran it.
            ArtifactRejected: Triton can't load it.
            Unavailable: a Triton did not do it in time.
        """
        version = manifest.version
        engine = engine_name(self._model, version)
        if fresh or not self.engine_is_whole(manifest):
            self._engines.write_candidate(version, deploy_id, model_config.to_pbtxt(self._engine(manifest)))
        config = model_config.to_json(self._engine(manifest))

        def load(triton: Triton) -> bool:
            if not fresh and version in triton.ready_versions(engine):
                return False
            # Also when it is not loaded: after a load that hung, an unload of an earlier deploy may wait inside Triton,
            # and would take away what is loaded now. Triton does one after the other.
            triton.unload(engine, self._settings.triton.switch_timeout_s)
            self._load(triton, engine, self._settings.triton.load_timeout_s, config)
            return True

        def load_and_ask(triton: Triton) -> bool:
            first(triton.url)
            if load(triton):
                self._let_it_answer(triton, version)
            return True

        self._replicas.one_then_rest(
            self._held(version, "loaded", load_and_ask), self._held(version, "loaded", load), then=then
        )

    def wait_ready(self, version: int) -> None:
        """Wait until every Triton has exactly this version ready; raises NotFound when one has not in time.

        A load that succeeded does not say so, and neither does the unversioned ready call: both are about any version.
        """
        self._replicas.on_all(lambda triton: self._wait_ready(triton, version))

    def smoke(self, version: int) -> dict[str, Any]:
        """Ask exactly this version, on every Triton, and compare with the expected answers.

        Returns:
            ``source`` of the inputs, ``requests`` sent to each Triton, ``latency_ms`` (the slowest Triton's median),
            ``max_abs_error``, and the same two for each Triton below ``tritons``.

        Raises:
            VerificationFailed: wrong or non-finite answers.
            AnsweredLate: late ones.
            EndedTriton: a Triton ended over it.
            ArtifactRejected: the model fails on the inputs.
            NotFound, Unavailable: it is not there any more, or does not answer in time.
        """
        case = self._case(version)

        def ask(triton: Triton) -> tuple[float, float]:
            answers = self._ask_engine(triton, case, version)
            error = max(self._check(case, answer, version) for answer in answers)
            # The first request warms up and is not timed.
            return statistics.median(answer.latency_s for answer in answers[1:]), error

        held = self._held(version, "answered with", ask)
        measured = self._replicas.one_then_rest(held, held).answers
        latency_s = max(latency for latency, _ in measured.values())
        if latency_s > self._settings.smoke.latency_limit_s:
            raise AnsweredLate(
                f"The candidate takes {latency_s:.3f} s a request, more than {self._settings.smoke.latency_limit_s:g} s.",
                hint="A busy machine looks the same: deploy again. If it lasts, make the model faster, or raise TRITON_DEPLOY_SMOKE_LATENCY_LIMIT_S.",
            )
        return {
            "source": case.source,
            "requests": SMOKE_REQUESTS,
            **_figures(latency_s, max(error for _, error in measured.values())),
            "tritons": {url: _figures(*of_one) for url, of_one in measured.items()},
        }

    def switch_to(self, manifest: Manifest, settle_s: float = 0) -> Mapping[str, str]:
        """Make the public name point at a loaded version, and see that it answers there: on one Triton, then on the rest at once.

        The caller undoes a flip that failed on some Triton (``restore``).

        Args:
            manifest: the version.
            settle_s: how long clients of the first Triton meet it before those of the rest, seconds.

        Returns:
            Why a Triton was passed over, by its address.

        Raises:
            EndedTriton: a Triton ended over it.
            AnsweredLate: it is loaded, and the public name does not answer in time.
            DeployError: the flip failed, or the answer is wrong.
        """
        version = manifest.version
        # Right before the flip, on every Triton: a switch to a version that is not loaded takes the public model down.
        ready = self._replicas.on_all(lambda triton: self._require_ready(triton, version))

        def flip_and_ask(triton: Triton) -> None:
            self._flip(manifest, triton)
            case = self._case(version)
            for _ in range(1 + SMOKE_REQUESTS):
                self._check(case, self._ask_public(triton, case), version)

        def flip_and_settle(triton: Triton) -> None:
            flip_and_ask(triton)
            if settle_s:
                # What a client sends may do what no golden input does.
                time.sleep(settle_s)

        flipped = self._replicas.one_then_rest(
            self._held(version, "was flipped to", flip_and_settle),
            self._held(version, "was flipped to", flip_and_ask),
            among=ready.answers,
            # Clients of a second Triton are not to find out who is at fault.
            compare=False,
        )
        return {**ready.away, **flipped.away}

    def restore(self, manifest: Manifest | None, spared: Collection[str] = ()) -> None:
        """Make the public name point where it should, on every Triton where it does not.

        Args:
            manifest: the live version, or None when there is none: the public name is taken down.
            spared: addresses of Tritons whose process has ended since it was flipped, which may be away: a restarted one serves what
                the files say.
        """
        self._everywhere(lambda triton: self.restore_on(triton, manifest), spared)

    def _everywhere(self, act: Callable[[Triton], object], spared: Collection[str]) -> None:
        def back(triton: Triton) -> None:
            try:
                act(triton)
            except Unavailable as error:
                if triton.url not in spared:
                    raise
                log.warning(
                    "Triton at %s ended, and serves what is live when it is back: %s", triton.url, error
                )

        self._replicas.on_all(back)

    def restore_on(self, triton: Triton, manifest: Manifest | None) -> None:
        """Make the public name point where it should on one Triton; see ``restore``."""
        pointing = triton.ready_versions(self._model)
        if manifest is None:
            if pointing:
                triton.unload(self._model, self._settings.triton.switch_timeout_s)
            return
        if pointing == (manifest.version,):
            return
        if not self._is_ready(triton, manifest.version):
            self._load(
                triton, engine_name(self._model, manifest.version), self._settings.triton.load_timeout_s
            )
        self._flip(manifest, triton)

    def restore_without_files(self, version: int, spared: Collection[str] = ()) -> None:
        """Make the public name point at the live version whose files are gone, on every Triton where it is still loaded.

        What Triton has in memory serves without its files. Where it does not, nothing is taken away, and that is logged: there is
        nothing to put in its place.

        Args:
            version: the live version.
            spared: see ``restore``.
        """
        self._everywhere(lambda triton: self.restore_without_files_on(triton, version), spared)

    def restore_without_files_on(self, triton: Triton, version: int) -> None:
        """Make the public name point at a version in memory, on one Triton; see ``restore_without_files``."""
        if triton.ready_versions(self._model) == (version,):
            return
        try:
            if not self._is_ready(triton, version):
                raise NotFound("It is not loaded there, and its files are gone.", hint="Restore them.")
            # The last commit wrote it, and no deploy that failed has changed it.
            config = model_config.json_of(self._versions.switch() or "", self._model, version)
            self._load(triton, self._model, self._settings.triton.switch_timeout_s, config)
        except Unavailable:
            raise
        except (DeployError, ValueError) as error:
            log.error("Triton at %s does not serve version %s, which is live: %s", triton.url, version, error)

    def hold(self, manifest: Manifest) -> None:
        """Have a version's engine on disk and loaded on every Triton, if it is not."""
        version = manifest.version
        self.complete_engine(manifest)

        def load(triton: Triton) -> None:
            if not self._is_ready(triton, version):
                self._load(triton, engine_name(self._model, version), self._settings.triton.load_timeout_s)

        self._replicas.on_all(load)

    def serves(self, version: int) -> bool:
        """Whether every Triton answers the public name with this version."""
        asked = self._replicas.on_all(lambda triton: triton.ready_versions(self._model))
        return all(versions == (version,) for versions in asked.answers.values())

    def is_loaded(self, version: int) -> bool:
        """Whether every Triton that answers has a version ready.

        Raises:
            Unavailable: too few answer.
        """
        asked = self._replicas.on_all(lambda triton: self._is_ready(triton, version))
        return all(asked.answers.values())

    @property
    def addresses(self) -> tuple[str, ...]:
        """The Tritons' gRPC addresses, in the order of the settings."""
        return tuple(triton.url for triton in self._replicas.all)

    def first_with(self, version: int) -> str:
        """Return the address of the first Triton that has a version ready.

        Raises:
            NotFound: none has it.
            Unavailable: none that answers has it, and some do not answer.
        """
        silent: Unavailable | None = None
        for triton in self._replicas.all:
            try:
                if self._is_ready(triton, version):
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
        """Return which Tritons know nothing of an engine that they were told to load: theirs is another process since.

        Args:
            version: the version.
            among: addresses of those that were told; one that does not answer is not among the returned.
        """
        lost = []
        for triton in self._replicas.all:
            with contextlib.suppress(Unavailable):
                if triton.url in among and engine_name(self._model, version) not in triton.states():
                    lost.append(triton.url)
        return tuple(lost)

    def public_versions(self, survey: IndexCache) -> dict[str, int | str | None]:
        """Return what each Triton answers the public name with: a version, None, or why it can't be asked."""

        def ask(triton: Triton) -> int | str | None:
            try:
                versions = survey.loaded(triton, self._model).get(self._model, ())
            except DeployError as error:
                return error.message
            return versions[-1] if versions else None

        return dict(self._replicas.on_all(ask).answers)

    def complete_engine(self, manifest: Manifest) -> None:
        """Make a Triton that is restarted load a version, if it would not yet."""
        if not self.engine_is_whole(manifest):
            self._engines.complete(manifest.version, model_config.to_pbtxt(self._engine(manifest)))

    def engine_is_whole(self, manifest: Manifest) -> bool:
        """Whether a Triton that is restarted would load a version, with the configuration that is its own."""
        return self._engines.is_whole(manifest.version, model_config.to_pbtxt(self._engine(manifest)))

    def write_switch(self, manifest: Manifest) -> None:
        """Write the switch's configuration, so that a restarted Triton serves this version."""
        self._versions.write_switch(model_config.to_pbtxt(self._switch(manifest)))

    def switch_is_written(self, manifest: Manifest) -> bool:
        """Whether a restarted Triton would serve this version."""
        return self._versions.switch() == model_config.to_pbtxt(self._switch(manifest))

    def retire(self, versions: Sequence[int]) -> None:
        """Take versions out of Triton and remove their engines. Best effort: what fails is logged and stays loaded.

        The engine of one that hangs in a Triton stays as well: without its folder, Triton does not list it any more.
        """
        for version in versions:
            hangs = False
            for triton in self._replicas.all:
                try:
                    if triton.ready_versions(self._model) == (version,):
                        log.warning(
                            "Triton at %s still serves version %s: it stays loaded there", triton.url, version
                        )
                    else:
                        triton.unload(
                            engine_name(self._model, version), self._settings.triton.switch_timeout_s
                        )
                except DeployError as error:
                    log.warning("version %s stays loaded for now: %s", version, error)
                    hangs = hangs or self._hangs(triton, version)
            if not hangs:
                self._engines.remove(version)

    def load(self, triton: Triton, version: int) -> None:
        """Load a version's engine into one Triton, as its files say."""
        self._load(triton, engine_name(self._model, version), self._settings.triton.load_timeout_s)

    def _load(self, triton: Triton, name: str, timeout_s: float, config: str | None = None) -> None:
        """The one place that loads: a directory that came meanwhile and ends a Triton is seen here."""
        self._versions.clear_the_way()
        self._versions.refuse_traps()
        triton.load(name, timeout_s, config)

    def _hangs(self, triton: Triton, version: int) -> bool:
        with contextlib.suppress(DeployError):
            return engine_name(self._model, version) in triton.index().hanging
        return False

    def _flip(self, manifest: Manifest, triton: Triton) -> None:
        try:
            self._point(manifest, triton)
        except Unavailable as error:
            self.unanswered[triton.url] = utc_text(datetime.now(UTC))
            raise FlipUnanswered(error.message, hint=error.hint) from error
        except ArtifactRejected as error:
            # It is our pointer that can't be loaded: the version behind it was, a moment ago.
            raise Unavailable(
                error.message,
                hint="It was restarted or somebody unloaded the version in this moment; deploy again.",
            ) from error

    def _point(self, manifest: Manifest, triton: Triton) -> None:
        config = model_config.to_json(self._switch(manifest))
        try:
            self._load(triton, self._model, self._settings.triton.switch_timeout_s, config)
        except Misconfigured:
            # Somebody changed something in the engine's folder since its load, a hard link or a mode, and Triton has read the file:
            # see engines.py. A load that carries the configuration makes it look away again, and loads no weights.
            engine = model_config.to_json(self._engine(manifest))
            self._load(
                triton,
                engine_name(self._model, manifest.version),
                self._settings.triton.load_timeout_s,
                engine,
            )
            self._load(triton, self._model, self._settings.triton.switch_timeout_s, config)

    def _held(self, version: int, doing: str, act: Callable[[Triton], T]) -> Callable[[Triton], T]:
        """Return an action during which the Triton is held by a lifeline.

        Args:
            version: the version that it meets.
            doing: what the Triton does meanwhile, as it reads after "while it" with the version behind it.
            act: the action.
        """
        doing = f"it {doing} version {version} of {self._model}"

        def held(triton: Triton) -> T:
            with triton.lifeline(engine_name(self._model, version)) as line:
                try:
                    result = act(triton)
                except DeployError as error:
                    life = line.look()
                    if life is Life.SAME or (life is Life.SILENT and isinstance(error, Unavailable)):
                        raise
                    raise self._gone(triton, life, doing) from error
                life = line.look()
            if life is not Life.SAME:
                raise self._gone(triton, life, doing)
            return result

        return held

    def _gone(self, triton: Triton, life: Life, doing: str) -> DeployError:
        if life is Life.SILENT:
            return Unavailable(
                f"Triton at {triton.url} has fallen silent while {doing}.",
                hint="Check that Triton and the network, then deploy again.",
            )
        if life is Life.LEFT:
            return Unavailable(
                f"Triton at {triton.url} was stopped by somebody while {doing}.",
                hint="Deploy again when it is back.",
            )
        self.ended[triton.url] = utc_text(datetime.now(UTC))
        self.unanswered.pop(triton.url, None)
        return EndedTriton(
            f"Triton at {triton.url} ended while {doing}.",
            hint="The model is suspected, and refused from now on. A restart by hand at that moment looks the same: if it was one, "
            f"take the model again with 'triton-deploy deploy {self._model} --alias ALIAS --force'. Else see that Triton's log.",
        )

    def _let_it_answer(self, triton: Triton, version: int) -> None:
        """See that the engine answers at all; whether it is ready, and what it answers, is for the next steps."""
        with contextlib.suppress(ArtifactRejected, NotFound):
            self._ask_engine(triton, self._case(version), version)

    def _ask_engine(self, triton: Triton, case: SmokeCase, version: int) -> list[Inference]:
        from ..model import smoke_case

        engine = engine_name(self._model, version)
        try:
            return [
                triton.infer(engine, case.inputs, self._settings.triton.infer_timeout_s, version)
                for _ in range(1 + SMOKE_REQUESTS)
            ]
        except ArtifactRejected as error:
            raise smoke_case.asked_with(case, error) from error

    def _ask_public(self, triton: Triton, case: SmokeCase) -> Inference:
        timeout_s = self._settings.triton.infer_timeout_s
        began = time.monotonic()
        try:
            return triton.infer(self._model, case.inputs, timeout_s)
        except Unavailable as error:
            if time.monotonic() - began < timeout_s:
                raise
            # The engine behind it answered a moment ago: no other Triton is to try the same.
            raise AnsweredLate(error.message, hint=error.hint) from error

    def _wait_ready(self, triton: Triton, version: int) -> None:
        deadline = time.monotonic() + self._settings.triton.ready_timeout_s
        while not self._is_ready(triton, version):
            if time.monotonic() >= deadline:
                raise self._not_ready(triton, version)
            time.sleep(READY_POLL_S)

    def _engine(self, manifest: Manifest) -> dict[str, Any]:
        return model_config.engine_config(self._model, manifest.version, *_schema_and_options(manifest))

    def _switch(self, manifest: Manifest) -> dict[str, Any]:
        return model_config.switch_config(self._model, manifest.version, *_schema_and_options(manifest))

    def _case(self, version: int) -> SmokeCase:
        # It needs numpy, and most steps do not need it.
        from ..model import smoke_case

        path = self._versions.path(version) / SMOKE_CASE
        with storage_errors(f"reading {path}"):
            text = path.read_text(encoding="utf-8")
        return smoke_case.parse_case(text, Schema.from_dict(self._versions.require(version).schema))

    def _check(self, case: SmokeCase, answer: Inference, version: int) -> float:
        from ..model import smoke_case

        if answer.version != version:
            raise VerificationFailed(
                f"Version {answer.version} answered instead of {version}.",
                hint="Check who else loads models into this Triton, then deploy again.",
            )
        return smoke_case.largest_error(
            case, answer.outputs, rtol=self._settings.smoke.rtol, atol=self._settings.smoke.atol
        )

    def _is_ready(self, triton: Triton, version: int) -> bool:
        return version in triton.ready_versions(engine_name(self._model, version))

    def _require_ready(self, triton: Triton, version: int) -> None:
        if not self._is_ready(triton, version):
            raise self._not_ready(triton, version)

    def _not_ready(self, triton: Triton, version: int) -> NotFound:
        return NotFound(
            f"Triton at {triton.url} does not have version {version} of {self._model} ready.",
            hint="It was restarted or somebody unloaded it; deploy again.",
        )


def _figures(latency_s: float, error: float) -> dict[str, float]:
    return {"latency_ms": round(latency_s * 1000, 3), "max_abs_error": error}


def _schema_and_options(manifest: Manifest) -> tuple[Schema, dict[str, Any]]:
    return Schema.from_dict(manifest.schema), dict(manifest.options)
