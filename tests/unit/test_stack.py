import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor.options import ServerOptions

from ml_code.triton_deploy.settings import Settings
from stack import Stack, StackError, debian_packages, demo, launch, readiness, services
from stack.__main__ import services_here, write_env_file
from stack.claim import Claim
from stack.distributed import Distributed
from stack.ports import DEFAULT_PORTS, check_free, configured_ports, free_ports
from stack.servers import REPO
from stack.services.tritons import STAGING
from stack.site import Service
from stack.startup import await_all, bring_up, until_ready
from stack.supervision import ProcessState, Program, Supervisor, render_config

# ports


def test_ports_come_from_the_environment_or_the_default() -> None:
    ports = configured_ports({"STACK_TRITON_GRPC_PORT": "9001", "STACK_MLFLOW_PORT": ""})

    assert ports == {**DEFAULT_PORTS, "triton-grpc": 9001}


@pytest.mark.parametrize("text", ["0", "65536", "-1", "80a", " 80", "٣", "8e3"])
def test_a_port_that_is_no_port_is_refused_by_the_name_of_its_setting(text: str) -> None:
    with pytest.raises(StackError, match="STACK_S3_PORT"):
        configured_ports({"STACK_S3_PORT": text})


def test_two_services_cannot_share_a_port() -> None:
    with pytest.raises(StackError, match="STACK_MLFLOW_PORT and STACK_TRITON_PORT"):
        configured_ports({"STACK_MLFLOW_PORT": "8000"})


def test_free_ports_are_all_different() -> None:
    ports = free_ports()

    assert set(ports) == set(DEFAULT_PORTS)
    assert len(set(ports.values())) == len(ports)
    check_free(ports, ports)


# what may be started


def test_unknown_services_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="unknown services: minio"):
        Stack(tmp_path, ["s3", "minio"])


def test_mlflow_is_refused_without_s3(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="mlflow keeps its artifacts on s3"):
        Stack(tmp_path, ["mlflow"])


def test_a_client_gets_only_what_the_services_it_uses_need(tmp_path: Path) -> None:
    environment = Stack(tmp_path, ["triton"], environment={"MINE": "1"}).environment

    assert environment["MINE"] == "1"
    assert environment["TRITON_DEPLOY_REPOSITORY"] == str(tmp_path / "model-repo")
    assert not [name for name in environment if name.startswith(("AWS", "AIRFLOW", "MLFLOW"))]
    assert "TRITON_DEPLOY_STAGING_GRPC_URL" not in environment


def test_a_deployer_is_told_of_the_staging_triton_by_default(tmp_path: Path) -> None:
    stack = Stack(tmp_path)

    settings = Settings.from_env(
        {name: value for name, value in stack.environment.items() if name.startswith("TRITON_DEPLOY")}
    )
    assert settings.triton.staging_grpc_url == stack.url("triton-staging-grpc")
    assert settings.triton.staging_grpc_url not in settings.triton.grpc_urls
    assert STAGING in services_here()


