"""Runs the deploy DAG: by Airflow's command line with no Airflow running, and by the REST API of one that runs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import runpy
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import requests

from ml_code.triton_deploy.rules.names import deploy_id_for
from stack import Stack
from stack.servers import DEPLOY_DAG, REPO
from tests.support.waiting import await_value

READS_S = 5


def environment_without_airflow(stack: Stack, home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a CI job with `airflow dags test`: a database of its own, no scheduler, no API server."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "MLFLOW_", "AWS_", "TRITON_"))}
    servers = {k: v for k, v in stack.environment.items() if not k.startswith(("AIRFLOW", "STACK_AIRFLOW"))}
    return {
        **own,
        **servers,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        **more,
    }


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and its stdout and stderr."""

    code: int
    output: str


class AirflowCommand:
    """Airflow's command line, again and again.

    Every command runs in a process of its own, forked from one that has imported Airflow: 2 s instead of 10.

    Args:
        home: Airflow's home, which `airflow db migrate` has prepared.
        environment: the commands' environment.

    Attributes:
        log: output of the running command, or of the last one.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.log = home / "command.log"
        self._home = home
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=REPO,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process that forks."""
        self._pipe(self._server.stdin).close()
        self._server.wait()

    def __call__(self, *argv: str) -> Ended:
        """Run `airflow ARGV` and wait for its end."""
        request, answers = self._pipe(self._server.stdin), self._pipe(self._server.stdout)
        request.write(json.dumps({"argv": argv, "log": str(self.log)}) + "\n")
        request.flush()
        return Ended(int(answers.readline()), self.log.read_text(errors="replace"))

    def deploy(self, **conf: Any) -> tuple[Ended, Run]:
        """Run `airflow dags test` on the deploy DAG."""
        ended = self("dags", "test", DEPLOY_DAG, "-c", json.dumps(conf))
        return ended, self.last_run()

    def last_run(self) -> Run:
        """Return the newest run as Airflow's database has it."""
        with contextlib.closing(sqlite3.connect(self._home / "airflow.db")) as database:
            run_id, state = database.execute(
                "select run_id, state from dag_run order by id desc limit 1"
            ).fetchone()
            tasks = database.execute("select task_id, state from task_instance where run_id = ?", [run_id])
            return Run(run_id, state, dict(tasks.fetchall()))

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@dataclass(frozen=True)
class Run:
    """A DAG run: its id, its state, and the state of each task."""

    run_id: str
    state: str
    tasks: Mapping[str, str | None]

    @property
    def deploy_id(self) -> str:
        """Deployment that it makes, unless a param named another."""
        return deploy_id_for(self.run_id)


