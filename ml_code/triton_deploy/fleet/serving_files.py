"""The files from which a restarted Triton serves a model: configurations of engines and switch."""

from __future__ import annotations

from typing import Any

from ..model import model_config
from ..repository import ModelFolder
from ..rules.schema import Schema
from ..rules.version_files import Manifest


class ServingFiles:
    """Configurations of a model's engines and switch: as JSON for a load, as files for a restarted Triton.

    Args:
        folder: the model's place in the repository.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self._model = folder.model
        self._switch_config = folder.switch_config
        self._engines = folder.engines

    def engine_json(self, manifest: Manifest) -> str:
        """Return the configuration of a version's engine, for a load."""
        return model_config.to_json(self._engine(manifest))

    def switch_json(self, manifest: Manifest) -> str:
        """Return the configuration of the switch to a version, for a load."""
        return model_config.to_json(self._switch(manifest))

    def written_switch_json(self, version: int) -> str:
        """Return the configuration in the switch's file, for a load; raises ValueError if it does not fit."""
        return model_config.json_of(self._switch_config.read() or "", self._model, version)

    def write_candidate(self, manifest: Manifest, deploy_id: str) -> None:
        """Write the engine of a candidate, which a restarted Triton does not load."""
        self._engines.write_candidate(
            manifest.version, deploy_id, model_config.to_pbtxt(self._engine(manifest))
        )

    def complete_engine(self, manifest: Manifest) -> None:
        """Make a restarted Triton load a version's engine, if it would not yet."""
        if not self.engine_is_whole(manifest):
            self._engines.complete(manifest.version, model_config.to_pbtxt(self._engine(manifest)))

    def engine_is_whole(self, manifest: Manifest) -> bool:
        """Whether a restarted Triton would load a version's engine, with its own configuration."""
        return self._engines.is_whole(manifest.version, model_config.to_pbtxt(self._engine(manifest)))

    def write_switch(self, manifest: Manifest) -> None:
        """Write the switch's configuration, so that a restarted Triton serves this version."""
        self._switch_config.write(model_config.to_pbtxt(self._switch(manifest)))

    def switch_is_written(self, manifest: Manifest) -> bool:
        """Whether a restarted Triton would serve this version."""
        return self._switch_config.read() == model_config.to_pbtxt(self._switch(manifest))

    def _engine(self, manifest: Manifest) -> dict[str, Any]:
        schema = Schema.from_dict(manifest.schema)
        return model_config.engine_config(self._model, manifest.version, schema, manifest.options)

    def _switch(self, manifest: Manifest) -> dict[str, Any]:
        schema = Schema.from_dict(manifest.schema)
        return model_config.switch_config(self._model, manifest.version, schema, manifest.options)