def test_secrets_outlive_the_stack_and_differ_between_stacks(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    secrets = [Stack(tmp_path / name).environment["AWS_SECRET_ACCESS_KEY"] for name in ("a", "a", "b")]

    assert secrets[0] == secrets[1] != secrets[2]


# the staging Triton


def test_a_staging_triton_is_like_the_serving_one_but_begins_empty(tmp_path: Path) -> None:
    stack = Stack(tmp_path, ["triton", STAGING])
    built = services.build(stack._site, ["triton", STAGING])
    (serving,), (staging,) = (built[name].programs for name in ("triton", STAGING))

    def flags(program: Program) -> dict[str, str]:
        return dict(part.removeprefix("--").partition("=")[::2] for part in program.argv[1:])

    mine, its = flags(serving), flags(staging)
    assert mine.keys() - its.keys() == {"load-model"}
    assert its.keys() <= mine.keys()
    own = {key for key in its if its[key] != mine[key]}
    assert own == {"backend-directory", "http-port", "grpc-port", "metrics-port"}
    assert (its["exit-on-error"], its["strict-readiness"], its["model-control-mode"]) == (
        "false",
        "false",
        "explicit",
    )
    assert serving.env == staging.env
    assert not set(built["triton"].ports) & set(built[STAGING].ports)
    # Each makes its folder anew at its start: one that both had would be taken from under the other.
    for program in (mine, its):
        assert {path.name for path in Path(program["backend-directory"]).iterdir()} == {
            "python",
            "onnxruntime",
        }


def test_prometheus_scrapes_the_staging_triton_where_the_stack_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.prometheus, "installed", lambda: "prometheus")
    for name, others in (("without", []), ("with", [STAGING])):
        (tmp_path / name).mkdir()
        stack = Stack(tmp_path / name, ["triton", *others, "gateway", "prometheus"])
        services.build(stack._site, ["triton", *others, "gateway", "prometheus"])
        folder = tmp_path / name / "prometheus/targets"
        [scraped] = json.loads((folder / f"{STAGING}.yml").read_text())
        expected = stack.url(f"{STAGING}-metrics").removeprefix("http://")
        assert scraped["targets"] == ([expected] if others else [])
        [serving] = json.loads((folder / "triton.yml").read_text())
        assert expected not in serving["targets"]


@pytest.mark.parametrize(
    ("staging", "said"),
    [
        (
            {"result": "passed"},
            "version 3 was tried in the staging Triton first: it loaded there and answered",
        ),
        ({"result": "stuck"}, "version 3 was tried in the staging Triton first: stuck"),
        ({}, ""),
    ],
)
def test_the_demo_says_what_the_staging_triton_said(
    capsys: pytest.CaptureFixture[str], staging: dict[str, str], said: str
) -> None:
    demo._tell_staging(SimpleNamespace(version=3, staging=staging))

    assert capsys.readouterr().out.strip() == said


# files


def test_supervisord_reads_the_configuration_as_it_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/a path/100 %s/python")
    state_dir = tmp_path / "100 %(here)s ; of it"
    (state_dir / "logs").mkdir(parents=True)
    (state_dir / "run").mkdir()
    monkeypatch.chdir(state_dir / "run")
    programs = [
        Program("server", [], {}, stop_wait_s=7),
        Program("job", [], {}, one_shot=True),
        Program("database", [], {}, keeps_state=True),
    ]
    Path("supervisord.conf").write_text(render_config(programs))

    options = ServerOptions()
    options.realize(["-c", "supervisord.conf"])
    # The highest priority stops first, and the next when all of it have ended.
    state, group = sorted(options.process_group_configs, key=attrgetter("priority"))
    assert [process.name for process in state.process_configs] == ["database"]
    job, server = sorted(group.process_configs, key=attrgetter("name"))

    assert shlex.split(server.command) == launch.command("run", Path("server.json"))
    assert server.stdout_logfile == "../logs/server.log"
    assert (server.stopwaitsecs, server.stopasgroup, server.killasgroup) == (7, True, True)
    assert not server.autostart
    assert server.autorestart
    assert not job.autorestart


def test_the_environment_file_says_the_same_to_a_shell(tmp_path: Path) -> None:
    environment = {"QUOTES": """it's "so" $HOME `id`""", "LINES": "a\nb", "EMPTY": ""}
    path = write_env_file(tmp_path, environment)

    read = subprocess.run(
        ["bash", "-c", f'source \'{path}\'; printf \'%s|\' "$QUOTES" "$LINES" "$EMPTY"'],
        capture_output=True,
        text=True,
        check=True,
    )

    assert read.stdout == "".join(f"{value}|" for value in environment.values())
    assert path.stat().st_mode & 0o077 == 0


def test_a_state_directory_is_claimed_once_and_the_second_is_told_by_whom(tmp_path: Path) -> None:
    first, second = Claim(tmp_path), Claim(tmp_path)
    first.take()
    first.take()

    with pytest.raises(StackError, match=rf"a stack is running in {tmp_path} \(pid {os.getpid()}\)"):
        second.take()
    (tmp_path / "run/lock").write_text("4194305\n")  # above the highest that Linux has
    with pytest.raises(StackError, match="still being stopped"):
        second.take()
    first.give_back()
    second.take()


