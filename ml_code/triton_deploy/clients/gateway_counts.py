"""Reads the counters that the gateways keep of a version; see ``canary_floor``."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..errors import AccessDenied, DeployError, Misconfigured, Unavailable
from ..rules.canary_floor import Counts, counted_in
from ..rules.web_address import credentials, split
from ..settings import Settings
from .http import new_session, send, shown

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Most gateways that are asked at the same time."""
MOST_BYTES = 4 << 20
"""Largest page of figures that is read, bytes."""


class GatewayCounts:
    """Reads the gateways' counters for ``CanaryWatch``.

    Args:
        urls: base URLs of the gateways; a host name behind ``http://`` stands for each of its addresses.
        timeout_s: longest wait for one gateway, seconds.
        api_key: key of the gateways; empty if they need none.
    """

    def __init__(self, urls: Sequence[str], timeout_s: float, api_key: str = "") -> None:
        self._urls, self._timeout_s = urls, timeout_s
        self._headers = {"X-Api-Key": api_key} if api_key else {}
        self._session = new_session(pool_size=AT_ONCE)

    @classmethod
    def of(cls, settings: Settings) -> GatewayCounts:
        """Return the reader that the settings describe."""
        return cls(
            settings.canary.gateway_urls, settings.bake.prometheus_timeout_s, settings.canary.gateway_api_key
        )

    def __call__(self, model: str, version: int) -> Counts:
        """Return the counters of a version in each gateway, by its address.

        A gateway that can't be read is logged and left out.
        """

        def known(address: str) -> Mapping[str, float] | None:
            try:
                return self.counted(address, model, version)
            except DeployError as error:
                log.warning("could not read the counters of a gateway: %s", error)
                return None

        addresses = self.addresses()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(addresses, pool.map(known, addresses), strict=True))
        return {credentials(url)[0]: counts for url, counts in found.items() if counts is not None}

    def addresses(self) -> list[str]:
        """Return the address of each gateway; a URL whose name can't be resolved stays as it is."""
        return list(dict.fromkeys(address for url in self._urls for address in _addresses(url)))

    def counted(self, address: str, model: str, version: int) -> Mapping[str, float]:
        """Return the counters of a version in one gateway, by their names; see ``canary_floor.counted_in``.

        Raises:
            AccessDenied: the gateway refuses the key.
            Misconfigured: the address is not that of a gateway.
            Unavailable: the gateway can't be reached, or not in time.
        """
        base, user, password = credentials(address)
        name = f"The gateway at {shown(base)}"
        response = send(
            self._session,
            "GET",
            f"{base}/metrics",
            timeout_s=self._timeout_s,
            server=name,
            hint="Check TRITON_DEPLOY_GATEWAY_URLS and that it runs.",
            headers=self._headers,
            auth=(user, password) if user else None,
            max_bytes=MOST_BYTES,
        )
        if response.status_code in (401, 403):
            raise AccessDenied(
                f"{name} denies access ({response.status_code}).",
                hint="Set GATEWAY_API_KEY to a key of the gateways for everything, for whoever deploys too.",
            )
        if response.status_code >= 500:
            raise Unavailable(f"{name} answers {response.status_code}.", hint="See its log.")
        counts = counted_in(response.text, model, version) if response.status_code == 200 else None
        if counts is None:
            raise Misconfigured(
                f"{name} is none: it has no figures of a gateway at /metrics.",
                hint="Correct TRITON_DEPLOY_GATEWAY_URLS.",
            )
        return counts


def _addresses(url: str) -> Iterator[str]:
    """Yield the address of each gateway that a URL stands for.

    The URL itself stays if its name has one address or can't be resolved, or if a certificate is for the
    name.
    """
    url = url.rstrip("/")
    parts = split(url)
    if parts is None or parts.scheme != "http" or not parts.hostname or "@" in parts.netloc:
        yield url
        return
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError:
        yield url
        return
    # A host may have IPv4 and IPv6 addresses, and a gateway that listens on one kind alone is not down.
    family = min(entry[0] for entry in found)
    hosts = sorted({str(entry[4][0]) for entry in found if entry[0] == family})
    if len(hosts) == 1:
        yield url
        return
    for host in hosts:
        name = f"[{host}]" if ":" in host else host
        yield parts._replace(netloc=f"{name}:{parts.port or 80}").geturl()
