"""The Helm chart, rendered by Helm's own engine (4.2 as a library: the wheel helm-python-sdk)."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/model-serving"
VALUE_SETS = ("triton", "nginx", "everything", "local")
RELEASE, NAMESPACE = "demo", "serving"

# In a process of its own: the library is Go, whose runtime sets signal handlers for the whole process.
_SCRIPT = """
import json, sys
from helm_python import chart, errors
for line in sys.stdin:
    path, values, release, namespace = json.loads(line)
    try:
        with chart.Chart.load(path) as loaded:
            files = loaded.render(values, name=release, namespace=namespace)
        answer = {"lint": chart.lint(path, values, strict=True)["messages"], "files": files}
    except errors.HelmError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Refused(Exception):
    """Helm refuses these values; the text is the user's message."""


class Rendered:
    """The output of Helm for the chart.

    Attributes:
        objects: every Kubernetes object.
        notes: text printed after the installation.
        lint: findings of ``helm lint --strict``: severity (3 is an error, 2 a warning), path, error.
    """

    def __init__(self, files: Mapping[str, str], lint: list[dict[str, Any]]) -> None:
        self.lint = lint
        self.notes = next(text for name, text in files.items() if name.endswith("/NOTES.txt"))
        documents = (yaml.safe_load_all(text) for name, text in files.items() if name.endswith(".yaml"))
        self.objects: list[dict[str, Any]] = [found for several in documents for found in several if found]

    def all(self, *kinds: str) -> list[dict[str, Any]]:
        return [found for found in self.objects if found["kind"] in kinds]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        """The object whose name is the release's with this ending."""
        [found] = [o for o in self.all(kind) if o["metadata"]["name"] == f"{RELEASE}-model-serving{name}"]
        return found

    def workloads(self) -> list[dict[str, Any]]:
        return self.all("Deployment", "StatefulSet")

    def pods(self) -> list[dict[str, Any]]:
        """The pod of each workload."""
        return [workload["spec"]["template"] for workload in self.workloads()]

    def container(self, component: str) -> dict[str, Any]:
        containers = [container for pod in self.pods() for container in pod["spec"]["containers"]]
        [found] = [container for container in containers if container["name"] == component]
        return found


def value_set(name: str) -> dict[str, Any]:
    """The values of a file in the chart's ``ci`` folder."""
    values: dict[str, Any] = yaml.safe_load((CHART / f"ci/{name}-values.yaml").read_text())
    return values


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path replaced."""
    first, _, rest = path.partition(".")
    return {**values, first: changed(values.get(first, {}), rest, value) if rest else value}


def render(values: dict[str, Any], chart: Path = CHART, release: str = RELEASE) -> Rendered:
    """Render a chart; raises Refused."""
    answer = json.loads(_rendered(json.dumps([str(chart), values, release, NAMESPACE])))
    if "error" in answer:
        raise Refused(answer["error"])
    return Rendered(answer["files"], answer["lint"])


def packed(destination: Path) -> Path:
    """The archive that ``helm package`` makes of the chart."""
    script = "import sys; from helm_python import chart; print(chart.package(sys.argv[1], destination=sys.argv[2]))"
    command = [sys.executable, "-c", script, str(CHART), str(destination)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@functools.cache
def _helm() -> subprocess.Popen[str]:
    # The process ends with the tests, when its input is closed.
    command = [sys.executable, "-c", _SCRIPT]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


@functools.cache
def _rendered(request: str) -> str:
    helm = _helm()
    assert helm.stdin
    assert helm.stdout
    helm.stdin.write(request + "\n")
    helm.stdin.flush()
    answer = helm.stdout.readline()
    assert answer, f"Helm's engine ended with {helm.poll()}"
    return answer
