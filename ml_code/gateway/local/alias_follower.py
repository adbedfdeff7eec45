"""Follows an MLflow alias: loads the version that it names beside the one that serves, and exchanges both."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import weakref
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ...triton_deploy.clients.registry import RegisteredVersion, Registry
from ...triton_deploy.errors import DeployError, NotFound
from ...triton_deploy.errors import Unavailable as RegistryUnavailable
from ...triton_deploy.rules.moments import utc_text
from ...triton_deploy.settings import Settings
from ..backend import Example, FailedDeploy
from ..http.logs import log
from ..settings import GatewaySettings
from .files import fetch
from .models import LocalModel, example, load

_SHOWN = 20


@dataclass(frozen=True)
class Served:
    """A loaded model, the registered version that it came from, and a request that it can answer."""

    registered: RegisteredVersion
    digest: str
    since_utc: str
    model: LocalModel
    example: Example | None = None

    @property
    def version(self) -> str:
        """The version as clients see it."""
        return str(self.registered.version)


@dataclass(frozen=True)
class AliasRelease:
    """A version that became live in this process, in the form of the releases of a deploy."""

    active_version: int
    updated_at_utc: str
    run_id: str
    alias: str
    generation: None = None
    actor: str = "alias"
    reason: str = ""


class AliasFollower:
    """Follows the alias of one model.

    Args:
        settings: model, alias, and the folder of the files.
        deploy_settings: the deployer's, for MLflow and S3.
        registry: resolves the alias.

    Attributes:
        served: the model that serves; None before the first.
        previous_version: the version that served before.
        reason: why no newer model serves, for people.
        looked_at: when the alias was last resolved, seconds of the monotonic clock.
        swaps: changes of the live version.
        failed_swaps: versions that could not be loaded.
        releases: versions that became live, newest first.
        failures: versions that could not be loaded, newest first.
    """

    def __init__(self, settings: GatewaySettings, deploy_settings: Settings, registry: Registry) -> None:
        self._model = settings.model
        self._alias = settings.alias
        self._cache_dir = settings.cache_dir
        self._deploy = deploy_settings
        self._registry = registry
        self._unloadable: RegisteredVersion | None = None
        self.served: Served | None = None
        self.previous_version: int | None = None
        self.reason = f"alias {settings.alias} of {settings.model} was not looked up yet"
        self.looked_at = time.monotonic()
        self.swaps = self.failed_swaps = 0
        self.releases: deque[AliasRelease] = deque(maxlen=_SHOWN)
        self.failures: deque[FailedDeploy] = deque(maxlen=_SHOWN)

    async def look(self) -> None:
        """Resolve the alias once, and load the version that it names if it is a new one."""
        try:
            registered = await asyncio.to_thread(self._registry.resolve, self._model, self._alias)
        except DeployError as error:
            # While MLflow is away, the same message is logged once.
            if not isinstance(error, (NotFound, RegistryUnavailable)) or self.reason != error.message:
                log.warning("alias %s of %s can't be followed: %s", self._alias, self._model, error)
            self.reason = error.message
            return
        except Exception:
            log.exception("alias %s of %s can't be followed", self._alias, self._model)
            return
        self.looked_at = time.monotonic()
        live = self.served.registered if self.served else None
        if registered == self._unloadable or (live and registered.version == live.version):
            return
        await self._swap(registered)

    async def _swap(self, registered: RegisteredVersion) -> None:
        """Load a version, and let it serve when it answers; the present version serves until then."""
        started_at_utc = utc_text(datetime.now(UTC))
        try:
            served = await asyncio.to_thread(self._load, registered)
        except Exception as error:  # a DeployError, or any error of a flavor's library
            self._note_failure(registered, error, started_at_utc)
        else:
            self._go_live(served)

    def _note_failure(self, registered: RegisteredVersion, error: Exception, at_utc: str) -> None:
        self.failed_swaps += 1
        self.reason = f"version {registered.version} can't be loaded: {error}"
        self.failures.appendleft(FailedDeploy(registered.version, "load", str(error), at_utc, deploy_id=""))
        log.error("%s: %s", self._model, self.reason)
        if not (isinstance(error, DeployError) and error.retryable):
            # The same files would fail again: wait for another version.
            self._unloadable = registered

    def _go_live(self, served: Served) -> None:
        if self.served is not None:
            self.swaps += 1
            self.previous_version = self.served.registered.version
        self.served, self._unloadable = served, None
        registered = served.registered
        self.releases.appendleft(
            AliasRelease(registered.version, served.since_utc, registered.run_id, self._alias)
        )
        log.info("%s: version %s is live", self._model, registered.version)

    def _load(self, registered: RegisteredVersion) -> Served:
        prefix = f"{self._model}-{registered.version}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._cache_dir))
        try:
            fetched = fetch(registered, folder, self._deploy)
            # Each request computes in a thread of its own.
            model = load(fetched, self._deploy, threads=1)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # Some flavors read files while they answer: keep the files as long as the model.
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
        return Served(registered, fetched.digest, utc_text(datetime.now(UTC)), model, example(fetched, model))
