"""The collaborators of a deploy, each made when it is first needed: registry, stores, Tritons, judges."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..clients.artifacts import ArtifactStore, store_for
from ..clients.registry import MlflowRegistry, Registry
from ..clients.triton import Triton, staging_of, tritons_of
from ..errors import Misconfigured
from ..fleet.fleet import Fleet
from ..fleet.staging import Staging
from ..model.signature import Signer, signature_of
from ..report.mlflow_tags import MlflowTags
from ..repository import ModelFolder
from ..rules.canary_evidence import Counter, Judge, no_counts, nobody
from ..rules.deployment import Canary
from ..rules.names import check_model
from ..rules.version_files import Manifest
from ..settings import Settings
from .deployments import Deployments
from .step import RunningStep


class Collaborators:
    """Everything that a deploy talks to.

    Args:
        settings: see ``Settings``.
        registry, stores, tritons, staging, feedback, judge, counter, clock, report, sleep, sign: see
        ``Deployer``.

    Attributes:
        settings: as given.
        stores: gives the artifact store of a location.
        clock: gives the time, aware.
        report: called with bytes done and bytes in all during a transfer.
        sleep: waits for seconds.
        sign: opens a model without its weights, and returns its inputs and outputs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry | None = None,
        stores: Callable[[str], ArtifactStore] | None = None,
        tritons: Sequence[Triton] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        report: Callable[[int, int], None] = lambda done, total: None,
        feedback: MlflowTags | None = None,
        judge: Judge | None = None,
        counter: Counter | None = None,
        sleep: Callable[[float], None] = time.sleep,
        staging: Triton | None = None,
        sign: Signer = signature_of,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.report = report
        self.sleep = sleep
        self.sign = sign
        # Two steps of a deploy ask for the same store, and a client of S3 takes a while to make.
        self.stores = stores or functools.lru_cache(maxsize=1)(lambda uri: store_for(uri, settings))
        self._registry = registry
        self._tritons = tritons
        self._staging = staging
        self._feedback = feedback or MlflowTags(settings)
        self._judge = judge
        self._counter = counter

    def deployments(self, model: str) -> Deployments:
        """Return the deployments of a model.

        Raises:
            InvalidInput: the name can't be a model's.
            Misconfigured, StorageFailed: see Settings.repository_root.
        """
        folder = ModelFolder.at(self.settings.repository_root, check_model(model))
        return Deployments(
            folder,
            lambda: self._fleet(folder),
            self.settings,
            self.clock,
            lambda record: self._feedback.tell(folder, record),
        )

    def _fleet(self, folder: ModelFolder) -> Fleet:
        if self._tritons is None:
            self._tritons = tritons_of(self.settings)
        return Fleet(folder, self._tritons, self.settings)

    def registry(self) -> Registry:
        """Return the model registry."""
        return self._registry or MlflowRegistry(self.settings)

    def judge(self) -> Judge:
        """Return the judge of a canary."""
        if self._judge is None:
            from ..watch.canary_judge import CanaryJudge

            self._judge = CanaryJudge.of(self.settings) if self.settings.bake.prometheus_url else nobody
        return self._judge

    def counter(self) -> Counter:
        """Return the counter of a canary's requests: the gateways of the settings, if there are any."""
        if self._counter is None:
            self._counter = no_counts
            if self.settings.canary.gateway_urls:
                from ..clients.gateway_counts import GatewayCounts

                self._counter = GatewayCounts.of(self.settings)
        return self._counter

    def refuse_unmeasured(self, canary: Canary | None) -> None:
        """Raise Misconfigured for a canary that nothing would measure."""
        if canary is not None and self._judge is None and not self.settings.bake.prometheus_url:
            raise Misconfigured(
                "A canary or shadow is judged by what Prometheus saw, and TRITON_DEPLOY_PROMETHEUS_URL is not set: nothing was done.",
                hint="Set it for whoever deploys (Airflow's workers and its triggerer), or deploy without --canary and --shadow-percent.",
            )

    def try_in_staging(self, step: RunningStep, manifest: Manifest) -> None:
        """Try a candidate in the staging Triton, if there is one; a warm version is not tried again."""
        if self._staging is None:
            self._staging = staging_of(self.settings)
        live = step.folder.releases.latest()
        if self._staging is None or (live and manifest.version in live.loaded_versions):
            return
        # A version that was live before may be needed at once, because the live one is bad.
        released = manifest.deploy_id != step.record.deploy_id
        settings = (
            replace(self.settings, triton=replace(self.settings.triton, staging="optional"))
            if released
            else self.settings
        )
        Staging(self._staging, step.folder, settings, self.clock).try_out(
            manifest,
            step.record.deploy_id,
            step.keep_lease,
            lambda facts: step.note(staging=facts),
            step.record.staging,
        )
