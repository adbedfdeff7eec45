"""Triton says "failed to poll from model repository" for four reasons; this module finds out which.

Triton's index shows whether the model's folder is there, and whether two of Triton's repositories have a
folder of that name. If it is there once, a second load with a configuration that is certainly right tells
whether Triton refuses the configuration or can't read the folder. That configuration names a backend that
does not exist, so nothing is loaded. The model is blamed only after such a second load.
"""

from __future__ import annotations

import json
from typing import Protocol

from ...errors import ArtifactRejected, DeployError, Misconfigured, Unavailable
from ...rules.triton_errors.row import NotPolled
from .protocol import ModelState, Phase

LOG = "That Triton's log has the reason, behind \"Poll failed for model directory '{model}'\""
NO_BACKEND = "deployer_asks_whether_it_can_read_this_folder"
"""Backend of the second load; Triton's log shows this name."""


class PolledTriton(Protocol):
    """The Triton that failed to poll, as far as this module uses it."""

    @property
    def url(self) -> str:
        """The server's address, for messages."""

    def folders(self) -> frozenset[str]:
        """Return every folder of the server's repository."""

    def states(self) -> dict[str, ModelState]:
        """Return the state of each model that the server was told to load."""

    def load_once(self, model: str, timeout_s: float, config: str | None) -> None:
        """Load a model, without a second look at a failure to poll it."""


def told_apart(
    triton: PolledTriton, model: str, config: str | None, timeout_s: float, error: NotPolled
) -> DeployError:
    """Return the error that names the reason for which Triton failed to poll a model.

    Args:
        triton: the server that failed to poll.
        model: the model that the server was told to load.
        config: the configuration that came with the load, in JSON; None if Triton read the file.
        timeout_s: deadline of a load, seconds.
        error: the error of the load.

    Returns:
        Misconfigured: the folder is missing or there twice, or a file of ours has changed since it was
        written. Unavailable: Triton can't read the folder or its repository. ArtifactRejected: Triton
        refuses the configuration of an engine.
    """
    try:
        seen, state = model in triton.folders(), triton.states().get(model)
    except DeployError as why:
        # For example, a Triton without a free descriptor can read neither the folder nor its list.
        return why
    if not seen:
        return Misconfigured(
            f"Triton at {triton.url} refused loading {model}: it does not see the model in its repository.",
            hint=error.hint,
        )
    if state is not None and state.is_twice:
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
    if state is not None and (state.phase is Phase.READY or state.is_hanging):
        # A second load would replace an engine that answers, or soon will.
        return error
    return _of_engine(triton, model, timeout_s, error)


def _of_engine(triton: PolledTriton, model: str, timeout_s: float, error: NotPolled) -> DeployError:
    """Return the error that tells a refused configuration from a folder that Triton can't read."""
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
