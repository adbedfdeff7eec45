"""docker-compose.yml, the images and the matrix of versions: in agreement with each other and with the programs that they run."""

from __future__ import annotations

import http.server
import importlib
import json
import os
import pkgutil
import re
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import ml_code
from ml_code.alias_events.settings import EventSettings
from ml_code.gateway.settings import GatewaySettings
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.settings.environment import FromEnvironment
from ml_code.triton_deploy.settings.variables import unknown
from tests.support.compose_file import (
    FILES,
    PROFILES,
    ROOT,
    WRITE_ENV,
    Refused,
    compose,
    image,
    matrix,
    services,
)

EXAMPLE = (ROOT / ".env.example").read_text()
SECRETS = re.findall(r"^(\w+)=\s*# secret: \w+$", EXAMPLE, re.MULTILINE)
DOCKERFILES = sorted(ROOT.glob("Dockerfile.*"))
COMBINATIONS = [
    *((tritons, *others) for tritons in ("core", "gpu") for others in ((), ("observability",), ("nginx",))),
    PROFILES,
]
DEFAULT_PROFILES = tuple(re.findall(r"^COMPOSE_PROFILES=(.*)$", EXAMPLE, re.MULTILINE)[0].split(","))
OWN_COMMANDS = {
    "airflow": "apache-airflow-core",
    "celery": "celery",
    "mlflow": "mlflow",
    **dict.fromkeys(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]),
}
"""Commands of this project's images, and the package that brings each; None for this one's."""
SERVING = ("triton-1", "triton-2", "triton-gpu-1", "triton-gpu-2")
STAGING = ("triton-staging", "triton-gpu-staging")
LISTENS: Mapping[str, set[int]] = {
    "postgres": {5432},
    "redis": {6379},
    "minio": {9000, 9001},
    "mlflow": {5000},
    "airflow-api-server": {8080},
    "airflow-scheduler": {8974},
    "gateway-1": {GatewaySettings.port},
    "gateway-2": {GatewaySettings.port},
    "events": {EventSettings.port},
    "nginx": {8080},
    "prometheus": {9090},
    "alertmanager": {9093},
    "grafana": {3000},
    **{name: {8000, 8001, 8002} for name in (*SERVING, *STAGING)},
}
"""Where each service listens; `test_what_listens_says_so` holds that to their commands."""


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh `.env`."""
    path = tmp_path_factory.mktemp("compose") / ".env"
    subprocess.run([sys.executable, str(WRITE_ENV), str(path)], check=True)
    return path


@pytest.fixture
def everything(env_file: Path) -> dict[str, dict[str, Any]]:
    return services(env_file, *PROFILES)


def values(env_file: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", env_file.read_text(), re.MULTILINE))


def runs_on(found: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The services that are meant to go on."""
    return {
        name: service for name, service in found.items() if not service["restart"].startswith("on-failure")
    }


def names_on(found: Mapping[str, dict[str, Any]], network: str) -> dict[str, list[str]]:
    """What can be resolved in a network: a name, and the services that have it."""
    names: dict[str, list[str]] = {}
    for name, service in found.items():
        if network in (attached := service.get("networks", {})):
            for alias in [name, *((attached[network] or {}).get("aliases", []))]:
                names.setdefault(alias, []).append(name)
    return names


# What Compose says


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("profiles", COMBINATIONS, ids=" ".join)
def test_compose_accepts_it(env_file: Path, profiles: tuple[str, ...], files: str) -> None:
    assert compose(env_file, *profiles, files=files, arguments=("--quiet",)) == ""


