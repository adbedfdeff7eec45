"""The gateway's settings: read from the environment once, in the same way as the deployer's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..triton_deploy.errors import Misconfigured
from ..triton_deploy.rules.names import check_alias, check_model
from ..triton_deploy.rules.web_address import credentials
from ..triton_deploy.settings import Settings
from ..triton_deploy.settings.checks import Check, is_address, web_address
from ..triton_deploy.settings.environment import FromEnvironment, Problem, setting
from .http.keys import Key


def _known(*choices: str) -> Check:
    """Return the check that a text is one of the choices."""

    def check(variable: str, value: str, default: str) -> None:
        if value not in choices:
            raise Misconfigured(f"{variable}={value!r} is not known.", hint=f"Use {' or '.join(choices)}.")

    return check


def _at_most(maximum: int) -> Check:
    """Return the check that a number is not above the maximum."""

    def check(variable: str, value: float, default: float) -> None:
        if value > maximum:
            raise Misconfigured(f"{variable} is more than {maximum}.", hint=f"Use 0 to {maximum}.")

    return check


def _one_at_least(variable: str, value: int, default: int) -> None:
    if value < 1:
        raise Misconfigured(f"{variable} is less than 1.", hint="Unset it for the default.")


def _model_name(variable: str, name: str, default: str) -> None:
    check_model(name)


def _alias_name(variable: str, name: str, default: str) -> None:
    check_alias(name)


def _keys(variable: str, entries: Sequence[str], default: object) -> None:
    for entry in entries:
        Key.parse(entry)


def _tritons(variable: str, urls: Sequence[str], default: object) -> None:
    if not urls:
        raise Misconfigured(f"{variable} names no Triton.", hint="Set it to host:port of each one.")
    _ports("HTTP", 8000)(variable, urls, default)


def _ports(protocol: str, port: int) -> Check:
    """Return the check that each address is ``host:port``; the hint names protocol and default port."""

    def check(variable: str, urls: Sequence[str], default: object) -> None:
        for url in urls:
            if not is_address(url):
                raise Misconfigured(
                    f"{variable} has {url!r}, which is not host:port.",
                    hint=f"Use Triton's {protocol} port ({port} by default), without a scheme.",
                )

    return check


def _link(variable: str, url: str, default: str) -> None:
    """Check that a text is empty or an address that a page may link to, without a user and a password."""
    web_address(variable, url, default)
    if url and any(credentials(url)[1:]):
        raise Misconfigured(
            f"{variable} has a user or a password, which the page would show to everybody.",
            hint="Take them out: each reader logs in for themselves.",
        )


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(FromEnvironment):
    """The settings of the gateway; the table in docs/gateway.md is generated from these fields.

    The local backend takes the settings of MLflow and the artifact stores from the deployer
    (``MLFLOW_TRACKING_URI`` and so on).
    """

    backend: str = setting(
        "GATEWAY_BACKEND",
        "triton",
        "Who runs the models: `triton`, or `local` for an MLflow alias in process.",
        check=_known("triton", "local"),
    )
    model: str = setting(
        "GATEWAY_MODEL", "best_model", "Model of the paths that name none.", check=_model_name
    )
    repository: Path | None = setting(
        "TRITON_DEPLOY_REPOSITORY",
        None,
        "Folder of the model repository; may be mounted read-only. Required with Triton.",
    )
    triton_urls: tuple[str, ...] = setting(
        "GATEWAY_TRITON_URLS",
        ("127.0.0.1:8000",),
        "HTTP endpoints of every Triton on that repository, `host:port`, comma-separated.",
        check=_tritons,
    )
    triton_grpc_urls: tuple[str, ...] = setting(
        "GATEWAY_TRITON_GRPC_URLS",
        (),
        "gRPC endpoints of the same Tritons in the same order, as the deployer knows them: a canary is on one of them. Needed only where their hosts do not tell which is which.",
        check=_ports("gRPC", 8001),
    )
    alias: str = setting(
        "GATEWAY_ALIAS", "A", "MLflow alias that the local backend follows.", check=_alias_name
    )
    host: str = setting("GATEWAY_HOST", "127.0.0.1", "Address to listen on; `0.0.0.0` for all.")
    port: int = setting("GATEWAY_PORT", 8100, "Port to listen on; 0 for any free one.")
    workers: int = setting("GATEWAY_WORKERS", 1, "Processes.", check=_one_at_least)
    api_key: str = setting(
        "GATEWAY_API_KEY",
        "",
        "If set, wanted as `X-Api-Key` or bearer token by everything but health and the frames of the pages.",
        secret=True,
    )
    api_keys: tuple[str, ...] = setting(
        "GATEWAY_API_KEYS",
        (),
        "Further keys by their hashes, comma-separated: `sha256:<hex>` for everything, `sha256:<hex>@model+model` for these models. Several at once let clients change over.",
        check=_keys,
    )
    cors_origins: tuple[str, ...] = setting(
        "GATEWAY_CORS_ORIGINS",
        (),
        "Origins whose pages may call the gateway, comma-separated; none by default.",
    )
    mlflow_url: str = setting(
        "GATEWAY_MLFLOW_URL",
        "",
        "MLflow's address in a reader's browser, `https://…`: the page links each version to it. Without it there is no such link.",
        check=_link,
    )
    airflow_url: str = setting(
        "GATEWAY_AIRFLOW_URL",
        "",
        "Airflow's address in a reader's browser: the page links each deploy that a DAG made to its run. Without it there is no such link.",
        check=_link,
    )
    documents_url: str = setting(
        "GATEWAY_DOCUMENTS_URL",
        "",
        "Address of these documents in a reader's browser, the folder of `make site` on a web server: the page links to them. Without it there is no such link.",
        check=_link,
    )
    poll_interval_s: float = setting(
        "GATEWAY_POLL_INTERVAL_S", 1.0, "Pause between two looks at current.json, or at the alias, seconds."
    )
    request_timeout_s: float = setting(
        "GATEWAY_REQUEST_TIMEOUT_S",
        30.0,
        "Longest time for a request, waiting included, seconds; then 504, or 408 while its body is awaited.",
    )
    connect_timeout_s: float = setting(
        "GATEWAY_CONNECT_TIMEOUT_S", 2.0, "Longest wait for a connection to a Triton, seconds."
    )
    keep_alive_s: float = setting(
        "GATEWAY_KEEP_ALIVE_S", 75.0, "How long an idle connection of a client is kept, seconds."
    )
    stop_timeout_s: float = setting(
        "GATEWAY_STOP_TIMEOUT_S", 30.0, "Longest wait for requests in flight at the stop, seconds."
    )
    head_timeout_s: float = setting(
        "GATEWAY_HEAD_TIMEOUT_S",
        10.0,
        "Longest time until the head of a request is complete, seconds; then 408. No key has been looked at by then.",
    )
    max_head_bytes: int = setting(
        "GATEWAY_MAX_HEAD_BYTES",
        32 << 10,
        "Largest head of a request, bytes; more gets 431.",
        check=_one_at_least,
    )
    max_url_bytes: int = setting(
        "GATEWAY_MAX_URL_BYTES", 8 << 10, "Longest URL, bytes; more gets 414.", check=_one_at_least
    )
    max_connections: int = setting(
        "GATEWAY_MAX_CONNECTIONS",
        1000,
        "Connections of clients, in each process; at more the one without a request for the longest is ended.",
        check=_one_at_least,
    )
    max_concurrency: int = setting(
        "GATEWAY_MAX_CONCURRENCY", 64, "Requests at the models at once, in each process.", check=_one_at_least
    )
    max_queue: int = setting(
        "GATEWAY_MAX_QUEUE", 256, "Requests that wait for their turn, in each process; more get 429."
    )
    max_body_bytes: int = setting(
        "GATEWAY_MAX_BODY_BYTES", 64 << 20, "Largest body of a binary v2 request, bytes; more gets 413."
    )
    max_json_bytes: int = setting(
        "GATEWAY_MAX_JSON_BYTES", 8 << 20, "Largest JSON body or JSON part, bytes; more gets 413."
    )
    max_json_depth: int = setting(
        "GATEWAY_MAX_JSON_DEPTH", 32, "Deepest nesting of JSON; more gets 400.", check=_one_at_least
    )
    max_buffer_bytes: int = setting(
        "GATEWAY_MAX_BUFFER_BYTES",
        256 << 20,
        "Bodies, and answers of `/predict`, held in memory at once, bytes in each process; more gets 429.",
    )
    canary_header: str = setting(
        "GATEWAY_CANARY_HEADER",
        "X-Canary-Key",
        "Header by which a client names itself, so that while a canary goes on it gets one version.",
    )
    canary_timeout_s: float = setting(
        "GATEWAY_CANARY_TIMEOUT_S",
        2.0,
        "Longest wait for a candidate's answer, seconds; then the live version answers.",
    )
    max_shadows: int = setting(
        "GATEWAY_MAX_SHADOWS", 16, "Mirrored requests at once, in each process; more are left out."
    )
    smoke_rtol: float = setting(
        "TRITON_DEPLOY_SMOKE_RTOL",
        Settings.smoke.rtol,
        "Relative tolerance within which a shadow's answer is the same as the live one's, unless the candidate's golden file has its own.",
    )
    smoke_atol: float = setting(
        "TRITON_DEPLOY_SMOKE_ATOL",
        Settings.smoke.atol,
        "Absolute tolerance of the same; for both, the value that the deployer has.",
    )
    baseline_percent: int = setting(
        "GATEWAY_BASELINE_PERCENT",
        0,
        "Share of the requests that the version before goes on answering after a release while it is loaded, so that a bake compares both at the same time; 0 for none, 50 at most.",
        check=_at_most(50),
    )
    baseline_minutes: float = setting(
        "GATEWAY_BASELINE_MINUTES",
        15.0,
        "How long after a release it does so, minutes; 60 at most.",
        check=_at_most(60),
    )
    nan_policy: str = setting(
        "GATEWAY_NAN_POLICY",
        "reject",
        "Numbers that are not finite in JSON: `reject`, or `allow` (`null` is NaN in /predict, NaN literals pass in v2).",
        check=_known("reject", "allow"),
    )
    access_log: str = setting(
        "GATEWAY_ACCESS_LOG",
        "all",
        "Requests to log: `all`, `errors` (status 400 and more) or `off`.",
        check=_known("all", "errors", "off"),
    )
    local_threads: int = setting(
        "GATEWAY_LOCAL_THREADS", 2, "Requests that the local backend computes at once.", check=_one_at_least
    )
    cache_dir: Path | None = setting(
        "GATEWAY_CACHE_DIR",
        None,
        "Where the local backend keeps the files of its models; default: a temporary folder.",
    )

    @property
    def repository_root(self) -> Path:
        """Folder of the model repository; raises Misconfigured when it is not set."""
        if self.repository is None:
            raise Misconfigured(
                "TRITON_DEPLOY_REPOSITORY is not set.",
                hint="Set it to the model repository's folder, which may be mounted read-only.",
            )
        return self.repository

    def check(self) -> None:
        """See FromEnvironment.check. A gateway before Triton also needs a repository."""
        super().check()
        if self.backend == "triton":
            _ = self.repository_root

    def problems(self) -> Iterator[Problem]:
        """See FromEnvironment.problems."""
        yield from super().problems()
        if self.triton_grpc_urls and len(self.triton_grpc_urls) != len(self.triton_urls):
            yield Problem(
                "GATEWAY_TRITON_GRPC_URLS",
                Misconfigured(
                    f"GATEWAY_TRITON_GRPC_URLS names {len(self.triton_grpc_urls)} Tritons and GATEWAY_TRITON_URLS {len(self.triton_urls)}.",
                    hint="Name the same Tritons in both, in the same order.",
                ),
                beside=("GATEWAY_TRITON_URLS",),
            )