def test_what_an_earlier_stack_left_is_deleted_but_not_the_claim_on_it(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    with pytest.raises(AssertionError):
        claim.clear()
    claim.take()
    for left in ("s3/object", "run/p.json", "env"):
        (tmp_path / left).parent.mkdir(exist_ok=True)
        (tmp_path / left).touch()
    elsewhere = tmp_path.with_name("elsewhere")
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)

    claim.clear()

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["run", "run/lock"]
    assert elsewhere.exists()
    with pytest.raises(StackError, match="a stack is running"):
        Claim(tmp_path).take()


@pytest.mark.parametrize("where", ["state", "repository", "checkout"])
def test_a_path_that_triton_does_not_quote_is_refused_before_anything_is_made(
    tmp_path: Path, where: str
) -> None:
    odd = tmp_path / "a b"
    options: dict[str, Any] = {"repository": {"model_repository": odd}, "checkout": {"repo": odd}}.get(
        where, {}
    )
    stack = Stack(odd if where == "state" else tmp_path, ["triton"], **options)
    with pytest.raises(StackError, match="a b' has a space in it: Triton can't start models there"):
        stack.start()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "refused"), [("a b", "a b"), ("a$b", r"a\$b"), ("plain", ""), ("jürgen", "")]
)
def test_make_refuses_a_checkout_that_triton_could_not_serve(
    tmp_path: Path, folder: str, refused: str
) -> None:
    checkout = tmp_path / folder
    checkout.mkdir()
    shutil.copy(REPO / "Makefile", checkout)
    done = subprocess.run(["make", "help"], cwd=checkout, check=False, capture_output=True, text=True)
    if refused:
        assert done.returncode == 2
        assert re.search(rf"This checkout is in '.*/{refused}': Triton can't start models", done.stderr)
    else:
        assert done.returncode == 0
    assert [path.name for path in checkout.iterdir()] == ["Makefile"]


def test_make_clean_removes_nothing_of_a_stack_that_runs(tmp_path: Path) -> None:
    shutil.copy(REPO / "Makefile", tmp_path)
    for state in (".stack", ".stack/demo", ".stack/distributed/center"):
        claim = Claim(tmp_path / state)
        claim.take()
        done = subprocess.run(["make", "clean"], cwd=tmp_path, check=False, capture_output=True, text=True)
        assert f"a stack is running here (pid {os.getpid()})" in done.stderr
        assert (tmp_path / state).exists()
        claim.give_back()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert not (tmp_path / ".stack").exists()


# Ctrl-C


