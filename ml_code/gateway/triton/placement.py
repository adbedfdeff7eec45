"""Which of a gateway's Tritons is the one on which a candidate meets clients.

The deployment's record names it by its gRPC address, as the deployer knows it. A gateway knows its Tritons by their HTTP addresses, and
perhaps by other names. A guess could put the candidate on a second Triton: what can't be told for sure gets nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...triton_deploy.rules.canary import Exposure
from ..http.logs import log

ANY = ""
"""Where a candidate is asked whose record, by an earlier deployer, names no Triton."""
LOOK_AGAIN_S = 10.0
"""Pause before a Triton that was not found is looked for again: a name may have got its address."""


@dataclass(frozen=True)
class Place:
    """Where a candidate is asked.

    Attributes:
        deploy_id: its deployment.
        triton: gRPC address of its Triton; empty for any.
        at: HTTP address of that, or ``ANY``; None when it was not found.
        looked_at: when, seconds of the clock.
    """

    deploy_id: str
    triton: str
    at: str | None
    looked_at: float

    def is_of(self, exposed: Exposure) -> bool:
        """Whether it is this candidate's."""
        return (self.deploy_id, self.triton) == (exposed.deploy_id, exposed.triton)


def addresses_of(host: str) -> frozenset[str]:
    """Return what a host is called: its name, and its addresses as they resolve now. It may wait for a name server."""
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
        grpc_urls: their gRPC addresses in the same order, or none where the hosts tell which is which.
        hosts_of: what a host is called.
        clock: seconds that only go forward.
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
        """Find a model's candidate, once; belongs in a thread, since names may have to be resolved."""
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
        """Return where a model's candidate is asked; None before it was looked for."""
        place = self._places.get(model)
        return place if place is not None and place.is_of(exposed) else None

    def find(self, triton: str, tritons: Sequence[str]) -> str | None:
        """Return the HTTP address of a Triton.

        Where there is one, and nobody knows of another, it is that one. Else by what ``GATEWAY_TRITON_GRPC_URLS`` says, or else by
        its host; of several on one host, by its place among them: both lists have them in the same order.

        Args:
            triton: its gRPC address; empty for any.
            tritons: gRPC addresses of all that serve, in the deployer's order.

        Returns:
            The address, ``ANY``, or None when it can't be told.
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
