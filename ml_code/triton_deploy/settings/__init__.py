"""Settings: read from the environment once, into a frozen object, with units in the names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Misconfigured, StorageFailed
from ..rules.artifact_roots import ArtifactRoots
from ..rules.web_address import credentials, fault
from . import setting_rules
from .environment import FromEnvironment, Problem, setting
from .setting_rules import DNS_PREFIX

__all__ = ["DNS_PREFIX", "Settings"]


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
        "MLflow server, `http://…` or `https://…`. Required to deploy, not to roll back. A user and password in it are used, and shown nowhere.",
    )
    mlflow_username: str = setting("MLFLOW_TRACKING_USERNAME", "", "Basic authentication at MLflow.")
    mlflow_password: str = setting("MLFLOW_TRACKING_PASSWORD", "", "Its password.", secret=True)
    mlflow_token: str = setting(
        "MLFLOW_TRACKING_TOKEN", "", "Bearer token at MLflow, instead of a user.", secret=True
    )
    mlflow_timeout_s: float = setting(
        "TRITON_DEPLOY_MLFLOW_TIMEOUT_S",
        10.0,
        "Longest wait for one answer of MLflow, all of it, seconds; a listing of many pages may take three times as long.",
        positive=True,
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
        positive=True,
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
    artifact_roots: tuple[str, ...] = setting(
        "TRITON_DEPLOY_ARTIFACT_ROOTS",
        (),
        "Places that a version's files may be read from, each with all below it, comma-separated: `s3://bucket/folder`, `mlflow-artifacts:/folder`. Unset: what MLflow hands out (`mlflow-artifacts:`) and nothing in S3 directly. Where no folder of `mlflow-artifacts:` is named, all of it may be read.",
    )
    transfer_timeout_s: float = setting(
        "TRITON_DEPLOY_TRANSFER_TIMEOUT_S",
        30.0,
        "Longest silence while an artifact is transferred, seconds.",
        positive=True,
    )
    probe_timeout_s: float = setting(
        "TRITON_DEPLOY_PROBE_TIMEOUT_S",
        3.0,
        "Longest wait for S3 behind a presigned URL before MLflow's proxy is used, seconds.",
        positive=True,
    )
    transfer_streams: int = setting(
        "TRITON_DEPLOY_TRANSFER_STREAMS", 4, "Parallel ranged reads of one artifact.", positive=True
    )
    transfer_range_bytes: int = setting(
        "TRITON_DEPLOY_TRANSFER_RANGE_BYTES", 16 << 20, "Size of one ranged read, bytes.", positive=True
    )
    transfer_min_bytes_per_s: int = setting(
        "TRITON_DEPLOY_TRANSFER_MIN_BYTES_PER_S",
        16384,
        "Slowest transfer that goes on, bytes a second, on the average of `TRITON_DEPLOY_TRANSFER_TIMEOUT_S`; 0 takes any.",
    )
    max_artifact_bytes: int = setting(
        "TRITON_DEPLOY_MAX_ARTIFACT_BYTES",
        20 << 30,
        "Largest artifact that is accepted, bytes in all files.",
        positive=True,
    )
    min_free_bytes: int = setting(
        "TRITON_DEPLOY_MIN_FREE_BYTES", 64 << 20, "Free space that must remain beside the new version, bytes."
    )
    max_opset: int = setting(
        "TRITON_DEPLOY_MAX_OPSET",
        26,
        "Highest ONNX opset (default domain) that Triton's ONNX Runtime takes.",
        positive=True,
    )
    max_ir_version: int = setting(
        "TRITON_DEPLOY_MAX_IR_VERSION",
        13,
        "Highest ONNX IR version that Triton's ONNX Runtime takes.",
        positive=True,
    )
    load_timeout_s: float = setting(
        "TRITON_DEPLOY_LOAD_TIMEOUT_S",
        300.0,
        "Deadline for Triton to load a candidate, seconds.",
        positive=True,
    )
    ready_timeout_s: float = setting(
        "TRITON_DEPLOY_READY_TIMEOUT_S",
        30.0,
        "Deadline for the candidate to be ready on every Triton, seconds.",
        positive=True,
    )
    switch_timeout_s: float = setting(
        "TRITON_DEPLOY_SWITCH_TIMEOUT_S",
        10.0,
        "Deadline of every other call to Triton (flip, unload, index), seconds.",
        positive=True,
    )
    infer_timeout_s: float = setting(
        "TRITON_DEPLOY_INFER_TIMEOUT_S", 30.0, "Deadline of one smoke inference, seconds.", positive=True
    )
    settle_s: float = setting(
        "TRITON_DEPLOY_SETTLE_S",
        1.0,
        "How long the first Triton answers clients with a version that none of them has met before, until the rest are flipped, seconds; 0 waits for no client.",
    )
    smoke_latency_limit_s: float = setting(
        "TRITON_DEPLOY_SMOKE_LATENCY_LIMIT_S",
        5.0,
        "Slowest median smoke latency that passes, seconds.",
        positive=True,
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
        "TRITON_DEPLOY_NOTIFY_TIMEOUT_S", 5.0, "Longest wait for the webhook, seconds.", positive=True
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
        positive=True,
    )
    canary_silence_s: float = setting(
        "TRITON_DEPLOY_CANARY_SILENCE_S",
        90.0,
        "A canary's share ends so long after the last sign of life of whoever watches it, seconds; 10 to 600.",
    )
    canary_no_data: str = setting(
        "TRITON_DEPLOY_CANARY_NO_DATA",
        "hold",
        "What becomes of a candidate that can't be judged before its commit: `hold` (it waits for a person, without a share while nothing measures, and is rolled back in the end), `roll_back`, or `pass` (the next step begins, with a warning).",
    )
    canary_min_requests: int = setting(
        "TRITON_DEPLOY_CANARY_MIN_REQUESTS",
        0,
        "Requests that a step has to see before it ends; 0: as many as TRITON_DEPLOY_BAKE_MIN_REQUESTS.",
    )
    canary_hold_minutes: float = setting(
        "TRITON_DEPLOY_CANARY_HOLD_MINUTES",
        60.0,
        "Longest that a step waits beyond its time for requests, for a measurement or for a person, minutes; 1440 at most, 0 waits for nothing.",
    )
    shadow_max_different: float = setting(
        "TRITON_DEPLOY_SHADOW_MAX_DIFFERENT",
        0.01,
        "Share of a shadow's answers that may differ from the live version's beyond the tolerance, for each output, 0 to 1; 1 compares and stops nothing.",
    )
    gateway_urls: tuple[str, ...] = setting(
        "TRITON_DEPLOY_GATEWAY_URLS",
        (),
        "Addresses of the gateways, `http://host:port`, comma-separated; a name may stand for several. What they count themselves stops a candidate that fails there, whatever Prometheus does.",
    )
    gateway_api_key: str = setting(
        "GATEWAY_API_KEY",
        "",
        "Key that the gateways want, if they want one: with it the deployer reads what they count.",
        secret=True,
    )
    keep_warm: int = setting(
        "TRITON_DEPLOY_KEEP_WARM", 1, "Earlier versions kept loaded beside the live one."
    )
    lease_s: float = setting(
        "TRITON_DEPLOY_LEASE_S",
        900.0,
        "How long a silent deploy keeps others away from its model, seconds.",
        positive=True,
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
        "Longest wait for one whole answer of Prometheus or Alertmanager, from the connection to its last byte, seconds.",
        positive=True,
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
        "How long a release is watched on live traffic after its commit, minutes; 0 watches none, 43200 (30 days) at most.",
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
    bake_min_clients: int = setting(
        "TRITON_DEPLOY_BAKE_MIN_CLIENTS",
        3,
        "So many clients have to have had a failure before failures count, or all clients where there are fewer.",
        positive=True,
    )
    bake_max_failure_ratio: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_FAILURE_RATIO",
        0.01,
        "Share of requests that may fail, 0 to 1, where nothing is known of the previous release; else the rise is the limit.",
    )
    bake_max_failure_rise: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_FAILURE_RISE",
        0.005,
        "How much greater that share may be than the previous release's, 0 to 1.",
    )
    bake_max_latency_ratio: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_LATENCY_RATIO",
        2.0,
        "How many times the latency of the previous release is accepted; 0 compares nothing.",
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
        "What becomes of a release that too few requests came to: `pass` with a warning, `hold` (it stays, the run fails, a person decides), `revert`.",
    )
    bake_prometheus_away: str = setting(
        "TRITON_DEPLOY_BAKE_PROMETHEUS_AWAY",
        "pass",
        "What becomes of a release when Prometheus can't be reached, or not in time, at the end of its bake: `pass` with a warning, `hold`, `revert`.",
    )
    bake_no_baseline: str = setting(
        "TRITON_DEPLOY_BAKE_NO_BASELINE",
        "pass",
        "What becomes of a release that is good otherwise, when its latency could not be compared with the previous release's: `pass` (the verdict says so), `hold`, `revert`. A first release passes.",
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

    def __post_init__(self) -> None:
        """Take user and password off MLflow's address, as its own client does: no error, record or page shows them."""
        if "@" in self.mlflow_tracking_uri and not fault(self.mlflow_tracking_uri):
            uri, user, password = credentials(self.mlflow_tracking_uri)
            object.__setattr__(self, "mlflow_tracking_uri", uri)
            if user:
                object.__setattr__(self, "mlflow_username", user)
                object.__setattr__(self, "mlflow_password", password)

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
    def canary_requests(self) -> int:
        """Requests that a step of a canary has to see before it ends."""
        return self.canary_min_requests or self.bake_min_requests

    @property
    def canary_hold_s(self) -> float:
        """Longest that a step of a canary waits beyond its time, seconds."""
        return 60 * self.canary_hold_minutes

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

    @property
    def allowed_artifacts(self) -> ArtifactRoots:
        """Where files may be read from; raises Misconfigured when the setting can't be taken apart."""
        return ArtifactRoots.parse(self.artifact_roots)

    def problems(self) -> Iterator[Problem]:
        """See FromEnvironment.problems."""
        yield from setting_rules.problems(self)
