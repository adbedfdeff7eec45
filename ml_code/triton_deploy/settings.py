"""Settings: read from the environment once, into a frozen object, with units in the names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from .environment import FromEnvironment, is_address, setting
from .errors import DeployError, Misconfigured, StorageFailed
from .names import check_model

DNS_PREFIX = "dns:///"
"""Begins an endpoint that stands for every address of a name, as in gRPC's own naming."""
MIN_REFERENCE_BYTES = 512 << 20
"""With less address space ONNX Runtime does not start."""


@dataclass(frozen=True, kw_only=True)
class Settings(FromEnvironment):
    """Everything that a deploy can be told from outside; ``from_env`` is the usual way to make one.

    The table in the README is generated from the metadata of these fields.
    """

    repository: Path | None = setting(
        "TRITON_DEPLOY_REPOSITORY",
        None,
        "Folder of the model repository that Triton serves, shared with it. Required.",
    )
    triton_grpc_urls: tuple[str, ...] = setting(
        "TRITON_DEPLOY_GRPC_URLS",
        ("127.0.0.1:8001",),
        "gRPC endpoints of every Triton on that repository, comma-separated: `host:port`, or `dns:///name:port` for every address that the name has.",
    )
    quorum: str = setting(
        "TRITON_DEPLOY_QUORUM",
        "all",
        "How many of them have to take part in a deploy: `all`, `majority` or a number. The others are brought along by `reconcile`.",
    )
    staging_grpc_url: str = setting(
        "TRITON_DEPLOY_STAGING_GRPC_URL",
        "",
        "gRPC endpoint (`host:port`) of one more Triton on that repository, which serves nobody: a candidate is tried there first. Empty: there is none.",
    )
    staging: str = setting(
        "TRITON_DEPLOY_STAGING",
        "required",
        "What a deploy does when the staging Triton can't be reached: `required` fails, to be repeated; `optional` goes on, and its record says so.",
    )
    staging_wait_s: float = setting(
        "TRITON_DEPLOY_STAGING_WAIT_S",
        600.0,
        "How long to wait while another deploy uses the staging Triton, seconds.",
    )
    triton_memory_bytes: int = setting(
        "TRITON_DEPLOY_TRITON_MEMORY_BYTES",
        0,
        "Memory of one Triton for models, bytes: a candidate that would not fit beside the loaded versions (1.2 times their files) is refused before its load; 0 compares nothing.",
    )
    default_model: str = setting(
        "TRITON_DEPLOY_MODEL", "best_model", "Model that the DAG deploys when its form names no other."
    )
    mlflow_tracking_uri: str = setting(
        "MLFLOW_TRACKING_URI",
        "",
        "MLflow server, `http://…` or `https://…`. Required to deploy, not to roll back.",
    )
    mlflow_username: str = setting("MLFLOW_TRACKING_USERNAME", "", "Basic authentication at MLflow.")
    mlflow_password: str = setting("MLFLOW_TRACKING_PASSWORD", "", "Its password.", secret=True)
    mlflow_token: str = setting(
        "MLFLOW_TRACKING_TOKEN", "", "Bearer token at MLflow, instead of a user.", secret=True
    )
    mlflow_timeout_s: float = setting(
        "TRITON_DEPLOY_MLFLOW_TIMEOUT_S", 10.0, "Longest wait for one answer of MLflow, seconds."
    )
    feedback_prefix: str = setting(
        "TRITON_DEPLOY_MLFLOW_FEEDBACK",
        "triton",
        "Prefix of the tags that tell MLflow what serves (`triton.status` and others), one for each environment on the same MLflow; `off` writes none.",
    )
    feedback_timeout_s: float = setting(
        "TRITON_DEPLOY_FEEDBACK_TIMEOUT_S",
        3.0,
        "Longest that a deploy, `reconcile` or `status` waits for those tags and for where the alias points, seconds.",
    )
    alias_drift: str = setting(
        "TRITON_DEPLOY_ALIAS_DRIFT",
        "notice",
        "What `reconcile` makes of an alias that names another version than serves: `notice`, or `problem` (exit code 7).",
    )
    alias_wait_s: float = setting(
        "TRITON_DEPLOY_ALIAS_WAIT_S",
        300.0,
        "How long to wait for an alias that is not set yet, seconds; 0 fails at once.",
    )
    alias_poll_s: float = setting(
        "TRITON_DEPLOY_ALIAS_POLL_S", 5.0, "Pause between two looks for the alias, seconds."
    )
    s3_endpoint_url: str = setting(
        "MLFLOW_S3_ENDPOINT_URL",
        "",
        "S3 endpoint for models stored at `s3://…`, with its scheme; empty means AWS.",
    )
    transfer_timeout_s: float = setting(
        "TRITON_DEPLOY_TRANSFER_TIMEOUT_S", 30.0, "Longest silence while an artifact is transferred, seconds."
    )
    probe_timeout_s: float = setting(
        "TRITON_DEPLOY_PROBE_TIMEOUT_S",
        3.0,
        "Longest wait for S3 behind a presigned URL before MLflow's proxy is used, seconds.",
    )
    transfer_streams: int = setting(
        "TRITON_DEPLOY_TRANSFER_STREAMS", 4, "Parallel ranged reads of one artifact."
    )
    transfer_range_bytes: int = setting(
        "TRITON_DEPLOY_TRANSFER_RANGE_BYTES", 16 << 20, "Size of one ranged read, bytes."
    )
    max_artifact_bytes: int = setting(
        "TRITON_DEPLOY_MAX_ARTIFACT_BYTES", 20 << 30, "Largest artifact that is accepted, bytes in all files."
    )
    min_free_bytes: int = setting(
        "TRITON_DEPLOY_MIN_FREE_BYTES", 64 << 20, "Free space that must remain beside the new version, bytes."
    )
    max_opset: int = setting(
        "TRITON_DEPLOY_MAX_OPSET", 26, "Highest ONNX opset (default domain) that Triton's ONNX Runtime takes."
    )
    max_ir_version: int = setting(
        "TRITON_DEPLOY_MAX_IR_VERSION", 13, "Highest ONNX IR version that Triton's ONNX Runtime takes."
    )
    load_timeout_s: float = setting(
        "TRITON_DEPLOY_LOAD_TIMEOUT_S", 300.0, "Deadline for Triton to load a candidate, seconds."
    )
    ready_timeout_s: float = setting(
        "TRITON_DEPLOY_READY_TIMEOUT_S",
        30.0,
        "Deadline for the candidate to be ready on every Triton, seconds.",
    )
    switch_timeout_s: float = setting(
        "TRITON_DEPLOY_SWITCH_TIMEOUT_S",
        10.0,
        "Deadline of every other call to Triton (flip, unload, index), seconds.",
    )
    infer_timeout_s: float = setting(
        "TRITON_DEPLOY_INFER_TIMEOUT_S", 30.0, "Deadline of one smoke inference, seconds."
    )
    settle_s: float = setting(
        "TRITON_DEPLOY_SETTLE_S",
        1.0,
        "How long the first Triton answers clients with a version that none of them has met before, until the rest are flipped, seconds; 0 waits for no client.",
    )
    smoke_latency_limit_s: float = setting(
        "TRITON_DEPLOY_SMOKE_LATENCY_LIMIT_S", 5.0, "Slowest median smoke latency that passes, seconds."
    )
    smoke_rtol: float = setting(
        "TRITON_DEPLOY_SMOKE_RTOL",
        1e-3,
        "Relative tolerance of the smoke test, unless the golden file has its own.",
    )
    smoke_atol: float = setting(
        "TRITON_DEPLOY_SMOKE_ATOL",
        1e-5,
        "Absolute tolerance of the smoke test, unless the golden file has its own.",
    )
    require_golden: str = setting(
        "TRITON_DEPLOY_REQUIRE_GOLDEN",
        "no",
        "`yes` refuses versions that were logged without `triton/golden.json`, and the deployer runs no model; `no` runs those in a process with the following limits.",
    )
    require_digest: str = setting(
        "TRITON_DEPLOY_REQUIRE_DIGEST",
        "no",
        "`yes` refuses versions of which training recorded no digest (tag `triton_deploy.digest`); `no` takes what the artifact store has.",
    )
    reference_timeout_s: float = setting(
        "TRITON_DEPLOY_REFERENCE_TIMEOUT_S",
        60.0,
        "Longest that a model logged without golden inputs may take to load and answer in its process, seconds; far below the lease.",
    )
    reference_memory_bytes: int = setting(
        "TRITON_DEPLOY_REFERENCE_MEMORY_BYTES",
        4 << 30,
        "Address space of a process in which the deployer or the gate runs a model, bytes; ONNX Runtime alone takes 0.3 GB of it.",
    )
    notify_url: str = setting(
        "TRITON_DEPLOY_NOTIFY_URL",
        "",
        "Webhook that the DAGs tell of rollbacks, reverts and releases that could not be judged; empty tells nobody.",
        secret=True,
    )
    notify_format: str = setting(
        "TRITON_DEPLOY_NOTIFY_FORMAT",
        "slack",
        "What it gets: `slack` (`text` alone, as Slack, Mattermost and others take it) or `json` (all of the facts).",
    )
    notify_timeout_s: float = setting(
        "TRITON_DEPLOY_NOTIFY_TIMEOUT_S", 5.0, "Longest wait for the webhook, seconds."
    )
    canary_queries: Path | None = setting(
        "TRITON_DEPLOY_CANARY_QUERIES",
        None,
        "File with the queries by which a canary is judged, written like those of the bake; by default those of the package.",
    )
    canary_interval_s: float = setting(
        "TRITON_DEPLOY_CANARY_INTERVAL_S",
        15.0,
        "Pause between two looks at a canary, seconds; not more than a third of the following.",
    )
    canary_silence_s: float = setting(
        "TRITON_DEPLOY_CANARY_SILENCE_S",
        90.0,
        "A canary's share ends so long after the last sign of life of whoever watches it, seconds; 10 to 600.",
    )
    keep_warm: int = setting(
        "TRITON_DEPLOY_KEEP_WARM", 1, "Earlier versions kept loaded beside the live one."
    )
    lease_s: float = setting(
        "TRITON_DEPLOY_LEASE_S", 900.0, "How long a silent deploy keeps others away from its model, seconds."
    )

    keep_releases: int = setting(
        "TRITON_DEPLOY_KEEP_RELEASES",
        10,
        "The versions of so many last releases stay, to be reverted to; `triton-deploy gc` removes older ones.",
    )
    keep_quarantined: int = setting(
        "TRITON_DEPLOY_KEEP_QUARANTINED",
        10,
        "So many quarantined directories stay, the newest; one younger than a day stays in any case.",
    )
    quarantine_days: float = setting(
        "TRITON_DEPLOY_QUARANTINE_DAYS",
        30.0,
        "For so long stay what failed and the records of ended deployments, days; a day at least.",
    )

    prometheus_url: str = setting(
        "TRITON_DEPLOY_PROMETHEUS_URL",
        "",
        "Prometheus, or what speaks its API, `http://…` or `https://…`, with user and password if it needs them. Without it no release bakes.",
        secret=True,
    )
    prometheus_timeout_s: float = setting(
        "TRITON_DEPLOY_PROMETHEUS_TIMEOUT_S",
        5.0,
        "Longest wait for one answer of Prometheus or Alertmanager, seconds.",
    )
    alertmanager_url: str = setting(
        "TRITON_DEPLOY_ALERTMANAGER_URL",
        "",
        "Alertmanager, for the alerts that fail a bake; written like Prometheus'.",
        secret=True,
    )
    bake_minutes: float = setting(
        "TRITON_DEPLOY_BAKE_MINUTES",
        15.0,
        "How long a release is watched on live traffic after its commit, minutes; 0 watches none.",
    )
    bake_interval_s: float = setting(
        "TRITON_DEPLOY_BAKE_INTERVAL_S", 30.0, "Pause between two looks at a release that bakes, seconds."
    )
    bake_window_s: float = setting(
        "TRITON_DEPLOY_BAKE_WINDOW_S",
        120.0,
        "How far back a look looks, seconds; at least four times as long as Prometheus' scrape interval.",
    )
    bake_bad_looks: int = setting(
        "TRITON_DEPLOY_BAKE_BAD_LOOKS", 2, "So many bad looks in a row take a release back before its end."
    )
    bake_min_requests: int = setting(
        "TRITON_DEPLOY_BAKE_MIN_REQUESTS", 100, "Fewer requests than that are no data."
    )
    bake_max_failure_ratio: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_FAILURE_RATIO", 0.01, "Share of requests that may fail, 0 to 1."
    )
    bake_max_failure_rise: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_FAILURE_RISE",
        0.005,
        "How much greater that share may be than the previous release's at the same age, 0 to 1.",
    )
    bake_max_latency_ratio: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_LATENCY_RATIO",
        2.0,
        "How many times the latency of the previous release at the same age is accepted; 0 compares nothing.",
    )
    bake_min_latency_rise_s: float = setting(
        "TRITON_DEPLOY_BAKE_MIN_LATENCY_RISE_S",
        0.01,
        "A latency that rose by less is accepted whatever the ratio, seconds.",
    )
    bake_max_latency_s: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_LATENCY_S", 0.0, "Absolute limit of the latency, seconds; 0 is none."
    )
    bake_no_data: str = setting(
        "TRITON_DEPLOY_BAKE_NO_DATA",
        "pass",
        "What becomes of a release that cannot be judged: `pass` with a warning, `hold` (it stays, the run fails, a person decides), `revert`.",
    )
    bake_queries: Path | None = setting(
        "TRITON_DEPLOY_BAKE_QUERIES",
        None,
        "File with the queries of the bake; by default those of the package, see docs/bake.md.",
    )
    bake_alerts: tuple[str, ...] = setting(
        "TRITON_DEPLOY_BAKE_ALERTS",
        (),
        "Alerts that fail a bake when they begin to fire during it, for its model or for none, comma-separated. Needs TRITON_DEPLOY_ALERTMANAGER_URL.",
    )

    @classmethod
    def usable(cls, environ: Mapping[str, str] | None = None) -> tuple[Self, Mapping[str, DeployError]]:
        """Read the settings as far as they can be used.

        Args:
            environ: variables to read; the process's own by default.

        Returns:
            The settings, with the default for what can't be used; and why not, by variable.
        """
        environ = os.environ if environ is None else environ
        wrong: dict[str, DeployError] = {}
        for f in fields(cls):
            variable = f.metadata["variable"]
            try:
                cls.from_env({variable: environ.get(variable, "")})
            except DeployError as error:
                wrong[variable] = error
        return cls.from_env({name: text for name, text in environ.items() if name not in wrong}), wrong

    @property
    def repository_root(self) -> Path:
        """The model repository's folder.

        Raises:
            Misconfigured: it is not set or not a folder.
            StorageFailed: it can't be looked at.
        """
        if self.repository is None:
            raise Misconfigured(
                "TRITON_DEPLOY_REPOSITORY is not set.",
                hint="Set it to the folder that Triton was started with (--model-repository).",
            )
        try:
            found = self.repository.is_dir()
        except OSError as error:
            raise StorageFailed(
                f"The model repository {self.repository} can't be looked at: {error.strerror}.",
                hint="Check its file system and mount.",
            ) from error
        if not found:
            raise Misconfigured(
                f"The model repository {self.repository} is not a folder on this machine.",
                hint="Set TRITON_DEPLOY_REPOSITORY to the folder that is shared with Triton, and mount it on every worker.",
            )
        return self.repository

    @property
    def trial_limit_s(self) -> float:
        """Longest that a trial in the staging Triton may take, seconds: two tries, with a wait until it is back; 0 without one."""
        if not self.staging_grpc_url:
            return 0.0
        try_s = self.load_timeout_s + self.ready_timeout_s + 24 * self.infer_timeout_s
        return self.staging_wait_s + 2 * try_s + self.load_timeout_s

    @property
    def tracking_url(self) -> str:
        """MLflow's base URL without a trailing slash; raises Misconfigured when it is not set."""
        if not self.mlflow_tracking_uri:
            raise Misconfigured(
                "MLFLOW_TRACKING_URI is not set.",
                hint="Set it to the MLflow server, for example http://mlflow:5000.",
            )
        return self.mlflow_tracking_uri.rstrip("/")

    def check(self) -> None:
        """See FromEnvironment.check."""
        check_model(self.default_model)
        for variable, url in (
            ("MLFLOW_TRACKING_URI", self.mlflow_tracking_uri),
            ("MLFLOW_S3_ENDPOINT_URL", self.s3_endpoint_url),
            ("TRITON_DEPLOY_PROMETHEUS_URL", self.prometheus_url),
            ("TRITON_DEPLOY_ALERTMANAGER_URL", self.alertmanager_url),
        ):
            if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
                raise Misconfigured(
                    f"{variable}={url!r} is not an http:// or https:// URL.",
                    hint=f"Write it with its scheme, for example http://{url.split('://')[-1] or 'host:port'}.",
                )
        if not self.triton_grpc_urls:
            raise Misconfigured(
                "TRITON_DEPLOY_GRPC_URLS names no Triton.", hint="Set it to host:port of each one."
            )
        if self.quorum not in ("all", "majority") and not re.fullmatch("[1-9][0-9]*", self.quorum):
            raise Misconfigured(
                f"TRITON_DEPLOY_QUORUM={self.quorum!r} is neither 'all', 'majority' nor a number of 1 or more.",
                hint="Unset it for the default, all.",
            )
        for variable, choice, default, other in (
            ("TRITON_DEPLOY_STAGING", self.staging, "required", "optional"),
            ("TRITON_DEPLOY_ALIAS_DRIFT", self.alias_drift, "notice", "problem"),
            ("TRITON_DEPLOY_NOTIFY_FORMAT", self.notify_format, "slack", "json"),
        ):
            if choice not in (default, other):
                raise Misconfigured(
                    f"{variable}={choice!r} is neither {default!r} nor {other!r}.",
                    hint=f"Unset it for the default, {default}.",
                )
        self._check_staging()
        self._check_reference()
        if not 10 <= self.canary_silence_s <= 600:
            raise Misconfigured(
                f"TRITON_DEPLOY_CANARY_SILENCE_S={self.canary_silence_s:g} is not 10 to 600.",
                hint="Unset it for the default, 90.",
            )
        if self.notify_url and not re.match("https?://[^/]", self.notify_url):
            # Not shown: whoever knows it can write there.
            raise Misconfigured(
                "TRITON_DEPLOY_NOTIFY_URL is not an http:// or https:// URL.",
                hint="Write it with its scheme.",
            )
        self._check_bake()
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", self.feedback_prefix):
            raise Misconfigured(
                f"TRITON_DEPLOY_MLFLOW_FEEDBACK={self.feedback_prefix!r} can't begin the name of a tag.",
                hint="Use letters, digits, '_', '.' or '-', or 'off'.",
            )
        for url in self.triton_grpc_urls:
            if not is_address(url.removeprefix(DNS_PREFIX)):
                raise Misconfigured(
                    f"TRITON_DEPLOY_GRPC_URLS has {url!r}, which is not host:port.",
                    hint=f"Use Triton's gRPC port (8001 by default), without a scheme, or {DNS_PREFIX}name:port.",
                )

    def _check_staging(self) -> None:
        if not self.staging_grpc_url:
            return
        if not is_address(self.staging_grpc_url):
            raise Misconfigured(
                f"TRITON_DEPLOY_STAGING_GRPC_URL={self.staging_grpc_url!r} is not host:port.",
                hint="Use the gRPC port of the staging Triton (8001 by default), without a scheme. There is one of it.",
            )
        if self.staging_grpc_url in self.triton_grpc_urls:
            raise Misconfigured(
                f"TRITON_DEPLOY_STAGING_GRPC_URL={self.staging_grpc_url!r} is one of TRITON_DEPLOY_GRPC_URLS.",
                hint="A candidate is tried where nobody is served: start one more Triton, without --load-model, and name that.",
            )

    def _check_reference(self) -> None:
        for variable, choice in (
            ("TRITON_DEPLOY_REQUIRE_GOLDEN", self.require_golden),
            ("TRITON_DEPLOY_REQUIRE_DIGEST", self.require_digest),
        ):
            if choice not in ("no", "yes"):
                raise Misconfigured(
                    f"{variable}={choice!r} is neither 'no' nor 'yes'.", hint="Unset it for the default, no."
                )
        if not self.reference_timeout_s:
            raise Misconfigured(
                "TRITON_DEPLOY_REFERENCE_TIMEOUT_S is 0: no model could answer.",
                hint="Unset it for the default, 60; TRITON_DEPLOY_REQUIRE_GOLDEN=yes runs none.",
            )
        if self.reference_memory_bytes < MIN_REFERENCE_BYTES:
            raise Misconfigured(
                f"TRITON_DEPLOY_REFERENCE_MEMORY_BYTES={self.reference_memory_bytes} is less than ONNX Runtime needs, {MIN_REFERENCE_BYTES}.",
                hint=f"Unset it for the default, {type(self).reference_memory_bytes}.",
            )

    def _check_bake(self) -> None:
        if self.bake_no_data not in ("pass", "hold", "revert"):
            raise Misconfigured(
                f"TRITON_DEPLOY_BAKE_NO_DATA={self.bake_no_data!r} is neither 'pass', 'hold' nor 'revert'.",
                hint="Unset it for the default, pass.",
            )
        for variable, share in (
            ("TRITON_DEPLOY_BAKE_MAX_FAILURE_RATIO", self.bake_max_failure_ratio),
            ("TRITON_DEPLOY_BAKE_MAX_FAILURE_RISE", self.bake_max_failure_rise),
        ):
            if share > 1:
                raise Misconfigured(
                    f"{variable}={share:g} is more than all requests.",
                    hint="Write a share: 0.01 for one of a hundred.",
                )
        for variable, number in (
            ("TRITON_DEPLOY_BAKE_INTERVAL_S", self.bake_interval_s),
            ("TRITON_DEPLOY_BAKE_WINDOW_S", self.bake_window_s),
            ("TRITON_DEPLOY_BAKE_BAD_LOOKS", self.bake_bad_looks),
        ):
            if number < 1:
                raise Misconfigured(
                    f"{variable}={number:g} is less than 1.", hint="Unset it for the default."
                )
        if self.bake_alerts and not self.alertmanager_url:
            raise Misconfigured(
                "TRITON_DEPLOY_BAKE_ALERTS is set, and TRITON_DEPLOY_ALERTMANAGER_URL is not.",
                hint="Set it to the Alertmanager, for example http://alertmanager:9093.",
            )
