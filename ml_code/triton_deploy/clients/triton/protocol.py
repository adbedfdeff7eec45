"""One Triton as the deployer uses it, and the values that it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from .lifeline import Lifeline

if TYPE_CHECKING:
    from ...model.smoke_case import Array

UNLOADED = "unloaded"
"""Triton's reason in the state of a model that it was told to unload (model_repository_manager.cc)."""
TWICE = "model appears in two or more repositories"
"""Triton's reason in the state of such a model (MODEL_READY_REASON_DUPLICATE in Triton's core)."""


@dataclass(frozen=True)
class Inference:
    """An answer to an inference request.

    Attributes:
        version: the version that answered, as Triton reports it.
        outputs: arrays by output name.
        latency_s: seconds from request to answer.
    """

    version: int
    outputs: Mapping[str, Array]
    latency_s: float


class Phase(StrEnum):
    """The phase of a model in Triton, by the words of Triton's index."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        return cls.UNKNOWN


@dataclass(frozen=True)
class ModelState:
    """The state of one model in one Triton; as text such as ``UNAVAILABLE: unloaded``.

    Attributes:
        phase: the phase of the model.
        reason: Triton's reason; empty for most phases.
    """

    phase: Phase
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.phase}: {self.reason}" if self.reason else self.phase

    @property
    def is_held(self) -> bool:
        """Whether Triton has the model, or is loading or unloading it."""
        return self.phase is not Phase.UNAVAILABLE

    @property
    def is_hanging(self) -> bool:
        """Whether Triton is loading or unloading the model, for a moment or for ever."""
        return self.phase in (Phase.LOADING, Phase.UNLOADING)

    @property
    def is_lost(self) -> bool:
        """Whether the model could not be loaded or has failed since, and was not unloaded on request."""
        return self.phase is Phase.UNAVAILABLE and self.reason != UNLOADED

    @property
    def is_twice(self) -> bool:
        """Whether two of Triton's repositories have a model of this name."""
        return TWICE in self.reason


@dataclass(frozen=True)
class Index:
    """The models of one Triton's repository.

    Attributes:
        ready: the versions that answer requests, ascending, of every model that has such versions.
        states: the state of each model that this process was ever told to load.
    """

    ready: Mapping[str, tuple[int, ...]]
    states: Mapping[str, ModelState]

    @property
    def held(self) -> Mapping[str, ModelState]:
        """The models that Triton has, or is loading or unloading."""
        return {name: state for name, state in self.states.items() if state.is_held}

    @property
    def hanging(self) -> Mapping[str, ModelState]:
        """The models that Triton is loading or unloading, for a moment or for ever."""
        return {name: state for name, state in self.states.items() if state.is_hanging}


@dataclass(frozen=True)
class ServerInfo:
    """A Triton's own description: its version and its protocol extensions."""

    version: str
    extensions: tuple[str, ...]


class Triton(Protocol):
    """One Triton server, as a deploy uses it.

    Every call raises Unavailable when the server does not answer within the call's deadline.
    """

    @property
    def url(self) -> str:
        """The server's address, for messages."""

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        """Load a model from the repository, or reload it.

        Args:
            model: Triton model name.
            timeout_s: deadline, seconds; Triton goes on loading after it.
            config: configuration in JSON that this load uses instead of the file's.

        Raises:
            ArtifactRejected: Triton can't load the model; the text is Triton's.
            Unclassified: the reason is not known; see triton_errors.
        """

    def unload(self, model: str, timeout_s: float) -> None:
        """Unload a model; a model that is not loaded is no error."""

    def loaded(self) -> dict[str, tuple[int, ...]]:
        """Return every model that has versions that answer requests, with those versions, ascending."""

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """Return the versions of a model that answer requests, ascending."""

    def states(self) -> dict[str, ModelState]:
        """Return the state of each model that this process was ever told to load: see Index."""

    def index(self) -> Index:
        """Return the state of all models of the server's repository, in one call."""

    def about(self) -> ServerInfo:
        """Return the server's description of itself."""

    def configuration(self, model: str) -> Mapping[str, Any]:
        """Return a loaded model's configuration as its backend completed it, as JSON values.

        Raises:
            NotFound: the model is not loaded.
        """

    def lifeline(self, model: str) -> AbstractContextManager[Lifeline]:
        """Return a connection that tells later whether the server is still the same process.

        Args:
            model: a model that the server is told to load meanwhile, or was told to load before.
        """

    def infer(
        self, model: str, inputs: Mapping[str, Array], timeout_s: float, version: int | None = None
    ) -> Inference:
        """Send one inference request to a model, or to exactly one version of it.

        Raises:
            NotFound: there is no such model or version.
            ArtifactRejected: the model failed on these inputs; the text is Triton's.
            Unclassified: the reason is not known; see triton_errors.
        """