INTERRUPTED = """
import os, signal, sys
import stack.__main__ as command

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), {signal})
        sum(range(10**6))  # here it is raised, and dropped

def up(state_dir):
    {when}
    import time
    time.sleep(60)

command.up = up
{before}
sys.exit(command.main(["up"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("before", "when"),
    [
        pytest.param("", "os.kill(os.getpid(), {signal})", id="at work"),
        pytest.param("", "Dropped()", id="in a finalizer"),
        pytest.param(
            "signal.pthread_sigmask(signal.SIG_BLOCK, [{signal}]); os.kill(os.getpid(), {signal})",
            "pass",
            id="while python starts",
        ),
    ],
)
def test_ctrl_c_ends_a_command_without_a_traceback(number: signal.Signals, before: str, when: str) -> None:
    script = INTERRUPTED.format(
        signal=int(number), before=before.format(signal=int(number)), when=when.format(signal=int(number))
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "stopped\n", "")


def test_a_state_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="too long for a Unix socket"):
        Supervisor(tmp_path / ("x" * 100), []).start()


# start-up


class ScriptedSupervisor(Supervisor):
    """Answers `states` from a list, the last one for ever."""

    def __init__(self, log_dir: Path, *history: dict[str, ProcessState]) -> None:
        super().__init__(log_dir, [])
        self._history = list(history)
        self.started: list[str] = []

    def states(self) -> dict[str, ProcessState]:
        return self._history.pop(0) if len(self._history) > 1 else self._history[0]

    def start_process(self, name: str) -> None:
        self.started.append(name)


def running(pid: int = 1) -> dict[str, ProcessState]:
    return {"p": ProcessState("RUNNING", pid, 0), "job": ProcessState("EXITED", 0, 0)}


def service(*answers: str | None, first: bool = False) -> Service:
    """Its probe gives the answers in turn, the last one for ever."""
    left = list(answers)
    return Service(
        programs=[Program("p", [], {})],
        probe=lambda: left.pop(0) if len(left) > 1 else left[0],
        ports=[],
        first=Program("job", [], {}, one_shot=True) if first else None,
    )


def finish(steps: Iterator[str], supervisor: Supervisor, it: Service, limit_s: float = 5) -> None:
    await_all(supervisor, {"it": it}, {"it": steps}, limit_s)


def test_a_service_is_awaited_until_its_probe_says_nothing_is_missing(tmp_path: Path) -> None:
    supervisor, it = ScriptedSupervisor(tmp_path, running()), service("no answer", "warming", None)

    assert list(bring_up(supervisor, it)) == ["no answer", "warming"]
    assert supervisor.started == ["p"]


def test_what_it_needs_is_ready_before_it_starts(tmp_path: Path) -> None:
    supervisor, it = ScriptedSupervisor(tmp_path, running()), service(None)

    steps = bring_up(supervisor, it, [service("no database", None)])

    assert next(steps) == "no database"
    assert supervisor.started == []
    assert list(steps) == []
    assert supervisor.started == ["p"]


def test_a_program_that_is_held_starts_when_what_it_needs_is_there(tmp_path: Path) -> None:
    left = ["the API does not answer", None]
    it = Service(
        programs=[Program("p", [], {}), Program("q", [], {})],
        probe=lambda: None,
        ports=[],
        held={"q": lambda: left.pop(0)},
    )
    both = {name: ProcessState("RUNNING", number, 0) for number, name in enumerate("pq", 1)}
    supervisor = ScriptedSupervisor(tmp_path, both)

    steps = bring_up(supervisor, it)

    assert next(steps) == "the API does not answer"
    assert supervisor.started == ["p"]
    assert list(steps) == []
    assert supervisor.started == ["p", "q"]


def test_a_scheduler_is_held_until_tasks_can_report(tmp_path: Path) -> None:
    it = services.build(Stack(tmp_path)._site, ["airflow"])["airflow"]

    assert [program.name for program in it.programs][-1] == "airflow-scheduler"
    assert it.held["airflow-scheduler"]() == "refuses connections"


def test_what_has_to_come_first_is_waited_for(tmp_path: Path) -> None:
    busy = {**running(), "job": ProcessState("RUNNING", 7, 0)}
    supervisor, it = ScriptedSupervisor(tmp_path, busy, running()), service(None, first=True)

    steps = bring_up(supervisor, it)

    assert next(steps) == "job has not finished"
    assert supervisor.started == ["job"]
    assert list(steps) == []
    assert supervisor.started == ["job", "p"]


def test_a_first_process_that_fails_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/job.log").write_text("one\ntwo\n")
    failed = {**running(), "job": ProcessState("EXITED", 0, 3)}
    supervisor, it = ScriptedSupervisor(tmp_path, failed), service(None, first=True)

    with pytest.raises(StackError, match=r"job failed with status 3\n--- .*job\.log\none\ntwo"):
        finish(bring_up(supervisor, it), supervisor, it)
    assert supervisor.started == ["job"]


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(ProcessState("EXITED", 0, 1), id="ended"),
        pytest.param(ProcessState("BACKOFF", 0, 1), id="about to be started again"),
        pytest.param(ProcessState("RUNNING", 2, 0), id="already started again"),
    ],
)
def test_a_process_that_dies_at_the_start_is_an_error_at_once(tmp_path: Path, later: ProcessState) -> None:
    supervisor = ScriptedSupervisor(tmp_path, running(1), {**running(), "p": later})
    it = service("refuses connections")

    with pytest.raises(StackError, match="p ended"):
        finish(bring_up(supervisor, it), supervisor, it)


def test_a_later_wait_survives_a_restart_but_not_giving_up(tmp_path: Path) -> None:
    gone = {"p": ProcessState("BACKOFF", 0, 1)}
    supervisor, it = ScriptedSupervisor(tmp_path, running(1), gone, running(2)), service("x", None)
    finish(until_ready(supervisor, it, restarts=True), supervisor, it)

    supervisor = ScriptedSupervisor(tmp_path, {"p": ProcessState("FATAL", 0, 1)})
    with pytest.raises(StackError, match="p ended with status 1"):
        finish(until_ready(supervisor, it, restarts=True), supervisor, it)


def test_an_answer_from_a_process_that_does_not_run_does_not_count(tmp_path: Path) -> None:
    gone = {"p": ProcessState("STOPPED", 0, 0)}
    supervisor, it = ScriptedSupervisor(tmp_path, gone), service(None)

    assert next(until_ready(supervisor, it, restarts=True)) == "p not running"


def test_a_deadline_names_what_is_missing(tmp_path: Path) -> None:
    supervisor, it = ScriptedSupervisor(tmp_path, running()), service("scheduler is unhealthy")

    with pytest.raises(StackError, match=r"it is not ready after 0 s: scheduler is unhealthy\n---"):
        finish(bring_up(supervisor, it), supervisor, it, limit_s=0)


# Airflow


def airflow(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Airflow's REST API, healthy and with the DAG `d`, but for `changes`."""
    healthy = {"status": "healthy"}
    answers = {
        "health": {"metadatabase": healthy, "scheduler": healthy, "dag_processor": healthy},
        "token": {"access_token": "t"},
        "importErrors": {"import_errors": []},
        "dags": {"dags": [{"dag_id": "d"}]},
    } | changes
    monkeypatch.setattr(readiness, "_request", lambda method, url, **options: answers[url.rpartition("/")[2]])


