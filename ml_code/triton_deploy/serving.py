"""What a deploy does to the Tritons of a repository, all of them alike."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from . import model_config
from .errors import (
    ArtifactRejected,
    DeployError,
    FlipUnanswered,
    NotFound,
    Unavailable,
    VerificationFailed,
)
from .names import engine_name
from .records import utc_text
from .replicas import Replicas
from .repository import Manifest
from .repository.durable import storage_errors
from .repository.versions import SMOKE_CASE, Versions
from .schema import Schema
from .settings import Settings
from .survey import Survey
from .triton import Answer, Triton

if TYPE_CHECKING:
    from .golden import SmokeCase

SMOKE_REQUESTS = 5
READY_POLL_S = 0.1

log = logging.getLogger(__name__)


class Serving:
    """One model on every Triton of the repository.

    Args:
        model: public model name.
        versions: its version directories.
        tritons: the servers.
        settings: deadlines and tolerances.

    Attributes:
        unanswered: flips of this object that got no answer and may still arrive: when, by the Triton's address.
    """

    def __init__(self, model: str, versions: Versions, tritons: Sequence[Triton], settings: Settings) -> None:
        self._model = model
        self._versions = versions
        self._replicas = Replicas(tritons, settings.quorum)
        self._settings = settings
        self.unanswered: dict[str, str] = {}

    def load_candidate(self, manifest: Manifest, *, fresh: bool) -> None:
        """Load one version's engine beside whatever serves.

        Args:
            manifest: the version.
            fresh: its files are new, so an engine of that name that is still loaded holds something else.

        Raises:
            ArtifactRejected: Triton can't load it.
            Unavailable: a Triton did not do it in time.
        """
        version = manifest.version
        engine = engine_name(self._model, version)
        self.write_engine(manifest)

        def load(triton: Triton) -> None:
            if not fresh and version in triton.ready_versions(engine):
                return
            # Also when it is not loaded: after a load that hung, an unload of an earlier deploy may wait inside Triton,
            # and would take away what is loaded now. Triton does one after the other.
            triton.unload(engine, self._settings.switch_timeout_s)
            triton.load(engine, self._settings.load_timeout_s)

        self._replicas.on_all(load)

    def wait_ready(self, version: int) -> None:
        """Wait until every Triton has exactly this version ready; raises NotFound when one has not in time.

        A load that succeeded does not say so, and neither does the unversioned ready call: both are about any version.
        """
        deadline = time.monotonic() + self._settings.ready_timeout_s

        def wait(triton: Triton) -> None:
            while not self._is_ready(triton, version):
                if time.monotonic() >= deadline:
                    raise self._not_ready(triton, version)
                time.sleep(READY_POLL_S)

        self._replicas.on_all(wait)

    def smoke(self, version: int) -> dict[str, Any]:
        """Ask exactly this version, on every Triton, and compare with the expected answers.

        Returns:
            ``source`` of the inputs, ``requests`` sent to each Triton, ``latency_ms`` (the slowest Triton's median),
            ``max_abs_error``, and the same two for each Triton below ``tritons``.

        Raises:
            VerificationFailed: wrong, non-finite or late answers.
            ArtifactRejected: the model fails on the inputs.
            NotFound, Unavailable: it is not there any more, or does not answer in time.
        """
        case = self._case(version)

        def ask(triton: Triton) -> tuple[float, float]:
            answers = [
                triton.infer(
                    engine_name(self._model, version), case.inputs, self._settings.infer_timeout_s, version
                )
                for _ in range(1 + SMOKE_REQUESTS)
            ]
            error = max(self._check(case, answer, version) for answer in answers)
            # The first request warms up and is not timed.
            return statistics.median(answer.latency_s for answer in answers[1:]), error

        measured = self._replicas.on_all(ask).answers
        latency_s = max(latency for latency, _ in measured.values())
        if latency_s > self._settings.smoke_latency_limit_s:
            raise VerificationFailed(
                f"The candidate takes {latency_s:.3f} s a request, more than {self._settings.smoke_latency_limit_s:g} s.",
                hint="Make the model faster, or raise TRITON_DEPLOY_SMOKE_LATENCY_LIMIT_S.",
            )
        return {
            "source": case.source,
            "requests": SMOKE_REQUESTS,
            **_figures(latency_s, max(error for _, error in measured.values())),
            "tritons": {url: _figures(*of_one) for url, of_one in measured.items()},
        }

    def switch_to(self, manifest: Manifest) -> Mapping[str, str]:
        """Make the public name point at a loaded version, and see that it answers there.

        The caller undoes a flip that failed on some Triton (``restore``).

        Returns:
            Why a Triton was passed over, by its address.
        """
        version = manifest.version
        # Right before the flip, on every Triton: a switch to a version that is not loaded takes the public model down.
        ready = self._replicas.on_all(lambda triton: self._require_ready(triton, version))
        flipped = self._replicas.on_all(lambda triton: self._flip(manifest, triton), among=ready.answers)
        case = self._case(version)

        def ask(triton: Triton) -> None:
            self._check(case, triton.infer(self._model, case.inputs, self._settings.infer_timeout_s), version)

        asked = self._replicas.on_all(ask, among=flipped.answers)
        return {**ready.away, **flipped.away, **asked.away}

    def restore(self, manifest: Manifest | None) -> None:
        """Make the public name point where it should, on every Triton where it does not.

        Args:
            manifest: the live version, or None when there is none: the public name is taken down.
        """
        self._replicas.on_all(lambda triton: self.restore_on(triton, manifest))

    def restore_on(self, triton: Triton, manifest: Manifest | None) -> None:
        """Make the public name point where it should on one Triton; see ``restore``."""
        pointing = triton.ready_versions(self._model)
        if manifest is None:
            if pointing:
                triton.unload(self._model, self._settings.switch_timeout_s)
            return
        if pointing == (manifest.version,):
            return
        if not self._is_ready(triton, manifest.version):
            triton.load(engine_name(self._model, manifest.version), self._settings.load_timeout_s)
        self._flip(manifest, triton)

    def hold(self, manifest: Manifest) -> None:
        """Have a version's engine on disk and loaded on every Triton, if it is not."""
        version = manifest.version
        if not self._versions.engine_is_whole(version):
            self.write_engine(manifest)

        def load(triton: Triton) -> None:
            if not self._is_ready(triton, version):
                triton.load(engine_name(self._model, version), self._settings.load_timeout_s)

        self._replicas.on_all(load)

    def serves(self, version: int) -> bool:
        """Whether every Triton answers the public name with this version."""
        asked = self._replicas.on_all(lambda triton: triton.ready_versions(self._model))
        return all(versions == (version,) for versions in asked.answers.values())

    def public_versions(self, survey: Survey) -> dict[str, int | str | None]:
        """Return what each Triton answers the public name with: a version, None, or why it can't be asked."""

        def ask(triton: Triton) -> int | str | None:
            try:
                versions = survey.loaded(triton, self._model).get(self._model, ())
            except DeployError as error:
                return error.message
            return versions[-1] if versions else None

        return dict(self._replicas.on_all(ask).answers)

    def write_engine(self, manifest: Manifest) -> None:
        """Write the engine of a version: what Triton loads its weights from."""
        config = model_config.engine_config(self._model, manifest.version, *_schema_and_options(manifest))
        self._versions.write_engine(manifest.version, model_config.to_pbtxt(config))

    def write_switch(self, manifest: Manifest) -> None:
        """Write the switch's configuration, so that a restarted Triton serves this version."""
        self._versions.write_switch(model_config.to_pbtxt(self._switch(manifest)))

    def switch_is_written(self, manifest: Manifest) -> bool:
        """Whether a restarted Triton would serve this version."""
        return self._versions.switch() == model_config.to_pbtxt(self._switch(manifest))

    def retire(self, versions: Sequence[int]) -> None:
        """Take versions out of Triton and remove their engines. Best effort: what fails is logged and stays loaded."""
        for version in versions:
            for triton in self._replicas.all:
                try:
                    if triton.ready_versions(self._model) == (version,):
                        log.warning(
                            "Triton at %s still serves version %s: it stays loaded there", triton.url, version
                        )
                    else:
                        triton.unload(engine_name(self._model, version), self._settings.switch_timeout_s)
                except DeployError as error:
                    log.warning("version %s stays loaded for now: %s", version, error)
            self._versions.remove_engine(version)

    def _flip(self, manifest: Manifest, triton: Triton) -> None:
        config = model_config.to_json(self._switch(manifest))
        try:
            triton.load(self._model, self._settings.switch_timeout_s, config)
        except Unavailable as error:
            self.unanswered[triton.url] = utc_text(datetime.now(UTC))
            raise FlipUnanswered(error.message, hint=error.hint) from error
        except ArtifactRejected as error:
            # It is our pointer that can't be loaded: the version behind it was, a moment ago.
            raise Unavailable(
                error.message,
                hint="It was restarted or somebody unloaded the version in this moment; deploy again.",
            ) from error

    def _switch(self, manifest: Manifest) -> dict[str, Any]:
        return model_config.switch_config(self._model, manifest.version, *_schema_and_options(manifest))

    def _case(self, version: int) -> SmokeCase:
        # It needs numpy, and most steps do not need it.
        from . import golden

        path = self._versions.path(version) / SMOKE_CASE
        with storage_errors(f"reading {path}"):
            text = path.read_text(encoding="utf-8")
        return golden.parse_case(text, Schema.from_dict(self._versions.need(version).schema))

    def _check(self, case: SmokeCase, answer: Answer, version: int) -> float:
        from . import golden

        if answer.version != version:
            raise VerificationFailed(
                f"Version {answer.version} answered instead of {version}.",
                hint="Check who else loads models into this Triton, then deploy again.",
            )
        return golden.largest_error(
            case, answer.outputs, rtol=self._settings.smoke_rtol, atol=self._settings.smoke_atol
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
