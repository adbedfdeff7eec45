"""What a model may take of the machine that runs it, and what is told of a model that fails.

No numpy here: a deploy's first step imports this, and runs no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ..settings import Settings

OUTPUT_BYTES = 64 << 20
"""Most bytes in one answer. In the deployer the answer becomes JSON of several times the size."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a model.

    Attributes:
        timeout_s: time limit for all requests together, seconds.
        memory_bytes: address space of the process, ONNX Runtime included.
        output_bytes: size of one answer.
        timeout_variable: name of the setting of ``timeout_s``, for messages.
    """

    timeout_s: float = Settings.smoke.reference_timeout_s
    memory_bytes: int = Settings.smoke.reference_memory_bytes
    output_bytes: int = OUTPUT_BYTES
    timeout_variable: str = "TRITON_DEPLOY_REFERENCE_TIMEOUT_S"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the deployer's limits."""
        return cls(
            timeout_s=settings.smoke.reference_timeout_s, memory_bytes=settings.smoke.reference_memory_bytes
        )


class ModelFailed(Exception):
    """The model failed, or went over a limit.

    Args:
        what: the event, as a sentence without its full stop.
        remedy: the setting to raise, as a sentence, or empty.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def advice(self, first: str) -> str:
        """Return advice: the sentence ``first``, and the remedy after it."""
        return f"{first} {self.remedy}".rstrip()


class ModelRefused(ModelFailed):
    """ONNX Runtime refuses to load or run the model, and goes on: other inputs may do."""
