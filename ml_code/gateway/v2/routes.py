"""The KServe v2 paths that exist here. Everything else of Triton's HTTP interface does not: it is never forwarded.

A forwarded path is put together from what was matched, never copied from the request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..http.errors import UnknownPath, WrongMethod

Kind = Literal["infer", "ready", "metadata", "server_live", "server_ready", "server_metadata"]

# As triton_deploy.names.MODEL_PATTERN: without a dot, so that no engine of a version that is not live can be named.
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
    """A request's meaning.

    Attributes:
        kind: the endpoint.
        model: model name; empty for an endpoint of the server.
        version: version that the path names; empty for the live one.
    """

    kind: Kind
    model: str = ""
    version: str = ""

    @property
    def path(self) -> str:
        """Path to ask Triton for."""
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
        path: path as decoded once by the server; anything that was encoded to look like another path does not match.

    Raises:
        UnknownPath, WrongMethod: there is no such endpoint here.
    """
    if path in _SERVER:
        found = Route(_SERVER[path])
    else:
        match = _MODEL.fullmatch(path)
        if match is None:
            raise UnknownPath("This path is not served; see /docs and docs/gateway.md for what is.")
        model, version, tail = match.groups()
        if model == "stats" and not (version or tail):
            # Triton's own: the statistics of every model.
            raise UnknownPath("Statistics are not served; see /metrics.")
        kind: Kind = "metadata" if tail is None else "infer" if tail == "/infer" else "ready"
        found = Route(kind, model, version or "")
    expected = ("POST",) if found.kind == "infer" else ("GET", "HEAD")
    if method not in expected:
        raise WrongMethod(
            f"{method} is not served here, {expected[0]} is.", headers={"Allow": ", ".join(expected)}
        )
    return found
