"""Triton says "failed to poll from model repository" of four things; here they are told apart.

Its index says whether the model's folder is there, and whether another repository of it has one of the same name. Where it is
there, a second load with a configuration that is beyond doubt tells whether Triton refuses the configuration or can't read the folder:
one that names a backend which does not exist, so that nothing is loaded. Only then is a model blamed.
"""

from __future__ import annotations

import json
from typing import Protocol

from ...errors import ArtifactRejected, DeployError, Misconfigured, Unavailable
from ...rules.triton_errors import NotPolled

LOG = "That Triton's log has the reason, behind \"Poll failed for model directory '{model}'\""
TWICE = "model appears in two or more repositories"
"""What the index says of such a model (MODEL_READY_REASON_DUPLICATE in Triton's core)."""
NO_BACKEND = "deployer_asks_whether_it_can_read_this_folder"
"""Stands in Triton's log."""


class Asked(Protocol):
    """What is asked of the Triton that said so."""

    @property
    def url(self) -> str:
        """Address, for messages."""

    def folders(self) -> frozenset[str]:
        """Every folder of its repository."""

    def states(self) -> dict[str, str]:
        """What became of each model that it was told to load."""

    def load_once(self, model: str, timeout_s: float, config: str | None) -> None:
        """Load a model; what Triton says of it is not looked into any further."""


def told_apart(
    triton: Asked, model: str, config: str | None, timeout_s: float, error: NotPolled
) -> DeployError:
    """Return what is the matter when Triton failed to poll a model.

    Args:
        triton: the one that said so.
        model: the model it was told to load.
        config: the configuration that came with the load, in JSON; None: Triton read the file.
        timeout_s: deadline of a load, seconds.
        error: what was raised.

    Returns:
        Misconfigured: the folder is not there, or twice, or a file of ours is not as it was written. Unavailable: Triton can't read
        the folder, or its repository. ArtifactRejected: Triton refuses the configuration of a version's engine.
    """
    try:
        seen, state = model in triton.folders(), triton.states().get(model, "")
    except DeployError as why:
        # Such as no descriptor left, which is why it could not read the folder either.
        return why
    if not seen:
        return Misconfigured(
            f"Triton at {triton.url} refused loading {model}: it does not see the model in its repository.",
            hint=error.hint,
        )
    if TWICE in state:
        return Misconfigured(
            f"Triton at {triton.url} refused loading {model}: it sees that folder in two of its repositories.",
            hint="Start it with one --model-repository, that of TRITON_DEPLOY_REPOSITORY, or move the other folder away.",
        )
    if config is None or "ensemble_scheduling" in json.loads(config):
        return Misconfigured(
            f"Triton at {triton.url} refused loading {model}: it sees that folder, and refuses its configuration or that of the engine behind it.",
            hint=f"{LOG.format(model=model)}. If a file was changed or can't be read, triton-deploy reconcile writes it anew; "
            "else look at triton/config.json of the version.",
        )
    if state.startswith(("READY", "LOADING", "UNLOADING")):
        # A second load would be one of what answers.
        return error
    return _of_engine(triton, model, timeout_s, error)


def _of_engine(triton: Asked, model: str, timeout_s: float, error: NotPolled) -> DeployError:
    """Return whether the configuration is refused, or the folder can't be read."""
    beyond_doubt = {"name": model, "backend": NO_BACKEND, "max_batch_size": 0}
    try:
        triton.load_once(model, timeout_s, json.dumps(beyond_doubt))
    except NotPolled:
        return Unavailable(
            f"Triton at {triton.url} failed loading {model}: it sees that folder and can't read it.",
            hint=f"{LOG.format(model=model)}: give that Triton's user the right to read TRITON_DEPLOY_REPOSITORY, or repair the mount. The model is not at fault.",
        )
    except Unavailable:
        return error
    except DeployError:
        pass
    return ArtifactRejected(
        f"Triton at {triton.url} refused loading {model}: it reads that folder, and refuses the configuration.",
        hint=f"{LOG.format(model=model)}: correct triton/config.json, or the model's inputs and outputs, and log it again as a new version.",
    )