def ask() -> str | None:
    return readiness.airflow_runs("http://x", ("u", "p"), ["d"], datetime.now(UTC))


def test_airflow_is_ready_when_all_beat_and_the_dag_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow(monkeypatch)
    assert ask() is None


def test_airflow_without_a_heartbeat_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = {"status": "healthy"}
    health = {"metadatabase": healthy, "scheduler": {"status": None}, "dag_processor": healthy}
    airflow(monkeypatch, health=health)
    assert ask() == "scheduler is not heard of yet"


def test_airflow_without_the_dag_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow(monkeypatch, dags={"dags": [{"dag_id": "other"}]})
    assert ask() == "not parsed yet: d"


def test_a_dag_file_that_cannot_be_imported_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = {"filename": "d.py", "stack_trace": "NameError: x"}
    now = datetime.now(UTC)
    stale = {**error, "timestamp": (now - timedelta(hours=1)).isoformat()}
    airflow(monkeypatch, importErrors={"import_errors": [stale]})
    assert ask() is None

    fresh = {**error, "timestamp": (now + timedelta(seconds=1)).isoformat()}
    airflow(monkeypatch, importErrors={"import_errors": [fresh]})
    with pytest.raises(StackError, match=r"cannot import d\.py:\nNameError: x"):
        ask()


