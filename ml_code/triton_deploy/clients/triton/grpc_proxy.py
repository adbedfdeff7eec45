"""Names the environment's proxy in errors of gRPC, which connects through it and does not mention it.

Source: ``http_proxy_mapper.cc`` of grpc/grpc: the first of three variables, in lower case only, unless
the host is excluded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from ...errors import DeployError, Misconfigured, Unavailable

PROXY = ("grpc_proxy", "https_proxy", "http_proxy")
EXCLUDED = ("no_grpc_proxy", "no_proxy")


def told_with_proxy(url: str, error: DeployError, environ: Mapping[str, str] = os.environ) -> DeployError:
    """Return the error of a Triton that can't be reached, with the proxy between gRPC and that Triton.

    Args:
        url: Triton's ``host:port``.
        error: the error of the call.
        environ: the environment.

    Returns:
        Misconfigured: the proxy can't be reached. Unavailable: it is not known whether the proxy or
        Triton can't be reached. Without a proxy the error itself.
    """
    if not isinstance(error, Unavailable) or not (found := proxy_before(url, environ)):
        return error
    variable, address = found
    host = url.rpartition(":")[0]
    way_out = f"If no proxy is to stand before the Tritons, add {host} to no_proxy in the environment of this process, or unset {variable}."
    # gRPC's text names only the address to which it could not connect.
    port = address.rpartition(":")[2]
    if f":{port}: " in f"{error.message} " and not url.endswith(f":{port}"):
        return Misconfigured(
            f"Triton at {url} can't be reached: the variable {variable} has gRPC go by the proxy {address}, which does not answer.",
            hint=way_out,
        )
    return Unavailable(
        f"{error.message} The variable {variable} has gRPC go by the proxy {address}.",
        hint=f"{way_out} {error.hint}",
    )


def proxy_before(url: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the variable with the proxy for a server, and the proxy's ``host:port``; None without a proxy.

    Args:
        url: the server's ``host:port``.
        environ: the environment.
    """
    variable = next((name for name in PROXY if environ.get(name)), "")
    proxy = environ.get(variable, "")
    excluded = next((environ[name] for name in EXCLUDED if environ.get(name)), "")
    host = url.rpartition(":")[0].strip("[]")
    if not proxy or any(_matches(host, entry.strip()) for entry in excluded.split(",")):
        return None
    # Leave the proxy's user and password out.
    try:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        return variable, f"{parts.hostname or 'of that variable'}:{parts.port or 80}"
    except ValueError:
        return variable, "of that variable"


def _matches(host: str, entry: str) -> bool:
    if not entry:
        return False
    if host.lower().endswith(entry.lower()):
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False
