"""Checks the staging Triton: whether it answers, is empty, and is like the serving ones but none of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ..clients.triton import GrpcTriton, ServerInfo, tritons_of
from ..errors import DeployError
from ..repository.lease import STAGING as LEASE
from ..repository.lease import Lease
from ..settings import Settings
from ..storage import storage_errors
from .check import Finding, Report, first_of
from .probe import Probe
from .triton import CALL_S, SHOWN, Examined, blind_to, controlled

NONE = (
    "There is none: TRITON_DEPLOY_STAGING_GRPC_URL is not set. A candidate is tried on a Triton that serves, and takes with it what that "
    "one serves when it ends it."
)
START_ONE = (
    "Start one more Triton on the repository, with the arguments of the others but --load-model, and set TRITON_DEPLOY_STAGING_GRPC_URL "
    "to its gRPC port."
)
CANT_BE_COMPARED = "GPU, its memory and driver, the backends' versions and the command line can't be asked by gRPC: what loads here may not load there."
COMPARE = "Compare them by hand: the same image, arguments and kind of machine. Its memory has to hold the largest model once."


class StagingCheck:
    """Compares the staging Triton with the serving Tritons.

    Args:
        settings: addresses of the Tritons, and the place of the repository.
        staging: makes the client of the staging Triton from its address; by default a gRPC client.
        tritons: returns the serving Tritons; by default those of the settings.
    """

    name = "staging Triton"
    needs = ("TRITON_DEPLOY_REPOSITORY", "TRITON_DEPLOY_GRPC_URLS", "TRITON_DEPLOY_STAGING_GRPC_URL")
    deadline_s = 40.0

    def __init__(
        self,
        settings: Settings,
        staging: Callable[[str], Examined] | None = None,
        tritons: Callable[[], Sequence[Examined]] | None = None,
    ) -> None:
        quick = replace(
            settings,
            triton=replace(settings.triton, switch_timeout_s=min(settings.triton.switch_timeout_s, CALL_S)),
        )
        self._settings = settings
        self._staging = staging or (lambda url: GrpcTriton(url, quick.triton.switch_timeout_s))
        self._tritons = tritons or (lambda: tritons_of(quick))
        self._probe = Probe(settings.repository)
        self._lease = Lease(settings.repository or Path(), "the staging Triton", LEASE)
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        url = self._settings.triton.staging_grpc_url
        if not url:
            yield self._report.unknown(NONE, START_ONE)
            return
        staging, serving = self._staging(url), self._serving()
        if twin := _same_server(url, serving):
            yield self._report.failed(
                f"{url} is the Triton at {twin}, which serves. A deploy empties the staging Triton before it uses it.",
                START_ONE,
            )
            return
        try:
            info = staging.about()
        except DeployError as error:
            yield self._away(error)
            return
        yield self._report.ok(f"Triton {info.version} answers at {url}.")
        yield controlled(staging, self._probe, self._report)
        yield self._empty(staging)
        yield from self._alike(info, serving)
        yield self._report.unknown(CANT_BE_COMPARED, COMPARE)
        # This check is last because it may take seconds.
        yield self._shared(staging)

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up."""
        self._probe.remove()

    def _serving(self) -> Sequence[Examined]:
        try:
            return self._tritons()
        except DeployError:
            # The name can't be resolved: TritonCheck reports that.
            return ()

    def _away(self, error: DeployError) -> Finding:
        if self._settings.triton.staging == "optional":
            return self._report.warning(
                f"{error.message} Deploys go on without it (TRITON_DEPLOY_STAGING=optional).",
                "Start it, or correct TRITON_DEPLOY_STAGING_GRPC_URL.",
            )
        return self._report.failed(
            f"{error.message} Every deploy fails until it is back.",
            "Start it, or correct TRITON_DEPLOY_STAGING_GRPC_URL. TRITON_DEPLOY_STAGING=optional deploys without it meanwhile.",
        )

    def _empty(self, staging: Examined) -> Finding:
        try:
            held = staging.index().held
        except DeployError as error:
            return self._report.unknown(f"What it has loaded is not known: {error.message}", error.hint)
        there = sorted(f"{name} ({state})" for name, state in held.items())
        user, at_work = self._lease.last(datetime.now(UTC))
        if not there:
            return self._report.ok("It is empty.")
        if at_work:
            return self._report.ok(f"It has {first_of(there, SHOWN)}: {user} tries its candidate there.")
        return self._report.warning(
            f"It has {first_of(there, SHOWN)}, and no deploy uses it: it should be empty.",
            "The next deploy empties it. If that comes back: start it without --load-model, and see that nobody else loads models there, "
            "and that it is none of the Tritons that serve.",
        )

    def _alike(self, info: ServerInfo, serving: Sequence[Examined]) -> Iterator[Finding]:
        compared, other = 0, []
        for triton in serving:
            try:
                theirs = triton.about()
            except DeployError:
                # TritonCheck reports the error.
                continue
            compared += 1
            if theirs.version != info.version:
                other.append(f"Triton at {triton.url} is {theirs.version}")
            elif differing := sorted(set(theirs.extensions) ^ set(info.extensions)):
                other.append(f"Triton at {triton.url} differs in the extensions {', '.join(differing)}")
        if other:
            yield self._report.warning(
                f"It is Triton {info.version}, and not like those that serve: {'; '.join(other)}. What passes here may fail there.",
                "Run the same image everywhere.",
            )
        elif compared:
            yield self._report.ok(f"It has the version and the extensions of the {compared} that serve.")
        else:
            yield self._report.unknown("No Triton that serves answers, so it could not be compared with one.")

    def _shared(self, staging: Examined) -> Finding:
        root = self._settings.repository_root
        with storage_errors(f"making a folder in {root} for the staging Triton to see"):
            self._probe.make()
        blind = blind_to(self._probe, [staging])
        if staging.url not in blind:
            return self._report.ok(f"It sees the folder {root} of this machine.")
        return self._report.failed(
            blind[staging.url]
            or f"It does not see a folder that was made in {root}: it has another repository.",
            "Start it with the --model-repository of the Tritons that serve; read-only will do.",
        )


def _same_server(url: str, serving: Sequence[Examined]) -> str:
    """Return the address of the serving Triton that ``url`` also reaches, or empty text."""
    endpoints = _endpoints(url)
    return next((triton.url for triton in serving if endpoints & _endpoints(triton.url)), "")


def _endpoints(url: str) -> frozenset[tuple[str, int]]:
    host, _, port = url.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        # The next call to that Triton reports the name.
        return frozenset()
    return frozenset((str(at[0]), int(at[1])) for *_, at in found)