def test_no_setting_of_the_callers_airflow_reaches_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW__CORE__REMOTE_LOGGING", "True")
    site = Stack(tmp_path)._site
    program = services.build(site, ["airflow"])["airflow"].programs[0]

    assert program.env["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "AIRFLOW__CORE__REMOTE_LOGGING" not in program.env
    assert program.env["PATH"] == os.environ["PATH"]


def test_no_secret_is_an_argument(tmp_path: Path) -> None:
    """Every user of this machine sees the arguments of every process."""
    site = Stack(tmp_path)._site
    names = ("s3", "postgres", "mlflow", "airflow", "triggerer", "gateway", "events", "redis")
    env = services.client_environment(site, names)
    assert "postgresql://" in env["MLFLOW_BACKEND_STORE_URI"]
    makers = [services.KNOWN[name].service for name in names if name != "redis"]
    built = [program for make in makers for program in make(site, env).all]
    kept = [path.read_text() for path in (tmp_path / "secrets").iterdir()]
    assert len(kept) > 5
    for program in built:
        arguments = " ".join(program.argv)
        assert not [secret for secret in kept if secret[:16] in arguments], program.name
        assert "postgresql://" not in arguments, program.name


def test_with_redis_airflow_is_a_distributed_one(tmp_path: Path) -> None:
    site = Stack(tmp_path)._site
    alone = services.client_environment(site, ["mlflow", "airflow", "postgres"])
    assert alone["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "MLFLOW_BACKEND_STORE_URI" not in alone

    distributed = services.client_environment(site, ["mlflow", "airflow", "postgres", "redis"])
    assert distributed["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    for variable in ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "MLFLOW_BACKEND_STORE_URI"):
        assert f"@127.0.0.1:{site.ports['postgres']}/" in distributed[variable]
    assert f"@127.0.0.1:{site.ports['redis']}/" in distributed["AIRFLOW__CELERY__BROKER_URL"]


def test_what_another_postgresql_wrote_is_refused(tmp_path: Path) -> None:
    site = Stack(tmp_path)._site
    files = tmp_path / "postgres"
    files.mkdir()
    (files / "PG_VERSION").write_text("15\n")
    with pytest.raises(StackError, match=r"postgres is of PostgreSQL 15, this is 18: move that folder away"):
        services.build(site, ["postgres"])


def test_a_workers_host_has_a_folder_and_a_name_of_its_own(tmp_path: Path) -> None:
    """Whatever the variables say that it is given from where Airflow runs."""
    given = {
        "AIRFLOW_HOME": "/center",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": "/center/logs",
        "AIRFLOW__CELERY__BROKER_URL": "redis://center",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://center/execution/",
    }
    found = []
    for host in ("host-1", "host-2"):
        (tmp_path / host).mkdir()
        site = Stack(tmp_path / host, ["worker"], environment=given)._site
        (program,) = services.build(site, ["worker"])["worker"].programs
        assert program.env["AIRFLOW__CELERY__BROKER_URL"] == "redis://center"
        assert f"airflow@{host}" in program.argv
        found.append({key: program.env[key] for key in [*given][:2]} | {"name": program.env["STACK_HOST"]})
    assert all(value.startswith(str(tmp_path / "host-1")) for value in [*found[0].values()][:2])
    assert not set(found[0].values()) & set(found[1].values())


def test_the_hosts_are_told_of_every_triton(tmp_path: Path) -> None:
    (tmp_path / "center").mkdir()
    distributed = Distributed(tmp_path)
    urls = distributed.environment["TRITON_DEPLOY_GRPC_URLS"].split(",")
    assert len(set(urls)) == 2
    assert len(distributed.environment["GATEWAY_TRITON_URLS"].split(",")) == 2
    assert distributed.environment["TRITON_DEPLOY_REPOSITORY"] == str(tmp_path / "model-repo")
    staging = distributed.environment["TRITON_DEPLOY_STAGING_GRPC_URL"]
    assert staging == distributed.center.url("triton-staging-grpc")
    assert staging not in urls
    host = distributed._host(1)
    assert host.environment["TRITON_DEPLOY_STAGING_GRPC_URL"] == staging
    assert STAGING not in host._names


def test_programs_of_another_system_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = {"ID": "debian", "VERSION_ID": "13"}
    monkeypatch.setattr(debian_packages.platform, "freedesktop_os_release", lambda: release)
    with pytest.raises(StackError, match="redis-server: taken from Debian 12's packages"):
        debian_packages.unpacked(tmp_path / "cache", ["redis-server"])
