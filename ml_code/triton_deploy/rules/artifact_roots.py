"""The places from which a version's files may be read: TRITON_DEPLOY_ARTIFACT_ROOTS.

A user who may register a version in MLflow chooses the location of its files, and the deployer reads them
with its own keys. So the deployer reads straight from S3 only below the places that the operator has
named. MLflow protects the files that it serves itself: all of them may be read, unless the operator names
a folder of them. Pure rules, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from ..errors import InvalidInput, Misconfigured
from .locations import ForeignPlace, Place, ProxyPlace, S3Place, parse_place

VARIABLE = "TRITON_DEPLOY_ARTIFACT_ROOTS"
EXAMPLE = "s3://bucket/folder"

Root: TypeAlias = S3Place | ProxyPlace


@dataclass(frozen=True)
class ArtifactRoots:
    """The allowed places, each with everything below it.

    Attributes:
        roots: the places in the setting; without any, only files that MLflow serves are allowed.
    """

    roots: tuple[Root, ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Self:
        """Parse the setting.

        Args:
            texts: each ``s3://bucket``, ``s3://bucket/folder`` or ``mlflow-artifacts:/folder``.

        Raises:
            Misconfigured: a text has another form.
        """
        return cls(tuple(_root(text) for text in texts))

    def allow(self, place: Place) -> bool:
        """Whether files may be read from a place."""
        roots = self._like(place)
        if isinstance(place, ProxyPlace) and not roots:
            return True
        return any(_is_below(place, root) for root in roots)

    def require(self, place: Place) -> None:
        """Raise Misconfigured when no file may be read from a place; lets foreign places pass."""
        if isinstance(place, ForeignPlace) or self.allow(place):
            return
        wanted = ",".join([*map(str, self.roots), _suggested(place)])
        where = "straight in S3" if isinstance(place, S3Place) else "in MLflow's artifacts"
        raise Misconfigured(
            f"The artifacts are at {place}, {where}, {self._why(place)}.",
            hint=f"If whoever may write there may also say what is served, set {VARIABLE}={wanted} for the deployer. If not, find out who "
            "registered the version.",
        )

    def _why(self, place: Place) -> str:
        named = ", ".join(map(str, self._like(place)))
        return f"which is not below {named} ({VARIABLE})" if named else f"and {VARIABLE} names no place in S3"

    def _like(self, place: Place) -> list[Root]:
        return [root for root in self.roots if type(root) is type(place)]


def _root(text: str) -> Root:
    try:
        place = parse_place(text)
    except InvalidInput as error:
        raise Misconfigured(
            f"{VARIABLE} has {text!r}, which is no place of artifacts. {error.message}",
            hint=f"Write {EXAMPLE}, or mlflow-artifacts:/folder for a part of what MLflow hands out.",
        ) from error
    if not isinstance(place, S3Place | ProxyPlace):
        raise Misconfigured(
            f"{VARIABLE} has {text!r}, which is {place.kind.value}.",
            hint=f"Write {EXAMPLE}, or mlflow-artifacts:/folder for a part of what MLflow hands out.",
        )
    if isinstance(place, ProxyPlace) and place.host:
        raise Misconfigured(
            f"{VARIABLE} has {text!r}, with a host in it: the one server that is asked is MLFLOW_TRACKING_URI.",
            hint=f"Write mlflow-artifacts:/{place.path}.",
        )
    return place


def _is_below(place: Place, root: Root) -> bool:
    """Whether a place is a root or lies below it, by whole parts of the path."""
    if isinstance(place, S3Place) and isinstance(root, S3Place):
        return place.bucket == root.bucket and _begins(place.key, root.key)
    if isinstance(place, ProxyPlace) and isinstance(root, ProxyPlace):
        return _begins(place.path, root.path)
    return False


def _begins(path: str, root: str) -> bool:
    return not root or path == root or path.startswith(f"{root}/")


def _suggested(place: Place) -> str:
    """Return the narrowest root that is likely meant: the folder of an experiment."""
    if isinstance(place, S3Place):
        return str(S3Place(place.bucket, place.key.partition("/")[0]))
    if isinstance(place, ProxyPlace):
        return str(ProxyPlace(place.path.partition("/")[0]))
    return EXAMPLE
