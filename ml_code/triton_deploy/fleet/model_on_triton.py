"""One model on one Triton: loads the engines there, and makes the public name point at one of them."""

from __future__ import annotations

import contextlib
import logging
import time

from ..clients.triton import Triton
from ..errors import ArtifactRejected, DeployError, FlipUnanswered, Misconfigured, NotFound, Unavailable
from ..model import model_config, reported_shapes
from ..repository import ModelFolder
from ..rules.names import engine_name
from ..rules.schema import Schema
from ..rules.shapes import Reported
from ..rules.version_files import Manifest
from ..settings import Settings
from .serving_files import ServingFiles

READY_POLL_S = 0.1

log = logging.getLogger(__name__)


NOT_TOLD = (ArtifactRejected, Misconfigured, NotFound, ValueError)
"""Errors of ``ModelOnTriton.ask_shapes`` of a Triton that answers, and does not tell its shapes."""


class ModelOnTriton:
    """One model on one Triton.

    Args:
        triton: the server.
        folder: the model's place in the repository.
        files: the configurations of the model's engines and switch.
        settings: deadlines.
    """

    def __init__(self, triton: Triton, folder: ModelFolder, files: ServingFiles, settings: Settings) -> None:
        self._triton = triton
        self._model = folder.model
        self._traps = folder.traps
        self._files = files
        self._settings = settings

    def is_ready(self, version: int) -> bool:
        """Whether a version's engine answers requests."""
        return version in self._triton.ready_versions(engine_name(self._model, version))

    def require_ready(self, version: int) -> None:
        """Raise NotFound when a version's engine does not answer requests."""
        if not self.is_ready(version):
            raise self._not_ready(version)

    def wait_ready(self, version: int) -> None:
        """Wait until a version's engine answers requests; raises NotFound when it does not in time."""
        deadline = time.monotonic() + self._settings.triton.ready_timeout_s
        while not self.is_ready(version):
            if time.monotonic() >= deadline:
                raise self._not_ready(version)
            time.sleep(READY_POLL_S)

    def load_candidate(self, manifest: Manifest, *, fresh: bool) -> bool:
        """Load a candidate's engine, if it is not loaded; returns whether it was loaded now.

        Args:
            manifest: the candidate.
            fresh: the candidate's files are new, so a loaded engine of that name holds other files.
        """
        engine = engine_name(self._model, manifest.version)
        if not fresh and self.is_ready(manifest.version):
            return False
        # Unload an engine that is not loaded, too. After a load that hung, an unload of an earlier deploy
        # may wait inside Triton, and would unload this candidate. Triton does one after the other.
        self._triton.unload(engine, self._settings.triton.switch_timeout_s)
        self._load(engine, self._settings.triton.load_timeout_s, self._files.engine_json(manifest))
        return True

    def ask_shapes(self, manifest: Manifest) -> Reported:
        """Load a candidate's engine without tensors, look at its completed configuration, and unload it.

        Args:
            manifest: the candidate, which is not loaded.

        Raises:
            ValueError: Triton does not complete the configuration, or names other tensors or types.
            DeployError: see ``Triton.load`` and ``Triton.configuration``.
        """
        engine, wait_s = engine_name(self._model, manifest.version), self._settings.triton.switch_timeout_s
        asking = model_config.to_json(reported_shapes.asking_config(self._model, manifest))
        self._triton.unload(engine, wait_s)
        try:
            self._load(engine, self._settings.triton.load_timeout_s, asking)
            completed = self._triton.configuration(engine)
        finally:
            # Clients are never to meet it: it may have a batch size that nobody asked for.
            self._triton.unload(engine, wait_s)
        schema = reported_shapes.reported_schema(completed, Schema.from_dict(manifest.schema))
        return Reported(schema, f"{self._triton.about().version} at {self._triton.url}")

    def load(self, version: int) -> None:
        """Load a version's engine, as its files say."""
        self._load(engine_name(self._model, version), self._settings.triton.load_timeout_s)

    def flip(self, manifest: Manifest) -> None:
        """Make the public name point at a loaded version.

        Raises:
            FlipUnanswered: Triton did not answer, and the flip may still arrive.
            Unavailable: the version is not loaded any more.
            DeployError: see ``Triton.load``.
        """
        try:
            self._point(manifest)
        except Unavailable as error:
            raise FlipUnanswered(error.message, hint=error.hint) from error
        except ArtifactRejected as error:
            # Our switch failed to load, not the model: the version behind the switch was ready a moment ago.
            raise Unavailable(
                error.message,
                hint="It was restarted or somebody unloaded the version in this moment; deploy again.",
            ) from error

    def restore(self, manifest: Manifest | None) -> None:
        """Make the public name point at the live version, or take it down.

        Args:
            manifest: the live version; None when no version is live.
        """
        pointing = self._triton.ready_versions(self._model)
        if manifest is None:
            if pointing:
                self._triton.unload(self._model, self._settings.triton.switch_timeout_s)
            return
        if pointing == (manifest.version,):
            return
        if not self.is_ready(manifest.version):
            self.load(manifest.version)
        self.flip(manifest)

    def restore_without_files(self, version: int) -> None:
        """Make the public name point at a version in Triton's memory whose files are gone; see ``Fleet``.

        Raises:
            Unavailable: Triton does not answer.
        """
        if self._triton.ready_versions(self._model) == (version,):
            return
        try:
            if not self.is_ready(version):
                raise NotFound("It is not loaded there, and its files are gone.", hint="Restore them.")
            # The last commit wrote the switch's file, and no failed deploy has changed it.
            config = self._files.written_switch_json(version)
            self._load(self._model, self._settings.triton.switch_timeout_s, config)
        except Unavailable:
            raise
        except (DeployError, ValueError) as error:
            log.error(
                "Triton at %s does not serve version %s, which is live: %s", self._triton.url, version, error
            )

    def try_to_unload(self, version: int) -> bool:
        """Unload a version's engine that does not serve; logs an error of Triton, and returns false."""
        try:
            if self._triton.ready_versions(self._model) == (version,):
                log.warning(
                    "Triton at %s still serves version %s: it stays loaded there", self._triton.url, version
                )
            else:
                self._triton.unload(engine_name(self._model, version), self._settings.triton.switch_timeout_s)
        except DeployError as error:
            log.warning("version %s stays loaded for now: %s", version, error)
            return False
        return True

    def hangs(self, version: int) -> bool:
        """Whether Triton is loading or unloading a version's engine; false where Triton does not answer."""
        with contextlib.suppress(DeployError):
            return engine_name(self._model, version) in self._triton.index().hanging
        return False

    def _point(self, manifest: Manifest) -> None:
        config = self._files.switch_json(manifest)
        try:
            self._load(self._model, self._settings.triton.switch_timeout_s, config)
        except Misconfigured:
            # A hard link or a mode in the engine's folder has changed since its load, and Triton has read
            # the file again: see engines.py. A load with the configuration makes Triton ignore the file
            # again, and loads no weights.
            engine = engine_name(self._model, manifest.version)
            self._load(engine, self._settings.triton.load_timeout_s, self._files.engine_json(manifest))
            self._load(self._model, self._settings.triton.switch_timeout_s, config)

    def _load(self, name: str, timeout_s: float, config: str | None = None) -> None:
        """Load a Triton model, as all loads do: after a look for directories that would end Triton."""
        self._traps.remove_dangling_links()
        self._traps.refuse()
        self._triton.load(name, timeout_s, config)

    def _not_ready(self, version: int) -> NotFound:
        return NotFound(
            f"Triton at {self._triton.url} does not have version {version} of {self._model} ready.",
            hint="It was restarted or somebody unloaded it; deploy again.",
        )
