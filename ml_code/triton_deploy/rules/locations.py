"""Locations of artifacts in MLflow's notation: parsed once, into one type for each kind.

This module alone parses paths and URIs from outside. It refuses a path that could leave its root: ``..``
plain or encoded, back-slashes, NUL and other control characters. Pure rules: standard library only, no
I/O.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias
from urllib.parse import unquote

from ..errors import InvalidInput, Misconfigured
from .names import check_version


@dataclass(frozen=True)
class S3Place:
    """``s3://bucket/key``."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    def child(self, path: str) -> S3Place:
        """Return the place of ``path`` below this one; raises InvalidInput if it leads out."""
        return replace(self, key=_below(self.key, path))


@dataclass(frozen=True)
class ProxyPlace:
    """``mlflow-artifacts:/path``: a place that an MLflow server serves.

    Attributes:
        path: below the server's artifact root.
        host: ``host:port`` if the URI has one. No request goes there: the server is MLFLOW_TRACKING_URI,
            and its credentials must not go to a host that a stored URI names.
    """

    path: str = ""
    host: str = ""

    def __str__(self) -> str:
        return (
            f"mlflow-artifacts://{self.host}/{self.path}" if self.host else f"mlflow-artifacts:/{self.path}"
        )

    def child(self, path: str) -> ProxyPlace:
        """Return the place of ``path`` below this one; raises InvalidInput if it leads out."""
        return replace(self, path=_below(self.path, path))


@dataclass(frozen=True)
class RunPlace:
    """``runs:/<run id>/path``: a path below the artifacts of a run."""

    run_id: str
    path: str = ""

    def __str__(self) -> str:
        return f"runs:/{self.run_id}/{self.path}".rstrip("/")


@dataclass(frozen=True)
class AliasRef:
    """``models:/name@alias``."""

    model: str
    alias: str

    def __str__(self) -> str:
        return f"models:/{self.model}@{self.alias}"


@dataclass(frozen=True)
class VersionRef:
    """``models:/name/3``."""

    model: str
    version: int

    def __str__(self) -> str:
        return f"models:/{self.model}/{self.version}"


@dataclass(frozen=True)
class LoggedModelRef:
    """``models:/m-…``: a logged model of MLflow 3, by its id."""

    model_id: str

    def __str__(self) -> str:
        return f"models:/{self.model_id}"


class Foreign(Enum):
    """Why a place can't be read from here; the value completes "The artifacts are at …, "."""

    FILE_URL = "a file:// URL: a place that only the machine that logged them can read"
    WINDOWS_URL = "a file:// URL of a Windows drive: a place that only the machine that logged them can read"
    WINDOWS_DRIVE = "a path on a Windows drive: a place that only the machine that logged them can read"
    WINDOWS_SHARE = "a Windows network share: a place that only the machine that logged them can read"
    BACKSLASHES = "a path with back-slashes, as Windows writes it: a place that only the machine that logged them can read"
    ABSOLUTE = "a path without a scheme: a place that only the machine that logged them can read"
    RELATIVE = (
        "a relative path: a place that only the machine that logged them can read, and that changes with the folder "
        "in which a program was started"
    )
    OTHER_STORE = "a store that is not read from here; mlflow-artifacts:/… and s3://… are"


@dataclass(frozen=True)
class ForeignPlace:
    """A place that this machine can't read from; kept as it was written."""

    kind: Foreign
    text: str

    def __str__(self) -> str:
        return self.text

    def child(self, path: str) -> ForeignPlace:
        """Return the place of ``path`` below this one, for messages; raises InvalidInput if it leads out."""
        separator = "\\" if "\\" in self.text else "/"
        below = _below("", path)
        text = self.text.rstrip("/\\") + separator + below.replace("/", separator) if below else self.text
        return replace(self, text=text)


Place: TypeAlias = S3Place | ProxyPlace | ForeignPlace
"""A place of files."""

Location: TypeAlias = Place | RunPlace | AliasRef | VersionRef | LoggedModelRef
"""A place, or a reference that MLflow can resolve to a place."""


def parse(text: str) -> Location:
    """Parse a path or URI.

    Args:
        text: the text from MLflow or a user.

    Returns:
        The location; parsing its text again gives the same location.

    Raises:
        InvalidInput: the text is no location, or could lead out of its root.
    """
    if not isinstance(text, str) or not text.strip() or any(map(_is_control, text)):
        raise _invalid(text, "it is empty or has control characters")
    scheme, colon, rest = text.partition(":")
    if len(scheme) == 1 and colon and scheme.isascii() and scheme.isalpha():
        return ForeignPlace(Foreign.WINDOWS_DRIVE, text)
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return ForeignPlace(_kind_of_path(text), text)
    match scheme.lower():
        case "s3":
            return _s3(text, rest)
        case "mlflow-artifacts":
            return _proxy(text, rest)
        case "runs":
            return _run(text, rest)
        case "models":
            return _model(text, rest)
        case "file":
            windows = re.match(r"(?://[^/\\]*)?[/\\]*[A-Za-z](?::|%3[Aa])", rest) or "\\" in rest
            return ForeignPlace(Foreign.WINDOWS_URL if windows else Foreign.FILE_URL, text)
    return ForeignPlace(Foreign.OTHER_STORE, text)


