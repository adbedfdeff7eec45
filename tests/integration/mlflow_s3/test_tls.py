"""TLS with a private authority and client certificates, on real connections: which variable holds for which server, and what is said without it.

The commands are the real ones, in processes of their own; what they ask is hostile_site.py with nothing hostile to it, and once a real MLflow and a
real S3, each behind TLS.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stack import Stack
from tests.support.faults.hostile_cases import NEXT, artifact, environment, template
from tests.support.faults.hostile_child import Commands, Job, Ran
from tests.support.faults.hostility import Hostility
from tests.support.models import files, golden, times
from tests.support.servers.certificates import Authority
from tests.support.servers.hostile_messages import SECRETS
from tests.support.servers.hostile_site import Contents, HostileSite
from tests.support.servers.publisher import Publisher
from tests.support.servers.tls_relay import tls_before
from tests.support.world import MODEL

ADDRESS = "127.0.0.1"
MLFLOW, S3, ALL = "MLFLOW_TRACKING_SERVER_CERT_PATH", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"
CLIENT, NO_CHECK, NO_S3_CHECK = (
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_S3_IGNORE_TLS",
)


@dataclass(frozen=True)
class Made:
    """Files and commands that all tests share."""

    authority: Authority
    other: Authority
    client: Path
    template: Path
    commands: Commands


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    with Commands(folder / "commands.log") as commands:
        yield Made(
            authority,
            Authority(folder, "somebody-else"),
            authority.client(),
            template(folder / "repository"),
            commands,
        )


@dataclass
class Site:
    """Servers that speak TLS, and a repository that one version is live in."""

    servers: HostileSite
    made: Made
    folder: Path
    direct: bool

    def run(self, *argv: str, **variables: str | Path) -> tuple[Ran, str]:
        """Run ``triton-deploy``; return how it ended and all that it said."""
        repository = self.folder / "repository"
        shutil.rmtree(repository, ignore_errors=True)
        shutil.copytree(self.made.template, repository, symlinks=True)
        case = Hostility(number=0, site="direct" if self.direct else "presigned")
        prometheus = self.servers.url("prometheus").replace("//", f"//prom:{SECRETS.prometheus}@")
        given = {
            **environment(self.servers, case, repository),
            "TRITON_DEPLOY_PROMETHEUS_URL": prometheus,
            "TRITON_DEPLOY_BAKE_INTERVAL_S": "1",
        }
        return run(self.made.commands, self.folder, argv, given, variables)


def run(
    commands: Commands,
    folder: Path,
    argv: tuple[str, ...],
    given: Mapping[str, str],
    variables: Mapping[str, str | Path],
) -> tuple[Ran, str]:
    ran = commands.run(
        Job(
            argv=argv,
            environment={**given, **{name: str(value) for name, value in variables.items()}},
            repository=given["TRITON_DEPLOY_REPOSITORY"],
            folder=str(folder),
            limit_s=40.0,
        )
    )
    said = (folder / "stdout").read_text() + (folder / "stderr").read_text()
    assert "Traceback" not in said
    return ran, said


@pytest.fixture
def site(request: pytest.FixtureRequest, made: Made, tmp_path: Path) -> Iterator[Site]:
    """Servers as the test's mark says: artifacts direct or not, and whose certificates, for what, they have."""
    asked: Mapping[str, str] = getattr(request, "param", {})
    kinds = {
        "right": lambda: made.authority.server(ADDRESS),
        "ended": lambda: made.authority.server(ADDRESS, ended=True),
        "other name": lambda: made.authority.server("mlflow.example"),
        "of somebody else": lambda: made.other.server(ADDRESS),
        "asks": lambda: made.authority.server(ADDRESS, asks=made.authority),
        "asks early": lambda: made.authority.server(ADDRESS, asks=made.authority, early=True),
    }
    tls = {
        name: kinds[asked.get(name, "right")]()
        for name in ("mlflow", "s3", "prometheus")
        if asked.get(name) != "none"
    }
    direct = "direct" in asked
    contents = Contents(MODEL, NEXT, artifact(), direct=direct)
    with HostileSite(contents, tls=tls) as servers:
        yield Site(servers, made, tmp_path, direct)


def on(**servers: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "site", [servers], indirect=True, ids=["-".join(servers.values()) or "right"]
    )


WAYS = {
    "each server's own variable": {MLFLOW: "bundle", S3: "bundle", CLIENT: "client"},
    "one for all": {ALL: "bundle", CLIENT: "client"},
    "no check of MLflow and S3": {NO_CHECK: "true", NO_S3_CHECK: "true", CLIENT: "client"},
}


def variables(made: Made, names: Mapping[str, str]) -> dict[str, str | Path]:
    """Return variables, with the files that the words in them stand for."""
    stands: dict[str, str | Path] = {
        "bundle": made.authority.bundle,
        "client": made.client,
        "other": made.other.bundle,
    }
    return {name: stands.get(value, value) for name, value in names.items()}


