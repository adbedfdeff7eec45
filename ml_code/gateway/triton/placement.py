"""Finds the one of the gateway's Tritons on which a candidate meets clients.

The deployment's record has the gRPC address of that Triton, as the deployer knows it. The gateway knows its
Tritons by HTTP addresses, and perhaps by other host names. A guess could load a second Triton with the
candidate, so a candidate whose Triton is not certain gets no requests.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...triton_deploy.rules.canary import Exposure
from ..http.logs import log

ANY = ""
"""Address for a candidate whose record names no Triton, as by earlier deployers: any Triton is asked."""
LOOK_AGAIN_S = 10.0
"""Pause before a Triton that was not found is searched again, seconds: its name may get an address."""


@dataclass(frozen=True)
class Place:
    """The result of a search for a candidate's Triton.

    Attributes:
        deploy_id: the candidate's deployment.
        triton: gRPC address of its Triton; empty for any.
        at: HTTP address of that Triton, or ``ANY``; None when it was not found.
        looked_at: time of the search, seconds of the clock.
    """

    deploy_id: str
    triton: str
    at: str | None
    looked_at: float

    def is_of(self, exposed: Exposure) -> bool:
        """Whether this is the place of a candidate."""
        return (self.deploy_id, self.triton) == (exposed.deploy_id, exposed.triton)


def addresses_of(host: str) -> frozenset[str]:
    """Return a host's name and its addresses, as they resolve now; may wait for a name server."""
    name = host.strip("[]").lower()
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        found = []
    return frozenset({name, *(str(at[0]) for *_, at in found)})


class Placement:
    """Finds the candidates' Tritons.

    Args:
        urls: HTTP addresses of the gateway's Tritons, ``host:port``.
        grpc_urls: their gRPC addresses in the same order; may be empty when the hosts identify the Tritons.
        hosts_of: returns the names and addresses of a host.
        clock: a monotonic clock, seconds.
    """

    def __init__(
        self,
        urls: Sequence[str],
        grpc_urls: Sequence[str] = (),
        hosts_of: Callable[[str], frozenset[str]] = addresses_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = urls
        self._grpc_urls = grpc_urls
        self._hosts_of = hosts_of
        self._clock = clock
        self._places: dict[str, Place] = {}

    def look(self, model: str, exposed: Exposure) -> None:
        """Find the Triton of a model's candidate once; belongs in a thread, because it may resolve names."""
        known, now = self._places.get(model), self._clock()
        if known is not None and not known.is_of(exposed):
            known = None
        if known is not None and (known.at is not None or now - known.looked_at < LOOK_AGAIN_S):
            return
        at = self.find(exposed.triton, exposed.tritons)
        self._places[model] = Place(exposed.deploy_id, exposed.triton, at, now)
        if at is None and known is None:
            log.error(
                "%s: candidate %s gets nothing from this gateway, and its canary sees less or nothing: it meets clients on the Triton at "
                "%s alone, and GATEWAY_TRITON_URLS does not say which one that is. Set GATEWAY_TRITON_GRPC_URLS to the gRPC addresses of "
                "the same Tritons in the same order, as TRITON_DEPLOY_GRPC_URLS has them.",
                model,
                exposed.version,
                exposed.triton,
            )

    def of(self, model: str, exposed: Exposure) -> Place | None:
        """Return the place of a model's candidate; None before the first search."""
        place = self._places.get(model)
        return place if place is not None and place.is_of(exposed) else None

    def find(self, triton: str, tritons: Sequence[str]) -> str | None:
        """Return the HTTP address of a Triton.

        If gateway and deployer both know a single Triton, it is this one. Otherwise
        ``GATEWAY_TRITON_GRPC_URLS`` decides, or without it the host. Among several Tritons on one host, the
        position decides: both lists have the same order.

        Args:
            triton: gRPC address of the Triton; empty for any.
            tritons: gRPC addresses of all Tritons that serve, in the deployer's order.

        Returns:
            The address, ``ANY``, or None when the Triton is not certain.
        """
        if not triton:
            return ANY
        if len(self._urls) == 1 and len(tritons) <= 1:
            return self._urls[0]
        if self._grpc_urls:
            port = _port(triton)
            pairs = zip(self._urls, self._grpc_urls, strict=True)
            found = [url for url, grpc in pairs if _port(grpc) == port and self._on_one_host(grpc, triton)]
            return found[0] if len(found) == 1 else None
        ours = [url for url in self._urls if self._on_one_host(url, triton)]
        theirs = [url for url in tritons if self._on_one_host(url, triton)]
        if len(ours) != len(theirs) or triton not in theirs:
            return None
        return ours[theirs.index(triton)]

    def _on_one_host(self, one: str, other: str) -> bool:
        hosts = [url.rpartition(":")[0] for url in (one, other)]
        return hosts[0] == hosts[1] or bool(self._hosts_of(hosts[0]) & self._hosts_of(hosts[1]))


def _port(url: str) -> str:
    return url.rpartition(":")[2]
