"""The KServe v2 paths that the gateway serves; no other path of Triton's HTTP interface is forwarded.

A forwarded path is built from the matched parts, never copied from the request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..http.errors import UnknownPath, WrongMethod

Kind = Literal["infer", "ready", "metadata", "server_live", "server_ready", "server_metadata"]

# As rules.names.MODEL_PATTERN, without a dot: no path can name the engine of a version that is not live.
_MODEL = re.compile(
    r"/v2/models/([A-Za-z0-9_][A-Za-z0-9_-]{0,99})(?:/versions/([1-9][0-9]{0,17}))?(/infer|/ready)?"
)
_SERVER: dict[str, Kind] = {
    "/v2": "server_metadata",
    "/v2/": "server_metadata",
    "/v2/health/live": "server_live",
    "/v2/health/ready": "server_ready",
}


@dataclass(frozen=True, slots=True)
class Route:
    """The meaning of a request's path.

    Attributes:
        kind: the endpoint.
        model: model name; empty for an endpoint of the server.
        version: version that the path names; empty for the live version.
    """

    kind: Kind
    model: str = ""
    version: str = ""

    @property
    def path(self) -> str:
        """The path for Triton."""
        if not self.model:
            return {"server_metadata": "/v2", "server_live": "/v2/health/live"}.get(
                self.kind, "/v2/health/ready"
            )
        version = f"/versions/{self.version}" if self.version else ""
        tail = "" if self.kind == "metadata" else f"/{self.kind}"
        return f"/v2/models/{self.model}{version}{tail}"


def route(method: str, path: str) -> Route:
    """Return the meaning of a request.

    Args:
        method: HTTP method.
        path: the path, decoded once by the server; a path that was encoded twice does not match.

    Raises:
        UnknownPath: the path is not served.
        WrongMethod: the path is served with another method.
    """
    if path in _SERVER:
        found = Route(_SERVER[path])
    else:
        match = _MODEL.fullmatch(path)
        if match is None:
            raise UnknownPath("This path is not served; see /docs and docs/gateway.md for what is.")
        model, version, tail = match.groups()
        if model == "stats" and not (version or tail):
            # Triton would answer with the statistics of every model.
            raise UnknownPath("Statistics are not served; see /metrics.")
        kind: Kind = "metadata" if tail is None else "infer" if tail == "/infer" else "ready"
        found = Route(kind, model, version or "")
    expected = ("POST",) if found.kind == "infer" else ("GET", "HEAD")
    if method not in expected:
        raise WrongMethod(
            f"{method} is not served here, {expected[0]} is.", headers={"Allow": ", ".join(expected)}
        )
    return found