def parse_place(text: str) -> Place:
    """Parse a place of files; raises InvalidInput for any other location."""
    place = parse(text)
    if not isinstance(place, S3Place | ProxyPlace | ForeignPlace):
        raise _invalid(text, "it names something in MLflow, not a place of files")
    return place


def not_from_here(place: ForeignPlace) -> Misconfigured:
    """Return the error for a place that this machine can't read from."""
    return Misconfigured(
        f"The artifacts are at {place}, {place.kind.value}.",
        hint="Start MLflow with --serve-artifacts --artifacts-destination s3://…, or use an experiment whose artifact location is "
        "s3://…. An experiment keeps the location that it was made with: log into a new one ('triton-deploy init' makes them), "
        "or copy the files and register the version again.",
    )


def _s3(text: str, rest: str) -> S3Place:
    match = re.fullmatch(r"//([A-Za-z0-9][A-Za-z0-9._-]{0,254})(?:/(.*))?", rest)
    if match is None:
        raise _invalid(text, "it has no bucket", "Write s3://bucket/key.")
    return S3Place(match[1], _safe(text, match[2] or ""))


def _proxy(text: str, rest: str) -> ProxyPlace:
    host = ""
    if rest.startswith("//") and not rest.startswith("///"):
        host, _, rest = rest[2:].partition("/")
        if not re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", host):
            raise _invalid(text, "its host is none")
    return ProxyPlace(_safe(text, rest), host)


def is_run_id(text: str) -> bool:
    """Whether MLflow may have given a run this id."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,256}", text) is not None


def _run(text: str, rest: str) -> RunPlace:
    run_id, _, path = rest.lstrip("/").partition("/")
    if not is_run_id(run_id):
        raise _invalid(text, "it has no run id", "Write runs:/<run id>/path.")
    return RunPlace(run_id, _safe(text, path))


def _model(text: str, rest: str) -> AliasRef | VersionRef | LoggedModelRef:
    name = r"(?P<model>[^/\\:@%]+)"
    if (found := re.fullmatch(rf"/{name}@(?P<alias>[A-Za-z0-9_-]+)", rest)) and found["model"] not in (
        ".",
        "..",
    ):
        return AliasRef(found["model"], found["alias"])
    if (found := re.fullmatch(rf"/{name}/(?P<version>[1-9][0-9]{{0,9}})", rest)) and found["model"] not in (
        ".",
        "..",
    ):
        return VersionRef(found["model"], check_version(found["version"]))
    if found := re.fullmatch(r"/(?P<id>m-[A-Za-z0-9_-]{1,256})", rest):
        return LoggedModelRef(found["id"])
    raise _invalid(
        text, "it names no model", "Write models:/<name>@<alias>, models:/<name>/<version> or models:/m-<id>."
    )


def _kind_of_path(text: str) -> Foreign:
    if text.startswith(("\\\\", "//")):
        return Foreign.WINDOWS_SHARE
    if "\\" in text:
        return Foreign.BACKSLASHES
    return Foreign.ABSOLUTE if text.startswith("/") else Foreign.RELATIVE


def _safe(text: str, path: str) -> str:
    """Return a path without the slashes around it; raises InvalidInput when it could leave its root."""
    path = path.strip("/")
    for part in path.split("/"):
        decoded = _decoded(part)
        if decoded in (".", "..") or re.search(r"[/\\]", decoded) or any(map(_is_control, decoded)):
            raise _invalid(text, f"{part!r} in it could lead out of its store")
    return path


def _below(root: str, path: str) -> str:
    if path.startswith("/"):
        raise _invalid(path, "it is absolute")
    if any(map(_is_control, path)):
        raise _invalid(path, "it has control characters")
    return f"{root}/{_safe(path, path)}".strip("/")


def _decoded(part: str) -> str:
    # A server may decode a path more than once.
    while (once := unquote(part, errors="surrogateescape")) != part:
        part = once
    return part


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _invalid(text: object, why: str, hint: str = "Register the model version again.") -> InvalidInput:
    return InvalidInput(f"{text!r} is not a location of artifacts: {why}.", hint=hint)
