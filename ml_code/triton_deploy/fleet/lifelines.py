"""Holds a Triton by a lifeline during an action, and tells whether the Triton ended or is only away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..clients.triton import Triton
from ..clients.triton.lifeline import Life
from ..errors import DeployError, EndedTriton, Unavailable
from ..rules.names import engine_name

T = TypeVar("T")


def held_by_lifeline(
    act: Callable[[Triton], T], model: str, version: int, doing: str
) -> Callable[[Triton], T]:
    """Return an action that holds its Triton by a lifeline.

    Args:
        act: the action.
        model: public model name.
        version: the version that the Triton meets.
        doing: what the Triton does meanwhile: stands in messages between "while it" and the version.

    Returns:
        The action; it raises what ``act`` raises, EndedTriton if the Triton ended meanwhile, and
        Unavailable if the Triton was stopped or does not answer any more.
    """
    during = f"it {doing} version {version} of {model}"

    def held(triton: Triton) -> T:
        with triton.lifeline(engine_name(model, version)) as line:
            try:
                result = act(triton)
            except DeployError as error:
                life = line.look()
                if life is Life.SAME or (life is Life.SILENT and isinstance(error, Unavailable)):
                    raise
                raise _lost(triton.url, life, during, model) from error
            life = line.look()
        if life is not Life.SAME:
            raise _lost(triton.url, life, during, model)
        return result

    return held


def _lost(url: str, life: Life, during: str, model: str) -> DeployError:
    if life is Life.SILENT:
        return Unavailable(
            f"Triton at {url} has fallen silent while {during}.",
            hint="Check that Triton and the network, then deploy again.",
        )
    if life is Life.LEFT:
        return Unavailable(
            f"Triton at {url} was stopped by somebody while {during}.",
            hint="Deploy again when it is back.",
        )
    return EndedTriton(
        f"Triton at {url} ended while {during}.",
        hint="The model is suspected, and refused from now on. A restart by hand at that moment looks the same: if it was one, "
        f"take the model again with 'triton-deploy deploy {model} --alias ALIAS --force'. Else see that Triton's log.",
    )
