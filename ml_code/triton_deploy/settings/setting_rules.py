"""What settings can't be: each by itself, and those that belong together. Pure rules; the doctor and every command use the same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import DeployError, InvalidInput, Misconfigured
from ..rules.artifact_roots import VARIABLE as ARTIFACT_ROOTS
from ..rules.artifact_roots import ArtifactRoots
from ..rules.canary import MAX_HOLD_S
from ..rules.names import check_model
from ..rules.web_address import fault, remedy, shown, split, tracking_remedy
from .environment import Problem, is_address

if TYPE_CHECKING:
    from . import Settings

DNS_PREFIX = "dns:///"
"""Begins an endpoint that stands for every address of a name, as in gRPC's own naming."""
MAX_BAKE_MINUTES = 30 * 24 * 60
"""Longest bake, minutes: Prometheus forgets after some weeks."""
MIN_REFERENCE_BYTES = 512 << 20
"""With less address space ONNX Runtime does not start."""


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield what can't be right in the deployer's settings, each by its variable."""
    yield from _names(settings)
    yield from _addresses(settings)
    yield from _choices(settings)
    yield from _numbers(settings)
    yield from _together(settings)


def _wrong(variable: str, message: str, hint: str, *beside: str) -> Problem:
    return Problem(variable, Misconfigured(message, hint=hint), beside)


def _names(settings: Settings) -> Iterator[Problem]:
    try:
        check_model(settings.default_model)
    except InvalidInput as error:
        message = f"TRITON_DEPLOY_MODEL: {error.message}"
        yield Problem("TRITON_DEPLOY_MODEL", Misconfigured(message, hint=error.hint))
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", settings.feedback_prefix):
        yield _wrong(
            "TRITON_DEPLOY_MLFLOW_FEEDBACK",
            f"TRITON_DEPLOY_MLFLOW_FEEDBACK={settings.feedback_prefix!r} can't begin the name of a tag.",
            "Use letters, digits, '_', '.' or '-', or 'off'.",
        )
    try:
        ArtifactRoots.parse(settings.artifact_roots)
    except DeployError as error:
        yield Problem(ARTIFACT_ROOTS, error)


def _addresses(settings: Settings) -> Iterator[Problem]:
    uri = settings.mlflow_tracking_uri
    if uri and (why := fault(uri)):
        yield _wrong(
            "MLFLOW_TRACKING_URI", f"MLFLOW_TRACKING_URI={shown(uri)!r} is {why}.", tracking_remedy(uri)
        )
    for variable, url in (
        ("MLFLOW_S3_ENDPOINT_URL", settings.s3_endpoint_url),
        ("TRITON_DEPLOY_PROMETHEUS_URL", settings.prometheus_url),
        ("TRITON_DEPLOY_ALERTMANAGER_URL", settings.alertmanager_url),
    ):
        if url and (why := fault(url)):
            yield _wrong(variable, f"{variable}={shown(url)!r} is {why}.", remedy(url))
    if "@" in settings.s3_endpoint_url and not fault(settings.s3_endpoint_url):
        yield _wrong(
            "MLFLOW_S3_ENDPOINT_URL",
            f"MLFLOW_S3_ENDPOINT_URL={shown(settings.s3_endpoint_url)!r} has a user and a password in it, which S3 does not take.",
            "Leave them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    for url in settings.gateway_urls:
        if why := fault(url):
            yield _wrong(
                "TRITON_DEPLOY_GATEWAY_URLS",
                f"TRITON_DEPLOY_GATEWAY_URLS has {shown(url)!r}, which is {why}.",
                remedy(url),
            )
    webhook = split(settings.notify_url)
    if settings.notify_url and not (webhook and webhook.scheme in ("http", "https") and webhook.hostname):
        # Not shown: whoever knows it can write there.
        yield _wrong(
            "TRITON_DEPLOY_NOTIFY_URL",
            "TRITON_DEPLOY_NOTIFY_URL is not an http:// or https:// URL.",
            "Write it with its scheme, and without quotation marks.",
        )
    yield from _tritons(settings)


def _tritons(settings: Settings) -> Iterator[Problem]:
    variable, urls = "TRITON_DEPLOY_GRPC_URLS", settings.triton_grpc_urls
    if not urls:
        yield _wrong(variable, f"{variable} names no Triton.", "Set it to host:port of each one.")
    for url in urls:
        if not is_address(url.removeprefix(DNS_PREFIX)):
            yield _wrong(
                variable,
                f"{variable} has {shown(url)!r}, which is not host:port.",
                f"Use Triton's gRPC port (8001 by default), without a scheme, or {DNS_PREFIX}name:port.",
            )
    if twice := sorted({url for url in urls if urls.count(url) > 1}):
        yield _wrong(
            variable,
            f"{variable} names {', '.join(map(shown, twice))} twice: one Triton would count as two.",
            "Name each once.",
        )
    staging = settings.staging_grpc_url
    if staging and not is_address(staging):
        yield _wrong(
            "TRITON_DEPLOY_STAGING_GRPC_URL",
            f"TRITON_DEPLOY_STAGING_GRPC_URL={shown(staging)!r} is not host:port.",
            "Use the gRPC port of the staging Triton (8001 by default), without a scheme. There is one of it.",
        )


def _choices(settings: Settings) -> Iterator[Problem]:
    if settings.quorum not in ("all", "majority") and not re.fullmatch("[1-9][0-9]{0,3}", settings.quorum):
        yield _wrong(
            "TRITON_DEPLOY_QUORUM",
            f"TRITON_DEPLOY_QUORUM={settings.quorum!r} is neither 'all', 'majority' nor a number of 1 or more.",
            "Unset it for the default, all.",
        )
    for variable, choice, *choices in (
        ("TRITON_DEPLOY_STAGING", settings.staging, "required", "optional"),
        ("TRITON_DEPLOY_ALIAS_DRIFT", settings.alias_drift, "notice", "problem"),
        ("TRITON_DEPLOY_NOTIFY_FORMAT", settings.notify_format, "slack", "json"),
        ("TRITON_DEPLOY_REQUIRE_GOLDEN", settings.require_golden, "no", "yes"),
        ("TRITON_DEPLOY_REQUIRE_DIGEST", settings.require_digest, "no", "yes"),
        ("TRITON_DEPLOY_CANARY_NO_DATA", settings.canary_no_data, "hold", "pass", "roll_back"),
        ("TRITON_DEPLOY_BAKE_NO_DATA", settings.bake_no_data, "pass", "hold", "revert"),
        ("TRITON_DEPLOY_BAKE_NO_BASELINE", settings.bake_no_baseline, "pass", "hold", "revert"),
        ("TRITON_DEPLOY_BAKE_PROMETHEUS_AWAY", settings.bake_prometheus_away, "pass", "hold", "revert"),
    ):
        if choice not in choices:
            *first, last = map(repr, choices)
            yield _wrong(
                variable,
                f"{variable}={choice!r} is neither {', '.join(first)} nor {last}.",
                f"Unset it for the default, {choices[0]}.",
            )


def _numbers(settings: Settings) -> Iterator[Problem]:
    if not settings.reference_timeout_s:
        yield _wrong(
            "TRITON_DEPLOY_REFERENCE_TIMEOUT_S",
            "TRITON_DEPLOY_REFERENCE_TIMEOUT_S is 0: no model could answer.",
            "Unset it for the default, 60; TRITON_DEPLOY_REQUIRE_GOLDEN=yes runs none.",
        )
    if settings.reference_memory_bytes < MIN_REFERENCE_BYTES:
        yield _wrong(
            "TRITON_DEPLOY_REFERENCE_MEMORY_BYTES",
            f"TRITON_DEPLOY_REFERENCE_MEMORY_BYTES={settings.reference_memory_bytes} is less than ONNX Runtime needs, {MIN_REFERENCE_BYTES}.",
            f"Unset it for the default, {type(settings).reference_memory_bytes}.",
        )
    if not 10 <= settings.canary_silence_s <= 600:
        yield _wrong(
            "TRITON_DEPLOY_CANARY_SILENCE_S",
            f"TRITON_DEPLOY_CANARY_SILENCE_S={settings.canary_silence_s:g} is not 10 to 600.",
            "Unset it for the default, 90.",
        )
    if settings.bake_minutes > MAX_BAKE_MINUTES:
        yield _wrong(
            "TRITON_DEPLOY_BAKE_MINUTES",
            f"TRITON_DEPLOY_BAKE_MINUTES={settings.bake_minutes:g} is more than 30 days.",
            f"Use {MAX_BAKE_MINUTES} at most; unset it for the default, {type(settings).bake_minutes:g}.",
        )
    if settings.canary_hold_s > MAX_HOLD_S:
        yield _wrong(
            "TRITON_DEPLOY_CANARY_HOLD_MINUTES",
            f"TRITON_DEPLOY_CANARY_HOLD_MINUTES={settings.canary_hold_minutes:g} is more than a day.",
            f"Use {MAX_HOLD_S / 60:g} at most; unset it for the default, {type(settings).canary_hold_minutes:g}.",
        )
    for variable, share in (
        ("TRITON_DEPLOY_BAKE_MAX_FAILURE_RATIO", settings.bake_max_failure_ratio),
        ("TRITON_DEPLOY_BAKE_MAX_FAILURE_RISE", settings.bake_max_failure_rise),
        ("TRITON_DEPLOY_SHADOW_MAX_DIFFERENT", settings.shadow_max_different),
    ):
        if share > 1:
            yield _wrong(
                variable,
                f"{variable}={share:g} is more than all requests.",
                "Write a share: 0.01 for one of a hundred.",
            )
    for variable, number in (
        ("TRITON_DEPLOY_BAKE_INTERVAL_S", settings.bake_interval_s),
        ("TRITON_DEPLOY_BAKE_WINDOW_S", settings.bake_window_s),
        ("TRITON_DEPLOY_BAKE_BAD_LOOKS", settings.bake_bad_looks),
    ):
        if number < 1:
            yield _wrong(variable, f"{variable}={number:g} is less than 1.", "Unset it for the default.")


def _together(settings: Settings) -> Iterator[Problem]:
    """Yield what only two settings together make wrong."""
    if settings.bake_alerts and not settings.alertmanager_url:
        yield _wrong(
            "TRITON_DEPLOY_BAKE_ALERTS",
            "TRITON_DEPLOY_BAKE_ALERTS is set, and TRITON_DEPLOY_ALERTMANAGER_URL is not.",
            "Set it to the Alertmanager, for example http://alertmanager:9093.",
            "TRITON_DEPLOY_ALERTMANAGER_URL",
        )
    if settings.staging_grpc_url and settings.staging_grpc_url in settings.triton_grpc_urls:
        yield _wrong(
            "TRITON_DEPLOY_STAGING_GRPC_URL",
            f"TRITON_DEPLOY_STAGING_GRPC_URL={settings.staging_grpc_url!r} is one of TRITON_DEPLOY_GRPC_URLS.",
            "A candidate is tried where nobody is served: start one more Triton, without --load-model, and name that.",
            "TRITON_DEPLOY_GRPC_URLS",
        )
    counted = not any(url.startswith(DNS_PREFIX) for url in settings.triton_grpc_urls)
    tritons = len(settings.triton_grpc_urls)
    if counted and settings.quorum.isdigit() and int(settings.quorum) > tritons > 0:
        yield _wrong(
            "TRITON_DEPLOY_QUORUM",
            f"TRITON_DEPLOY_QUORUM={settings.quorum} is more than the Tritons that TRITON_DEPLOY_GRPC_URLS names: {tritons}.",
            "Name the others, or lower it; 'all' is the default.",
            "TRITON_DEPLOY_GRPC_URLS",
        )
    if settings.require_golden == "no" and settings.reference_timeout_s >= settings.lease_s:
        yield _wrong(
            "TRITON_DEPLOY_REFERENCE_TIMEOUT_S",
            f"TRITON_DEPLOY_REFERENCE_TIMEOUT_S={settings.reference_timeout_s:g} is not less than "
            f"TRITON_DEPLOY_LEASE_S={settings.lease_s:g}: another deploy would take a model that is run for its answers for abandoned.",
            "Lower the first, or raise the second.",
            "TRITON_DEPLOY_LEASE_S",
        )
    if settings.mlflow_password and not settings.mlflow_username:
        yield _wrong(
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_PASSWORD is set, and MLFLOW_TRACKING_USERNAME is not: MLflow would be asked without either.",
            "Set both, or none.",
            "MLFLOW_TRACKING_USERNAME",
        )
