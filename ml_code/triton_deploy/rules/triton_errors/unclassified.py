"""Texts that model and node may both cause, and the rows that fit every other text."""

from __future__ import annotations

from ...errors import Unavailable, Unclassified
from .calls import ASKING, BLAMES, LOADING, Call
from .row import Row

ROWS = (
    Row(
        "GPU is not there",
        Unclassified,
        "The configuration asks for a GPU that this Triton does not have: see nvidia-smi there, or set KIND_CPU in triton/config.json. If another Triton says the same, the model is refused.",
        # model_config_utils.cc, ValidateInstanceGroup; stand-in, choose_providers.
        says=(
            r"instance group .* (?:has kind KIND_GPU but (?:server does not|no GPUs)|specifies invalid or unsupported gpu id)",
            r"KIND_GPU is configured, but there is only ",
        ),
        during=LOADING,
    ),
    Row(
        "stub died at work",
        Unclassified,
        "Its Python stub ended while it answered: see that Triton's log (the model, or the memory of the machine), then deploy again. If another Triton says the same, the model is refused.",
        # python_be.cc.
        says=(r"Stub process (?:'[^']*' )?is not healthy", r"Failed to process the requests"),
        during=ASKING,
    ),
    Row(
        "not known, and no model's doing",
        Unavailable,
        "See that Triton's log; repair what it names, then deploy again. The model is not at fault.",
        during=(Call.UNLOADING, Call.LISTING, Call.ABOUT, Call.READING),
    ),
    Row(
        "not known",
        Unclassified,
        "See that Triton's log; repair what it names, then deploy again. If the model is at fault, it is refused as soon as another Triton says the same.",
        during=BLAMES,
    ),
)
