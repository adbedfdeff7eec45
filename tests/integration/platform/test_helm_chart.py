"""What the Helm chart tells Triton and nginx, told to the real ones."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ml_code.triton_deploy.clients.triton import GrpcTriton
from stack import Stack
from stack.services.tritons import STAGING
from tests.support.charts import RELEASE, render, value_set
from tests.support.servers.debian_packages import unpacked
from tests.support.servers.sites import Ours, Site, own_site, store

__all__ = ["own_site", "store"]

pytestmark = pytest.mark.integration

LOCKED_BY_HTTP = (
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/best_model/load"),
    ("POST", "/v2/repository/models/best_model/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/logging"),
)


def test_a_triton_with_the_charts_arguments_is_deployed_to_and_nothing_else(
    own_site: Callable[..., Site],
) -> None:
    container = render(value_set("triton")).container("triton")
    key = str(uuid.uuid4())
    # The others are what the stack starts Triton with anyway: test_triton_starts_as_the_readme_says.
    restrictions = [
        argument.replace("$(POD_UID)", key) for argument in container["args"] if "locked" in argument
    ]
    assert len(restrictions) == 2
    site = own_site(*restrictions)
    base = f"http://{site.server.http_url}"

    def probe(name: str) -> bool:
        return requests.get(base + container[name]["httpGet"]["path"], timeout=10).status_code == 200

    # Before the first deploy: alive, not ready, and within the deployer's reach.
    assert probe("startupProbe")
    assert probe("livenessProbe")
    assert not probe("readinessProbe")
    ours = Ours(site, "best_model")
    ours.deploy(1)
    assert probe("readinessProbe")
    ours.deploy(2)
    assert site.answer("best_model") == (2, 2.0)

    for method, path in LOCKED_BY_HTTP:
        refused = requests.request(method, base + path, json={}, timeout=10)
        assert refused.status_code == 403, f"{method} {path}: {refused.status_code} {refused.text}"
    assert requests.post(f"{base}/v2/repository/index", headers={"locked": key}, json={}, timeout=10).ok
    client = InferenceServerClient(site.server.grpc_url)
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException, match="restricted"):
            call()
    client.close()
    assert site.answer("best_model") == (2, 2.0)

    # A pod that is replaced is ready again by what was committed.
    site.server.restart()
    assert probe("readinessProbe")
    assert site.answer("best_model") == (2, 2.0)


def test_a_staging_triton_with_the_charts_arguments_is_the_deployers_alone(tmp_path: Path) -> None:
    container = render(value_set("everything")).container("staging")
    own = ("--model-repository", "--exit-timeout", "--log-verbose")
    given = [a.replace("$(POD_UID)", "key") for a in container["args"][1:] if not a.startswith(own)]
    # The last of two of a kind counts: it runs with the chart's, whatever the stack says.
    assert {a.partition("=")[0] for a in given} == {
        *("--model-control-mode", "--exit-on-error", "--strict-readiness", "--metrics-config"),
        *("--http-restricted-api", "--grpc-restricted-protocol"),
    }
    with Stack(tmp_path, [STAGING], triton_args=given) as stack:
        base = stack.url(STAGING)
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert requests.get(base + container[name]["httpGet"]["path"], timeout=10).ok, name
        triton = GrpcTriton(stack.url(f"{STAGING}-grpc"), 10)
        assert triton.loaded() == {}
        # The deployer's calls; what is not there can be unloaded.
        triton.unload("none", 10)
        assert triton.states() == {}
        for method, path in LOCKED_BY_HTTP:
            refused = requests.request(method, base + path, json={}, timeout=10)
            assert refused.status_code == 403, f"{method} {path}: {refused.status_code} {refused.text}"


def test_nginx_takes_the_charts_configuration(tmp_path: Path) -> None:
    text = render(value_set("nginx")).one("ConfigMap", "-nginx")["data"]["nginx.conf"]
    for service in ("triton-0", "triton-1", "gateway"):
        # There is no DNS here that knows it.
        assert text.count(f" {RELEASE}-model-serving-{service}:") == 1
        text = text.replace(f" {RELEASE}-model-serving-{service}:", " 127.0.0.1:")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {tmp_path / kind};" for kind in kinds)
    (tmp_path / "nginx.conf").write_text(text.replace("http {", f"http {{ {temporary}", 1))
    program = unpacked("nginx", ["nginx"]) / "usr/sbin/nginx"
    options = [
        "-t",
        "-e",
        "stderr",
        "-p",
        str(tmp_path),
        "-c",
        "nginx.conf",
        "-g",
        f"pid {tmp_path / 'pid'};",
    ]
    done = subprocess.run([str(program), *options], capture_output=True, text=True, timeout=60, check=False)
    assert "test is successful" in done.stderr, done.stderr
