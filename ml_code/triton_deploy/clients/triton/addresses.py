"""The Tritons that the settings name."""

from __future__ import annotations

import socket

from ...errors import Unavailable
from ...settings import DNS_PREFIX, Settings
from .grpc_triton import GrpcTriton


def staging_of(settings: Settings) -> GrpcTriton | None:
    """Return the staging Triton that the settings name, or None when they name none."""
    url = settings.triton.staging_grpc_url
    return GrpcTriton(url, settings.triton.switch_timeout_s) if url else None


def tritons_of(settings: Settings) -> list[GrpcTriton]:
    """Return the servers that the settings name; a DNS name stands for the addresses that it has now.

    Raises:
        Unavailable: a name has no address.
    """
    urls = [address for url in settings.triton.grpc_urls for address in _addresses(url)]
    return [GrpcTriton(url, settings.triton.switch_timeout_s) for url in dict.fromkeys(urls)]


def _addresses(url: str) -> list[str]:
    if not url.startswith(DNS_PREFIX):
        return [url]
    name, _, port = url.removeprefix(DNS_PREFIX).rpartition(":")
    try:
        found = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(
            f"The name {name} in TRITON_DEPLOY_GRPC_URLS has no address: {error.strerror or error}.",
            hint="Check that the Tritons run and that the name is that of a headless service.",
        ) from error
    by_family = {family: sorted({str(at[0]) for f, *_, at in found if f is family}) for family, *_ in found}
    # A server with an IPv4 and an IPv6 address is one server.
    hosts = by_family.get(socket.AF_INET) or [f"[{host}]" for host in by_family[socket.AF_INET6]]
    return [f"{host}:{port}" for host in hosts]