@pytest.mark.parametrize(
    "site",
    [{"mlflow": "asks"}, {"mlflow": "asks", "direct": "yes"}],
    indirect=True,
    ids=["presigned", "direct"],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_trusted_holds_for_listing_and_transfer_alike(way: str, site: Site) -> None:
    ran, said = site.run("deploy", MODEL, **variables(site.made, WAYS[way]))
    assert ran.code == 0, said
    assert ran.serves == (NEXT, float(NEXT))
    # Not by way of MLflow, because S3 could not be reached.
    assert not [asked for asked in site.servers.asked if asked.endpoint == "proxied"]
    assert [asked for asked in site.servers.asked if asked.endpoint == "object"]


@on(mlflow="asks", direct="yes")
def test_doctor_finds_nothing_wrong_with_what_is_trusted(site: Site) -> None:
    # Prometheus has no variable of its own.
    trusted = {**WAYS["each server's own variable"], ALL: "bundle"}
    _, said = site.run("doctor", **variables(site.made, trusted))
    assert "ok           MLflow" in said
    assert "ok           artifacts" in said
    assert "ok           S3" in said
    assert "certificate" not in said


@dataclass(frozen=True)
class Wrong:
    """A set-up that is wrong in one thing.

    Attributes:
        servers: which certificates they have.
        given: variables.
        tells: what is said, in this order.
        whose: the doctor's check that finds it.
    """

    servers: Mapping[str, str]
    given: Mapping[str, str]
    tells: tuple[str, ...]
    whose: str = "MLflow"


DIRECT = {"direct": "yes"}
WRONG = {
    "MLflow of an unknown authority": Wrong({}, {}, ("certificate of MLflow", "not trusted", MLFLOW)),
    "MLflow of another authority": Wrong(
        {}, {MLFLOW: "other"}, ("certificate of MLflow", "not trusted", MLFLOW)
    ),
    "MLflow's certificate has ended": Wrong(
        {"mlflow": "ended"}, {MLFLOW: "bundle", S3: "bundle"}, ("certificate of MLflow", "expired", "Renew")
    ),
    "MLflow has another name": Wrong(
        {"mlflow": "other name"}, {MLFLOW: "bundle", S3: "bundle"}, ("certificate of MLflow", ADDRESS, "name")
    ),
    "no client certificate": Wrong(
        {"mlflow": "asks"}, {MLFLOW: "bundle"}, ("MLflow", "refuses this client's TLS", CLIENT)
    ),
    "no client certificate, told early": Wrong(
        {"mlflow": "asks early"}, {MLFLOW: "bundle"}, ("MLflow", "refuses this client's TLS", CLIENT)
    ),
    "a file that is not there": Wrong({}, {MLFLOW: "/nowhere/ca.pem"}, (MLFLOW, "/nowhere/ca.pem")),
    "a client certificate that is none": Wrong(
        {"mlflow": "asks"}, {MLFLOW: "bundle", CLIENT: "bundle"}, (CLIENT, "key")
    ),
    "https:// to a server without TLS": Wrong(
        {"mlflow": "none"}, {"scheme": "https"}, ("MLflow", "TLS", "http://")
    ),
    "S3's bundle alone": Wrong(DIRECT, {S3: "bundle"}, ("certificate of MLflow", "not trusted", MLFLOW)),
    "S3 unchecked alone": Wrong(
        DIRECT, {NO_S3_CHECK: "true"}, ("certificate of MLflow", "not trusted", MLFLOW)
    ),
    "MLflow's bundle alone": Wrong(
        DIRECT, {MLFLOW: "bundle"}, ("certificate of S3", "not trusted", S3), "S3"
    ),
    "MLflow unchecked alone": Wrong(
        DIRECT, {NO_CHECK: "true"}, ("certificate of S3", "not trusted", S3), "S3"
    ),
    "S3's certificate has ended": Wrong(
        {"s3": "ended", **DIRECT}, {ALL: "bundle"}, ("certificate of S3", "expired", "Renew"), "S3"
    ),
    "S3 has another name": Wrong(
        {"s3": "other name", **DIRECT}, {ALL: "bundle"}, ("certificate of S3", ADDRESS, "name"), "S3"
    ),
    "S3 wants a client certificate": Wrong(
        {"s3": "asks", **DIRECT}, {ALL: "bundle", CLIENT: "client"}, ("S3", "refuses this client's TLS"), "S3"
    ),
}


EXAMINED = {
    "MLflow of an unknown authority",
    "no client certificate",
    "a file that is not there",
    "MLflow's bundle alone",
    "S3's certificate has ended",
}
"""What the doctor is asked of in ``make test``; the others say the same, and are left to ``make soak``."""


def commands_for(name: str) -> list[Any]:
    wrong = WRONG[name]
    later = () if name in EXAMINED else (pytest.mark.soak,)
    return [
        pytest.param(wrong.servers, wrong, "deploy", id=f"deploy-{name}"),
        pytest.param(wrong.servers, wrong, "doctor", id=f"doctor-{name}", marks=later),
    ]


@pytest.mark.parametrize(
    ("site", "wrong", "command"), [one for name in WRONG for one in commands_for(name)], indirect=["site"]
)
def test_what_is_not_trusted_is_told_as_that(command: str, site: Site, wrong: Wrong) -> None:
    given = dict(wrong.given)
    if given.pop("scheme", "") == "https":
        given["MLFLOW_TRACKING_URI"] = site.servers.url("mlflow").replace("http:", "https:")
    ran, said = site.run(
        *([command, MODEL] if command == "deploy" else [command]), **variables(site.made, given)
    )
    assert ran.code == (3 if command == "deploy" else 7), said
    assert ran.serves == (1, 1.0)
    if command == "doctor":
        said = _told_by(said, wrong.whose)
    assert in_order(said, wrong.tells), said


def _told_by(said: str, check: str) -> str:
    """Return what one check of the doctor failed on."""
    lines = said.splitlines()
    found = [
        f"{line} {after}"
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("FAILED") and check in line
    ]
    return "\n".join(found)


def in_order(text: str, parts: tuple[str, ...]) -> bool:
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
    return True


# Prometheus


def test_prometheus_is_trusted_by_the_variable_for_all(site: Site) -> None:
    ran, said = site.run("bake", MODEL, "--dry-run", "--minutes", "1", **{ALL: site.made.authority.bundle})
    assert ran.code == 0, said
    assert "no source saw a request" in said


PROMETHEUS = {
    "unknown authority": ({}, {}, ("certificate of Prometheus", "not trusted", ALL)),
    "S3's bundle alone": ({}, {S3: "bundle"}, ("certificate of Prometheus", "not trusted", ALL)),
    "MLflow unchecked alone": ({}, {NO_CHECK: "true"}, ("certificate of Prometheus", "not trusted", ALL)),
    "it has ended": ({"prometheus": "ended"}, {ALL: "bundle"}, ("certificate of Prometheus", "expired")),
    "another name": ({"prometheus": "other name"}, {ALL: "bundle"}, ("certificate of Prometheus", ADDRESS)),
}


@pytest.mark.parametrize(
    ("site", "given", "tells"), list(PROMETHEUS.values()), indirect=["site"], ids=list(PROMETHEUS)
)
def test_a_bake_says_why_prometheus_is_not_trusted(
    site: Site, given: Mapping[str, str], tells: tuple[str, ...]
) -> None:
    _, said = site.run("bake", MODEL, "--dry-run", "--minutes", "1", **variables(site.made, given))
    assert in_order(said, tells), said
    assert SECRETS.prometheus not in said


# The real ones


@pytest.mark.integration
def test_a_real_mlflow_and_a_real_s3_behind_tls(mlflow_stack: Stack, made: Made, tmp_path: Path) -> None:
    given = mlflow_stack.environment
    version = Publisher(given).publish(
        "tls_model", files(times(3.0), triton__golden_json=golden(3.0)), direct=True
    )
    repository = tmp_path / "repository"
    shutil.copytree(made.template, repository, symlinks=True)
    asks = made.authority.server(ADDRESS, asks=made.authority)
    with (
        tls_before(given["MLFLOW_TRACKING_URI"], asks) as mlflow,
        tls_before(given["MLFLOW_S3_ENDPOINT_URL"], made.authority.server(ADDRESS)) as s3,
    ):
        base = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "TRITON_DEPLOY_REPOSITORY": str(repository),
            "TRITON_DEPLOY_GRPC_URLS": f"{ADDRESS}:1",
            "TRITON_DEPLOY_ARTIFACT_ROOTS": "s3://mlflow/direct",
            "TRITON_DEPLOY_SETTLE_S": "0",
            "MLFLOW_TRACKING_URI": mlflow,
            "MLFLOW_S3_ENDPOINT_URL": s3,
            **{name: given[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        trusted = {MLFLOW: made.authority.bundle, S3: made.authority.bundle, CLIENT: made.client}
        ran, said = run(made.commands, tmp_path, ("deploy", "tls_model"), base, trusted)
        assert ran.code == 0, said
        assert f"Version {version} of tls_model is live" in said
        _, said = run(made.commands, tmp_path, ("doctor",), base, trusted)
        assert "Bucket mlflow can be read." in said
        ran, said = run(made.commands, tmp_path, ("deploy", "tls_model"), base, {**trusted, CLIENT: ""})
        assert ran.code == 3
        assert CLIENT in said
