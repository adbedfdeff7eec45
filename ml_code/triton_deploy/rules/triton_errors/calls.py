"""The calls of Triton, and which of them may blame a model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_CONFIG, _INPUTS = "its triton/config.json", "the golden inputs logged with it"
_LOAD_LIMIT = "TRITON_DEPLOY_LOAD_TIMEOUT_S (for the public name: TRITON_DEPLOY_SWITCH_TIMEOUT_S)"
_INFER_LIMIT, _OTHER_LIMIT = "TRITON_DEPLOY_INFER_TIMEOUT_S", "TRITON_DEPLOY_SWITCH_TIMEOUT_S"


class Call(Enum):
    """A call of Triton.

    Attributes:
        participle: how messages name the call.
        limit: the setting that is the call's deadline.
        repair: the part of the artifact, besides the model, that may have made the call fail; empty if the
            call never blames an artifact.
    """

    LOADING = "loading", _LOAD_LIMIT, _CONFIG
    UNLOADING = "unloading", _OTHER_LIMIT
    LISTING = "listing its models", _OTHER_LIMIT
    ABOUT = "saying what it is", _OTHER_LIMIT
    READING = "telling the configuration of", _OTHER_LIMIT
    ASKING = "asking", _INFER_LIMIT, _INPUTS

    def __init__(self, participle: str, limit: str, repair: str = "") -> None:
        self.participle = participle
        self.limit = limit
        self.repair = repair

    @property
    def may_blame(self) -> bool:
        """Whether the model does something in this call, and may do it wrongly."""
        return bool(self.repair)


ANY = tuple(Call)
LOADING, ASKING = (Call.LOADING,), (Call.ASKING,)
BLAMES = tuple(call for call in Call if call.may_blame)


@dataclass(frozen=True)
class Doing:
    """A call under way, and its model if it has one."""

    call: Call
    model: str = ""

    def __str__(self) -> str:
        return f"{self.call.participle} {self.model}".strip()