def test_without_a_profile_nothing_is_started_by_mistake(env_file: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text(re.sub("^COMPOSE_PROFILES=.*$", "", env_file.read_text(), flags=re.MULTILINE))
    assert services(bare) == {}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_not_set_is_refused(env_file: Path, tmp_path: Path, name: str) -> None:
    lacking = tmp_path / "lacking"
    lacking.write_text(re.sub(f"^{name}=.*$", f"{name}=", env_file.read_text(), flags=re.MULTILINE))
    with pytest.raises(Refused, match=rf"{name} .*write_env\.py"):
        compose(lacking, *PROFILES)


def test_every_variable_is_in_the_example_and_nothing_else_is(env_file: Path) -> None:
    text = "".join((ROOT / name).read_text() for name in FILES["dev"])
    read = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    # Docker Compose reads this one itself.
    assert set(values(env_file)) - {"COMPOSE_PROFILES"} == read
    assert set(values(env_file)["COMPOSE_PROFILES"].split(",")) <= set(PROFILES)


def test_the_defaults_are_those_of_the_example(env_file: Path) -> None:
    """Both say what happens when a line is taken out."""
    text = (ROOT / "docker-compose.yml").read_text()
    for name, default in set(re.findall(r"\$\{(\w+):?-([^}]*)\}", text)):
        assert values(env_file)[name] == default, name


# .env


def test_every_secret_is_fresh_and_for_the_owner_alone(env_file: Path, tmp_path: Path) -> None:
    another = tmp_path / ".env"
    subprocess.run([sys.executable, str(WRITE_ENV), str(another)], check=True)
    assert stat.S_IMODE(another.stat().st_mode) == 0o600
    assert len(SECRETS) > 10
    made = [v[name] for v in (values(env_file), values(another)) for name in SECRETS]
    assert len(set(made)) == 2 * len(SECRETS)
    assert min(map(len, made)) >= 16
    assert "# secret" not in another.read_text()
    # What stands in a URL must not end it.
    assert all(re.fullmatch(r"[\w=-]+", value) for value in made)


def write_again(env_file: Path) -> str:
    again = [sys.executable, str(WRITE_ENV), str(env_file)]
    return subprocess.run(again, check=True, capture_output=True, text=True).stdout


def test_an_env_that_is_there_stays_as_it_is(env_file: Path) -> None:
    before = env_file.read_bytes()
    assert "what it set stays" in write_again(env_file)
    assert env_file.read_bytes() == before


@pytest.mark.parametrize(
    "left", ["", "REDIS_PASSWORD=\n", "# REDIS_PASSWORD=x\n"], ids=["gone", "empty", "a comment"]
)
def test_an_env_of_an_older_version_gets_the_secrets_that_it_lacks(
    env_file: Path, tmp_path: Path, left: str
) -> None:
    older = tmp_path / ".env"
    text = re.sub(r"^REDIS_PASSWORD=.*\n", left, env_file.read_text(), flags=re.MULTILINE).rstrip("\n")
    older.write_text(text)
    older.chmod(0o600)
    assert f"added to {older}: REDIS_PASSWORD\n" in write_again(older)
    assert older.read_text().startswith(text)
    assert {**values(older), "REDIS_PASSWORD": ""} == {**values(env_file), "REDIS_PASSWORD": ""}
    assert len(values(older)["REDIS_PASSWORD"]) >= 16


def test_no_secret_has_a_value_of_its_own(env_file: Path, everything: Mapping[str, dict[str, Any]]) -> None:
    made = [values(env_file)[name] for name in SECRETS]
    kept = 0
    for name, service in everything.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD(?!S_FILE)|SECRET|FERNET_KEY|_AUTH$", variable):
                assert any(secret in value for secret in made), f"{name}: {variable}"
                kept += 1
            for password in re.findall(r"://\w*:([^@/]+)@", value):
                assert password in made, f"{name}: {variable}"
    assert kept > 10


def test_no_secret_is_an_argument(env_file: Path, everything: Mapping[str, dict[str, Any]]) -> None:
    """Every user of the host sees the arguments of every process."""
    # A Triton takes this one no other way. It opens nothing: nobody is told it.
    made = {name: values(env_file)[name] for name in SECRETS if name != "TRITON_RESTRICTED_KEY"}
    for name, service in everything.items():
        told = (
            service.get("command"),
            service.get("entrypoint"),
            service.get("healthcheck", {}).get("test"),
        )
        arguments = [part for parts in told for part in parts or ()]
        for secret, value in made.items():
            assert value not in "".join(arguments), f"{name}: {secret}"
        # A shell that hands a variable on to a program shows it as well; `printf` is its own.
        for line in (line for part in arguments for line in part.splitlines()):
            if re.search(r"\$\w*(AUTH|SECRET|PASSWORD|KEY|TOKEN)", line):
                assert line.strip().startswith("printf "), f"{name}: {line}"


def test_postgres_is_told_passwords_by_its_environment() -> None:
    script = (ROOT / "deploy/compose/postgres-databases.sh").read_text()
    assert "\\getenv airflow AIRFLOW_DATABASE_PASSWORD\n" in script
    assert not re.search(r"\$\{?\w*PASSWORD", script)


def test_redis_reads_its_password_from_a_file_that_is_its_own(
    everything: Mapping[str, dict[str, Any]], tmp_path: Path
) -> None:
    shell, flags, script = everything["redis"]["command"]
    told = tmp_path / "arguments"
    (tmp_path / "redis-server").write_text(f'#!/bin/sh\necho "$@" > {told}\n')
    (tmp_path / "redis-server").chmod(0o755)
    script = script.replace("$$", "$").replace("/tmp/redis.conf", str(tmp_path / "redis.conf"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDISCLI_AUTH": "5ecret%s\\n"}
    subprocess.run([shell, flags, script], env=environment, check=True)
    assert told.read_text().split() == [str(tmp_path / "redis.conf")]
    lines = (tmp_path / "redis.conf").read_text().splitlines()
    assert lines == ["requirepass 5ecret%s\\n", "appendonly yes", 'save ""', "dir /data"]
    assert (tmp_path / "redis.conf").stat().st_mode & 0o777 == 0o600


# Versions


def test_every_image_is_of_the_matrix(everything: Mapping[str, dict[str, Any]]) -> None:
    known = {image(name) for name in matrix()["images"]}
    for name, service in everything.items():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).exists()
            assert re.fullmatch(r"mlflow-triton/\w+:\d+\.\d+\.\d+", service["image"]), name
        else:
            assert service["image"] in known, name
    assert everything["mlflow"]["image"].endswith(f":{matrix()['packages']['mlflow']}")


def test_every_image_of_the_matrix_is_pinned_and_used(everything: Mapping[str, dict[str, Any]]) -> None:
    used = {service["image"] for service in everything.values()} | {image("python")}
    for name, entry in matrix()["images"].items():
        assert entry["tag"] not in ("", "latest"), name
        assert re.search(r"\d+\.\d+|\d{4}-\d\d-\d\d", entry["tag"]), name
        assert entry["why"]
        assert entry["documented"].startswith("https://"), name
        assert image(name) in used, f"{name} is not used"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_made_of_the_matrix_python(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^ARG PYTHON_IMAGE=(.*)$", text, re.MULTILINE) == [image("python")]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("name", ["triton", "nginx"])
def test_the_chart_has_the_versions_of_the_matrix(name: str) -> None:
    chart = yaml.safe_load((ROOT / "deploy/helm/model-serving/values.yaml").read_text())
    found = chart[name]["image"]
    assert f"{found['repository']}:{found['tag']}" == image(name)


def test_what_the_tests_run_is_what_the_matrix_says() -> None:
    lines = (ROOT / "requirements/main.in").read_text().splitlines()
    pins = {r.name: str(r.specifier) for r in map(Requirement, (x for x in lines if x and x[0] != "#"))}
    for name, version in matrix()["packages"].items():
        assert pins[name] == f"=={version}"
    tag = matrix()["images"]["python"]["tag"]
    assert tag.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


def locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+(?:\[[\w,-]+\])?)==(\S+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["airflow", "gateway", "mlflow", "build"])
def test_an_image_installs_what_was_tested(name: str) -> None:
    path = ROOT / f"requirements/{name}.txt"
    found = locked(path)
    assert found
    assert found.items() <= locked(ROOT / "requirements/main.txt").items()
    assert path.read_text().count("==") <= path.read_text().count("--hash=sha256:")


# Images


def test_hadolint_finds_nothing() -> None:
    program = str(Path(sys.executable).with_name("hadolint"))
    done = subprocess.run(
        [program, "--no-color", *map(str, DOCKERFILES)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(DOCKERFILES) == 3


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_holds_no_more_than_it_needs(path: Path) -> None:
    _, last = path.read_text().rsplit("\nFROM ", 1)
    assert "pip install" not in last
    assert "apt" not in last
    assert "uninstall --yes --no-cache-dir setuptools wheel pip" in last
    users = re.findall(r"^USER (\d+):(\d+)$", last, re.MULTILINE)
    assert len(users) == 1
    assert int(users[0][0]) >= 1000
    assert f"useradd --uid {users[0][0]} " in last
    for label in ("title", "description", "version", "licenses"):
        assert f"org.opencontainers.image.{label}=" in last


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_copies_is_sent_to_the_builder(path: Path) -> None:
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    copied = re.findall(r"^COPY (?:--chmod=\d+ )?((?!--)[^\n]+) \S+$", path.read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(pattern) for pattern in let_through), source
    for secret in (".env", "settings.env"):
        assert not any(Path(secret).match(pattern) for pattern in let_through)
        assert secret in (ROOT / ".gitignore").read_text().splitlines()


def test_the_users_of_the_images_are_those_of_the_services(everything: Mapping[str, dict[str, Any]]) -> None:
    for name, service in everything.items():
        if "build" in service and name != "volumes":
            text = (ROOT / service["build"]["dockerfile"]).read_text()
            assert f"USER {service['user']}\n" in text, name


# What a service may do


def test_every_service_may_do_as_little_as_it_can(everything: Mapping[str, dict[str, Any]]) -> None:
    for name, service in everything.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"] is True, name
        assert not service.get("privileged"), name
        assert "docker.sock" not in str(service), name
        assert service["logging"]["options"]["max-size"], name
        limits = service["deploy"]["resources"]["limits"]
        assert int(limits["memory"]) >= 2**25, name
        assert 256 <= limits["pids"] <= 16384, name
        if name != "volumes":
            assert int(service["user"].split(":")[0]) > 0, name
            assert "cap_add" not in service, name
    assert everything["volumes"]["network_mode"] == "none"


def test_only_the_deployer_writes_the_model_repository(everything: Mapping[str, dict[str, Any]]) -> None:
    writes = {
        name
        for name, service in everything.items()
        for volume in service.get("volumes", [])
        if volume.get("source") == "models" and not volume.get("read_only")
    }
    # The triggerer ends canaries: see CanaryTrigger.
    assert writes == {"airflow-worker", "airflow-triggerer", "volumes"}


def test_a_volume_belongs_to_whoever_writes_it(everything: Mapping[str, dict[str, Any]]) -> None:
    """The PermissionError of the field: a fresh volume is root's."""
    script = everything["volumes"]["command"][-1]
    owners = {
        folder: owner for owner, folder in re.findall(r"^own (\d+:\d+) \d+ (\S+)$", script, re.MULTILINE)
    }
    targets = {v["source"]: v["target"] for v in everything["volumes"]["volumes"]}
    assert set(owners) == set(targets.values())
    checked = set()
    for name, service in everything.items():
        for volume in service.get("volumes", []):
            if volume["type"] == "volume" and not volume.get("read_only") and name != "volumes":
                assert owners[targets[volume["source"]]] == service["user"], f"{name}: {volume['source']}"
                assert "volumes" in reached(everything, name), f"{name} does not wait for its volume"
                checked.add(volume["source"])
    assert checked == set(targets)


def test_the_owners_of_volumes_are_set_once(everything: Mapping[str, dict[str, Any]], tmp_path: Path) -> None:
    """With this process in the place of every user: it may give nothing away."""
    me = f"{os.geteuid()}:{os.getegid()}"
    script = everything["volumes"]["command"][-1].replace("$$", "$").replace("/volumes/", f"{tmp_path}/")
    script = re.sub(r"^own \d+:\d+", f"own {me}", script, flags=re.MULTILINE)
    modes = {folder: mode for mode, folder in re.findall(rf"(\d+) {tmp_path}/(\w+)$", script, re.MULTILINE)}
    for folder in modes:
        (tmp_path / folder).mkdir(mode=0o711)
    for before in ("", "install() { exit 9; }\n"):
        subprocess.run(["sh", "-euc", before + script], check=True)
        for folder, mode in modes.items():
            assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == int(mode, 8)
    assert len(modes) == len(everything["volumes"]["volumes"])


def reached(found: Mapping[str, dict[str, Any]], name: str) -> set[str]:
    """The services that a service waits for, and those wait for."""
    direct = set(found[name].get("depends_on", {}))
    return direct.union(*(reached(found, other) for other in direct))


def test_ports_are_published_to_this_machine_alone(everything: Mapping[str, dict[str, Any]]) -> None:
    published = [port for service in everything.values() for port in service.get("ports", [])]
    assert len(published) > 5
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert len({port["published"] for port in published}) == len(published)


def test_tritons_and_databases_are_reached_by_those_who_need_them(env_file: Path) -> None:
    found = services(env_file, "core", "gpu")
    assert set(names_on(found, "serving")) == {
        *("triton", "triton-1", "triton-2", "triton-gpu-1", "triton-gpu-2"),
        *("gateway-1", "gateway-2", "airflow-worker", "airflow-triggerer"),
    }
    everything = services(env_file, *PROFILES)
    assert set(names_on(everything, "serving")) - set(names_on(found, "serving")) == {
        *("prometheus", "alertmanager"),
        "nginx",
    }
    assert not {"gateway-1", "nginx", "triton-1"} & set(names_on(everything, "state"))


def test_the_staging_triton_is_reached_by_the_deployer_and_prometheus_alone(
    everything: Mapping[str, dict[str, Any]],
) -> None:
    assert set(names_on(everything, "staging")) == {
        *STAGING,
        "airflow-worker",
        "airflow-triggerer",
        "prometheus",
    }
    for name in STAGING:
        assert everything[name]["networks"].keys() == {"staging"}, "a gateway would send clients there"
        assert "ports" not in everything[name]


@pytest.mark.parametrize("tritons", ["core", "gpu"])
def test_a_candidate_is_tried_in_a_staging_triton_that_starts_empty(env_file: Path, tritons: str) -> None:
    found = services(env_file, tritons)
    (name,) = {name for name in found if name in STAGING}
    url = Settings.from_env(found["airflow-worker"]["environment"]).triton.staging_grpc_url
    host, _, port = url.partition(":")
    assert names_on(found, "staging")[host] == [name]
    assert int(port) in LISTENS[name]
    assert found[name]["deploy"]["replicas"] == 1
    (serving, *_) = (found[other] for other in SERVING if other in found)
    assert set(serving["command"]) - set(found[name]["command"]) == {"--load-model=*"}
    assert set(found[name]["command"]) <= set(serving["command"])
    for key in ("image", "user", "volumes", "environment", "shm_size"):
        assert found[name].get(key) == serving.get(key), key
    resources = [service["deploy"]["resources"] for service in (found[name], serving)]
    assert resources[0] == resources[1], "what fits there has to fit here, and the reverse"


def test_one_can_do_without_a_staging_triton(env_file: Path, tmp_path: Path) -> None:
    without = tmp_path / "without"
    text = re.sub("^STAGING_TRITONS=.*$", "STAGING_TRITONS=0", env_file.read_text(), flags=re.MULTILINE)
    without.write_text(re.sub("^STAGING_GRPC_URL=.*$", "STAGING_GRPC_URL=", text, flags=re.MULTILINE))
    found = services(without, "core")
    assert found["triton-staging"]["deploy"]["replicas"] == 0
    assert Settings.from_env(found["airflow-worker"]["environment"]).triton.staging_grpc_url == ""
    # An .env of before there was one gets it.
    older = tmp_path / "older"
    older.write_text(re.sub("^STAGING_.*\n", "", env_file.read_text(), flags=re.MULTILINE))
    assert services(older, "core")["triton-staging"]["deploy"]["replicas"] == 1
    assert Settings.from_env(services(older, "core")["airflow-worker"]["environment"]).triton.staging_grpc_url


@pytest.mark.parametrize("tritons", ["core", "gpu"])
def test_by_default_clients_reach_the_tritons_through_the_gateways_alone(
    env_file: Path, tritons: str
) -> None:
    profiles = [tritons if profile == "core" else profile for profile in DEFAULT_PROFILES]
    found = services(env_file, *profiles)
    networks = yaml.safe_load(compose(env_file, *profiles))["networks"]
    open_to_clients = {name for name, network in networks.items() if not network.get("internal")}
    assert open_to_clients == {"front"}
    servers = {name for name in found if name.startswith("triton-")}
    assert len(servers) == 3
    for name in servers:
        assert found[name]["networks"].keys() == {"staging" if name in STAGING else "serving"}, name
        assert "ports" not in found[name], name
    # A service in both networks could pass a client's request on to a Triton.
    tritons_are_in = {"serving", "staging"}
    between = {
        name
        for name, service in found.items()
        if "front" in (attached := service.get("networks", {}).keys()) and tritons_are_in & attached
    }
    assert between == {
        *("gateway-1", "gateway-2"),
        # The asserts below: the worker publishes no port, and the two others know no inference port.
        *("airflow-worker", "prometheus", "alertmanager"),
    }
    assert "ports" not in found["airflow-worker"]
    for name in ("prometheus", "alertmanager"):
        mounted = [Path(v["source"]) for v in found[name]["volumes"] if v["type"] == "bind"]
        files = [file for folder in mounted for file in folder.rglob("*") if file.is_file()]
        texts = [file.read_text() for file in files]
        assert texts
        assert not re.search(r"triton[\w-]*:800[01]\b", " ".join([str(found[name]), *texts])), name


# Health, and who waits for whom


def test_every_service_that_goes_on_has_a_health_check(everything: Mapping[str, dict[str, Any]]) -> None:
    for name, service in runs_on(everything).items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"]), name


def test_the_api_server_has_a_connection_for_each_request_and_leaves_some(
    everything: Mapping[str, dict[str, Any]],
) -> None:
    """Starved of connections it waits for itself: docs/airflow.md."""
    overflow = int(
        everything["airflow-api-server"]["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW"]
    )
    options = dict(option.split("=") for option in everything["postgres"]["command"] if "=" in option)
    allowed = int(options["max_connections"])
    threads = 40
    assert threads < 5 + overflow < allowed / 2


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_onnx_runtime_tells_nobody_of_its_use(dockerfile: Path) -> None:
    packages = locked(ROOT / f"requirements/{dockerfile.name.removeprefix('Dockerfile.')}.txt")
    assert ("onnxruntime" in packages) == ("ORT_DISABLE_TELEMETRY=1" in dockerfile.read_text())


def test_the_command_of_every_health_check_is_in_its_image(everything: Mapping[str, dict[str, Any]]) -> None:
    """In this project's images by their requirements, in others by what their makers document: deploy/versions.toml."""
    known = {image(name): entry["commands"] for name, entry in matrix()["images"].items()}
    for name, service in everything.items():
        called = [service["healthcheck"]["test"][1].split()[0]] if "healthcheck" in service else []
        if "build" in service:
            dockerfile = service["build"]["dockerfile"]
            own = [*called, *(service.get("command") or [])[:1]]
            packages = locked(ROOT / f"requirements/{dockerfile.removeprefix('Dockerfile.')}.txt")
            copied = re.findall(r"/usr/local/bin/(\S+)", (ROOT / dockerfile).read_text())
            for command in own:
                assert (
                    command in (*copied, "sh")
                    or OWN_COMMANDS[command] in packages
                    or OWN_COMMANDS[command] is None
                ), f"{name}: {command}"
        else:
            entry = service.get("entrypoint") or []
            given = (service.get("command") or [])[:1] if not entry else entry[:1]
            commands = known[service["image"]]
            assert set(called) <= set(commands), name
            # `server` is MinIO's own word, behind its entrypoint, as options are.
            assert set(given) <= {*commands, "server"} or given[0].startswith("--"), name


def test_one_waits_for_what_can_become_so(everything: Mapping[str, dict[str, Any]]) -> None:
    going_on = runs_on(everything)
    waits = 0
    for name, service in everything.items():
        for other, how in service.get("depends_on", {}).items():
            expected = "service_healthy" if other in going_on else "service_completed_successfully"
            assert how["condition"] == expected, f"{name}: {other}"
            waits += 1
    assert waits > 20
    assert {"airflow-migrate", "redis", "postgres", "mlflow"} <= reached(everything, "airflow-worker")


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/good" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep still."""


@pytest.fixture
def answering() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("path", "healthy"), [("/good", True), ("/bad", False), (":1/gone", False)])
def test_the_health_check_of_the_images(answering: str, path: str, healthy: bool) -> None:
    program = [sys.executable, str(ROOT / "deploy/compose/healthy.py")]
    # A proxy that is not there: it must not be asked.
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    url = answering + path if path.startswith("/") else f"http://127.0.0.1{path}"
    done = subprocess.run([*program, url], check=False, env=environment, capture_output=True)
    assert (done.returncode == 0) is healthy


def test_the_api_server_gets_its_passwords(tmp_path: Path) -> None:
    (tmp_path / "airflow").write_text('#!/bin/sh\necho airflow "$@" "$AIRFLOW_ADMIN_PASSWORD"\n')
    (tmp_path / "airflow").chmod(0o755)
    target = tmp_path / "passwords.json"
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(target),
    }
    program = [sys.executable, str(ROOT / "deploy/compose/api_server.py"), "--port", "8080"]
    refused = subprocess.run(program, check=False, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "Not set: AIRFLOW_ADMIN_PASSWORD, AIRFLOW_EVENTS_PASSWORD" in refused.stderr
    environment |= {"AIRFLOW_ADMIN_PASSWORD": 'with "quotes"', "AIRFLOW_EVENTS_PASSWORD": "e"}
    done = subprocess.run(program, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["airflow", "api-server", "--port", "8080"]
    assert json.loads(target.read_text()) == {"admin": 'with "quotes"', "events": "e"}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_every_user_of_airflow_has_a_password(everything: Mapping[str, dict[str, Any]]) -> None:
    environment = everything["airflow-api-server"]["environment"]
    listed = environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"].split(",")
    users = re.search(
        r"^USERS = (\{.*\})$", (ROOT / "deploy/compose/api_server.py").read_text(), re.MULTILINE
    )
    assert users is not None
    passwords = json.loads(users.group(1))
    assert {user.partition(":")[0] for user in listed} == set(passwords)
    assert set(passwords.values()) <= set(environment)
    events = everything["events"]["environment"]
    assert events["TRITON_EVENTS_AIRFLOW_PASSWORD"] == environment[passwords["events"]]


# Settings, names and ports


def test_the_deployer_and_the_gateway_can_be_started_with_what_they_are_told(
    everything: Mapping[str, dict[str, Any]],
) -> None:
    deployer = Settings.from_env(everything["airflow-worker"]["environment"])
    assert deployer.triton.grpc_urls == ("dns:///triton:8001",)
    for name in ("gateway-1", "gateway-2"):
        gateway = GatewaySettings.from_env(everything[name]["environment"])
        assert gateway.port == GatewaySettings.port
        assert gateway.repository == deployer.repository
        assert len(gateway.triton_urls) == 2
    assert everything["triton-1"]["volumes"][0]["target"] == str(deployer.repository)
    events = EventSettings.from_env(everything["events"]["environment"])
    assert events.port == EventSettings.port
    assert events.secrets
    for service in everything.values():
        assert unknown(service.get("environment", {}), [Settings, GatewaySettings, EventSettings]) == []
    # Only what the keys of S3 open, and no more than MLflow's bucket.
    assert deployer.transfer.artifact_roots == ("s3://mlflow",)


def all_settings() -> list[type[FromEnvironment]]:
    for module in pkgutil.walk_packages(ml_code.__path__, "ml_code."):
        if module.name.endswith((".settings", ".rules")):
            importlib.import_module(module.name)
    return [kind for kind in FromEnvironment.__subclasses__() if kind.__module__.startswith("ml_code.")]


@pytest.mark.parametrize("settings", all_settings(), ids=lambda kind: kind.__name__)
def test_every_setting_is_set_or_documented(
    everything: Mapping[str, dict[str, Any]], settings: type[FromEnvironment]
) -> None:
    """What is documented can be set in settings.env, which every service gets that reads settings."""
    told = {variable for service in everything.values() for variable in service.get("environment", {})}
    texts = [path.read_text() for path in ROOT.glob("docs/**/*.md")]
    documented = {name for text in texts for name in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)}
    variables = {f.metadata["variable"] for f in settings.declared()}
    assert variables
    assert variables <= told | documented


def test_settings_env_reaches_whoever_reads_settings(env_file: Path) -> None:
    text = compose(env_file, *PROFILES, arguments=("--no-env-resolution", "--format", "json"))
    for name, service in json.loads(text)["services"].items():
        reads = name.startswith(("airflow-", "gateway-")) or name == "events"
        files = [Path(entry["path"]).name for entry in service.get("env_file", [])]
        assert files == (["settings.env"] if reads else []), name
    assert "settings.env" in (ROOT / "docs/operations.md").read_text()


def test_every_address_leads_to_something_that_listens_there(
    everything: Mapping[str, dict[str, Any]],
) -> None:
    seen = 0
    for name, service in everything.items():
        environment = service.get("environment", {})
        if name.startswith("airflow-") and name != "airflow-worker":
            # They parse the DAGs and run no task; the triggerer watches bakes, canaries and aliases.
            calls = ("AIRFLOW", "TRITON_", "MLFLOW_TRACKING") if name == "airflow-triggerer" else ("AIRFLOW",)
            environment = {k: v for k, v in environment.items() if k.startswith(calls)}
        texts = [*environment.values(), *(service.get("command") or [])]
        for host, port in re.findall(r"(?<![\w.-])([a-z][a-z0-9-]+):(\d{4})\b", "\n".join(map(str, texts))):
            if host == "localhost":
                continue
            resolved = {
                other
                for network in service["networks"]
                for other in names_on(everything, network).get(host, [])
            }
            assert resolved, f"{name} can't resolve {host}"
            for other in resolved:
                assert int(port) in LISTENS[other], f"{name}: {host}:{port}"
            seen += 1
    assert seen > 15


def test_prometheus_scrapes_what_is_there(everything: Mapping[str, dict[str, Any]]) -> None:
    folder = ROOT / "deploy/compose/prometheus-targets"
    given = {file.name for file in (ROOT / "deploy/prometheus/targets").iterdir()}
    assert {file.name for file in folder.iterdir()} == given, "every list is replaced by this platform's"
    resolvable = {
        name: found
        for network in everything["prometheus"]["networks"]
        for name, found in names_on(everything, network).items()
    }
    for file in folder.iterdir():
        for group in yaml.safe_load(file.read_text()):
            for host, _, port in (target.partition(":") for target in group["targets"]):
                for other in resolvable[host]:
                    assert int(port) in LISTENS[other], f"{file.name}: {host}:{port}"
    folder = ROOT / "deploy/grafana/provisioning"
    datasource = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"][0]
    assert datasource["url"] == "${PROMETHEUS_URL}"
    assert everything["grafana"]["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    provider = yaml.safe_load((folder / "dashboards/models.yml").read_text())["providers"][0]
    assert provider["options"]["path"] in [v["target"] for v in everything["grafana"]["volumes"]]
    assert "prometheus" in names_on(everything, "front")


def test_what_is_mounted_from_the_checkout_is_there(everything: Mapping[str, dict[str, Any]]) -> None:
    mounted = [
        (name, volume)
        for name, service in everything.items()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert len(mounted) > 6
    for name, volume in mounted:
        # Docker would make a folder of root's in its place.
        assert Path(volume["source"]).exists(), f"{name}: {volume['source']}"
        assert volume["read_only"], name
    settings = [name for name, service in everything.items() if "prometheus.yml" in str(service)]
    assert settings == ["prometheus"]
    assert (ROOT / "deploy/prometheus/prometheus.yml").exists()


def test_what_listens_says_so(everything: Mapping[str, dict[str, Any]]) -> None:
    for name, listening in LISTENS.items():
        service = everything[name]
        text = " ".join([*(service.get("command") or []), *service["healthcheck"]["test"]])
        for port in {p["target"] for p in service.get("ports", [])}:
            assert port in listening, name
        found = {
            int(port) for port in re.findall(r"(?:127\.0\.0\.1:|--port |listen |address :)(\d{4})\b", text)
        }
        assert found <= listening | {8000, 8010, 8100}, name


def test_published_ports_are_the_defaults_of_the_programs(everything: Mapping[str, dict[str, Any]]) -> None:
    from stack.ports import DEFAULT_PORTS

    published = {
        name: [int(port["published"]) for port in service["ports"]]
        for name, service in everything.items()
        if "ports" in service
    }
    assert published["airflow-api-server"] == [DEFAULT_PORTS["airflow"]]
    assert published["mlflow"] == [DEFAULT_PORTS["mlflow"]]
    assert published["gateway-1"] == [GatewaySettings.port]
    assert published["prometheus"] == [9090]


def test_triton_is_started_as_in_the_chart(everything: Mapping[str, dict[str, Any]]) -> None:
    chart = (ROOT / "deploy/helm/model-serving/templates/triton.yaml").read_text()
    flags = set(re.findall(r"- (--[\w-]+)=", chart))
    for name in SERVING:
        command = everything[name]["command"]
        assert {part.partition("=")[0] for part in command[1:]} == flags
        for part in command[1:]:
            if "restricted" in part:
                assert re.search(rf"{part.partition(':')[0]}:locked=", chart)
            elif "repository" not in part:
                assert f"- {part}" in chart or "exit-timeout" in part
    # What is called triton-1 is there with either profile, and once.
    for profile in ("core", "gpu"):
        found = {name: s for name, s in everything.items() if profile in s["profiles"]}
        assert len(names_on(found, "serving")["triton"]) == 2
        for alias in ("triton-1", "triton-2"):
            assert len(names_on(found, "serving")[alias]) == 1


def test_nginx_is_given_the_names_of_the_services(
    everything: Mapping[str, dict[str, Any]], tmp_path: Path
) -> None:
    script = everything["nginx"]["command"][-1].replace("$$", "$")
    rewrite = script.partition("exec ")[0]
    given = ROOT / "deploy/nginx/nginx.conf"
    # In this order: the checkout may lie below /tmp.
    rewrite = rewrite.replace("/tmp", str(tmp_path)).replace("/etc/nginx/given.conf", str(given))
    subprocess.run(["sh", "-euc", rewrite], check=True)
    text = (tmp_path / "nginx.conf").read_text()
    assert "127.0.0.1" not in text
    assert re.findall(r"server (\S+:\d+) ", text) == [
        *("triton-1:8000", "triton-2:8000"),
        *("gateway-1:8100", "gateway-2:8100"),
    ]
    assert "listen 8080 " in text


# Development


def test_a_checkout_takes_the_place_of_the_image(env_file: Path) -> None:
    found = services(env_file, "core", files="dev")
    for name, service in found.items():
        if name.startswith("airflow-") and name != "airflow-migrate":
            mounts = {v["target"]: v for v in service["volumes"]}
            assert mounts["/opt/dags"]["source"] == str(ROOT / "dags")
            assert mounts["/checkout/ml_code"]["source"] == str(ROOT / "ml_code")
            assert mounts["/opt/dags"]["read_only"]
            assert service["environment"]["PYTHONPATH"] == "/checkout"
            assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" in service["environment"]
    assert "AIRFLOW__CORE__DAGS_FOLDER=/opt/dags" in (ROOT / "Dockerfile.airflow").read_text()