class AirflowServer:
    """The REST API of a running Airflow, asked as its UI does.

    Args:
        stack: a stack that runs Airflow.
        dag_id: the DAG whose runs it is about.
    """

    def __init__(self, stack: Stack, dag_id: str = DEPLOY_DAG) -> None:
        self._url = stack.url("airflow")
        self._dag = f"/api/v2/dags/{dag_id}"
        username, password = stack.airflow_login
        self._session = requests.Session()
        self._session.trust_env = False
        token = self._ask("POST", "/auth/token", json={"username": username, "password": password})
        self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def trigger(self, conf: Mapping[str, Any]) -> requests.Response:
        """Request a run; the answer is 200, or 400 with the fault of ``conf``."""
        return self._ask("POST", f"{self._dag}/dagRuns", json={"logical_date": None, "conf": conf})

    def deploy(self, **conf: Any) -> str:
        """Trigger a run and return its id."""
        answer = self.trigger(conf)
        assert answer.ok, answer.text
        return str(answer.json()["dag_run_id"])

    def runs_about(self, model: str | None = None) -> list[str]:
        """Return the ids of the DAG's runs, oldest first; of those whose params name a model, if one is given."""
        answer = self._ask("GET", f"{self._dag}/dagRuns", params={"order_by": "id", "limit": 1000})
        assert answer.ok, answer.text
        runs = answer.json()["dag_runs"]
        return [str(run["dag_run_id"]) for run in runs if model in (None, (run["conf"] or {}).get("model"))]

    def run(self, run_id: str) -> Run:
        """Return a run as it is now."""
        # The state first: when it says that the run has ended, the tasks have.
        state = self._get(run_id)["state"]
        tasks = self._get(run_id, "/taskInstances")["task_instances"]
        return Run(run_id, state, {task["task_id"]: task["state"] for task in tasks})

    def times(self, run_id: str) -> tuple[str, str]:
        """Return when a run started and ended, in ISO 8601."""
        run = self._get(run_id)
        return run["start_date"], run["end_date"]

    def ended(self, run_id: str, limit_s: float = 90, pause_s: float = 0.3) -> Run:
        """Wait for the end of a run; a longer pause between two looks leaves more of the machine to it."""
        ended = ("success", "failed")
        with contextlib.suppress(AssertionError):
            await_value(
                lambda: self.run(run_id).state in ended or None, f"the end of {run_id}", limit_s, pause_s
            )
        run = self.run(run_id)
        assert run.state in ended, f"not ended after {limit_s:g} s: {run}"
        return run

    def log(self, run_id: str, task_id: str, attempt: int = 1) -> str:
        """Return the log of a task, as a user reads it."""
        return json.dumps(self._get(run_id, f"/taskInstances/{task_id}/logs/{attempt}"))

    def result(self, run_id: str, task_id: str) -> Any:
        """Return the XComs of a task, as their page shows them."""
        return self._get(run_id, f"/taskInstances/{task_id}/xcomEntries/return_value")["value"]

    def question(self, run_id: str, task_id: str, limit_s: float = 90) -> Mapping[str, Any]:
        """Wait until a task asks a person, and return the content of its page."""

        def asked() -> Mapping[str, Any] | None:
            waits = self._get(run_id, f"/taskInstances/{task_id}")["state"] == "awaiting_input"
            return self._get(run_id, f"/taskInstances/{task_id}/-1/hitlDetails") if waits else None

        return await_value(asked, f"a question of {task_id}", limit_s, pause_s=1)

    def answer(self, run_id: str, task_id: str, option: str) -> None:
        """Answer what a task asks, as the button of its page does, after as long as a person takes to read it at least.

        Airflow 3.3 can't take an answer at once: a task that is queued again before the scheduler has heard
        that it paused is taken for one that died, its next try asks anew, and the answer is gone.
        """
        time.sleep(READS_S)
        self._change(f"/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails", chosen_options=[option])

    def mark(self, run_id: str, task_id: str, state: str) -> None:
        """Set a task's state, as the buttons of the UI do."""
        self._change(f"/dagRuns/{run_id}/taskInstances/{task_id}", new_state=state)

    def mark_run(self, run_id: str, state: str) -> None:
        """Set a run's state, as the buttons of the UI do."""
        self._change(f"/dagRuns/{run_id}", state=state)

    def clear(self, run_id: str, task_id: str | None = None, *, only_failed: bool = False) -> None:
        """Clear a task with what follows it, or all of a run, as the buttons of the UI do."""
        chosen = {"task_ids": [task_id]} if task_id else {}
        body = {
            "dag_run_id": run_id,
            "dry_run": False,
            "only_failed": only_failed,
            "include_downstream": True,
        }
        answer = self._ask("POST", f"{self._dag}/clearTaskInstances", json=body | chosen)
        assert answer.ok, answer.text

    def pause(self, paused: bool = True) -> None:
        """Pause the DAG, or go on with it."""
        self._change("", is_paused=paused)

    def process(self, run_id: str, task_id: str) -> psutil.Process:
        """Wait until a task runs and return its process; the parent is Airflow's supervisor of the task."""

        def running() -> psutil.Process | None:
            task = self._get(run_id, f"/taskInstances/{task_id}")
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(task["pid"]) if task["state"] == "running" and task["pid"] else None
            return None

        return await_value(running, f"a process of {task_id}", limit_s=60)

    def was_run(self, run_id: str, task_id: str) -> bool:
        """Whether a process ever ran a task; a state alone may have been set by hand."""
        return self._get(run_id, f"/taskInstances/{task_id}")["pid"] is not None

    def hosts(self, run_id: str) -> dict[str, str]:
        """Return the host that ran each task, of those that were run."""
        tasks = self._get(run_id, "/taskInstances")["task_instances"]
        return {task["task_id"]: task["hostname"] for task in tasks if task["hostname"]}

    def tries(self, run_id: str, task_id: str) -> int:
        """Return how often a task was begun."""
        return int(self._get(run_id, f"/taskInstances/{task_id}")["try_number"])

    def _change(self, path: str, **body: Any) -> None:
        answer = self._ask("PATCH", f"{self._dag}{path}", json=body)
        assert answer.ok, answer.text

    def _get(self, run_id: str, rest: str = "") -> Any:
        answer = self._ask("GET", f"{self._dag}/dagRuns/{run_id}{rest}")
        assert answer.ok, answer.text
        return answer.json()

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._session.request(method, f"{self._url}{path}", timeout=120, **options)


def _serve() -> None:
    """Fork a command for each line of stdin, and answer with its exit code."""
    # Airflow logs to stdout while it is imported.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # The imports that take the first ten seconds of `dags test` and `tasks test`.
    importlib.import_module("airflow.cli.commands.dag_command")
    importlib.import_module("airflow.cli.commands.task_command")
    api = importlib.import_module("airflow.sdk.execution_time.supervisor").in_process_api_server()
    asyncio.run(_first_request(api.atransport))
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            os._exit(_airflow(order["argv"], order["log"]))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


async def _first_request(transport: httpx.AsyncBaseTransport) -> None:
    # It builds the API: 5 s.
    async with httpx.AsyncClient(transport=transport, base_url="http://in-process") as client:
        await client.get("/health")


def _airflow(argv: list[str], log: str) -> int:
    with _output_to(log):
        sys.argv = ["airflow", *argv]
        try:
            runpy.run_module("airflow", run_name="__main__")
        except SystemExit as end:
            # As the interpreter does.
            if end.code is None or isinstance(end.code, int):
                return end.code or 0
            print(end.code, file=sys.stderr)
            return 1
        except BaseException:
            traceback.print_exc()
            return 1
        return 0


@contextlib.contextmanager
def _output_to(log: str) -> Iterator[None]:
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    _serve()
