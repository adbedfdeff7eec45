"""Tritons: the Triton that serves, and a staging Triton on the same repository, which no client reaches."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import StackError
from ..readiness import answers
from ..site import LOCAL, Service, Site
from ..supervision import Program

STAGING = "triton-staging"
"""A Triton that no client reaches: a deploy tries its candidate there first."""


def serving_environment(site: Site) -> dict[str, str]:
    """Return the variables by which a deployer finds the serving Triton and its repository."""
    return {
        "TRITON_DEPLOY_REPOSITORY": str(site.model_repository),
        "TRITON_DEPLOY_GRPC_URLS": site.url("triton-grpc"),
    }


def staging_environment(site: Site) -> dict[str, str]:
    """Return the variable by which a deployer finds the staging Triton."""
    return {"TRITON_DEPLOY_STAGING_GRPC_URL": site.url(f"{STAGING}-grpc")}


def serving(site: Site, env: Mapping[str, str]) -> Service:
    """Return the Triton that clients reach; it starts with every model of the repository loaded."""
    return _tritonserver("triton", site, env, "--load-model=*")


def staging(site: Site, env: Mapping[str, str]) -> Service:
    """Return the staging Triton; it starts empty, so no restart loads a candidate that crashed it."""
    return _tritonserver(STAGING, site, env)


def _tritonserver(name: str, site: Site, env: Mapping[str, str], *arguments: str) -> Service:
    """Return a Triton on the site's repository, with three ports and a backends folder of its own."""
    venv = site.repo / ".venv-triton"
    packages = venv / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    server = packages / "pytriton/tritonserver"
    if not server.exists():
        raise StackError(f"no Triton in {venv}: `make env` installs it")
    site.model_repository.mkdir(parents=True, exist_ok=True)
    options = {
        "--model-repository": str(site.model_repository),
        "--backend-directory": str(_assemble_backends(site.state_dir / f"{name}-backends", site, server)),
        "--model-control-mode": "explicit",
        "--exit-on-error": "false",
        "--strict-readiness": "false",
        "--metrics-config": "summary_latencies=true",
        "--exit-timeout-secs": "5",
        "--http-address": LOCAL,
        "--http-port": str(site.ports[name]),
        "--grpc-address": LOCAL,
        "--grpc-port": str(site.ports[f"{name}-grpc"]),
        "--metrics-address": LOCAL,
        "--metrics-port": str(site.ports[f"{name}-metrics"]),
    }
    flags = [*(f"{key}={value}" for key, value in options.items()), *arguments, *site.triton_args]
    triton_env = {
        **env,
        # Without these libraries the process of the backend dies, and a load hangs for ever.
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PATH": f"{venv / 'bin'}:{env['PATH']}",
        # The onnxruntime wheel runs on the CPU only; Triton would ask it for a GPU where the machine has one.
        "CUDA_VISIBLE_DEVICES": "",
        # The backend's folder is in the checkout: write no bytecode there.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Service(
        # Triton itself stops the processes of its backends, after their requests.
        programs=[Program(name, [str(server / "bin/tritonserver"), *flags], triton_env, stop_group=False)],
        # Ready, not live: Triton is live before it has loaded the models of its start.
        probe=lambda: answers(f"{site.url(name)}/v2/health/ready"),
        ports=[name, f"{name}-grpc", f"{name}-metrics"],
    )


def _assemble_backends(backends: Path, site: Site, server: Path) -> Path:
    shutil.rmtree(backends, ignore_errors=True)
    python = backends / "python"
    python.mkdir(parents=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    for file in [*(server / "backends/python").iterdir(), stub]:
        # Copies, because Triton refuses a backend library that is a link out of its directory.
        shutil.copy2(file, python / file.name)
    (backends / "onnxruntime").symlink_to(site.repo / "stack/triton_backends/onnxruntime")
    return backends
