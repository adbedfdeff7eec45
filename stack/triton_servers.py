"""Tritons: the one that serves, and a staging Triton on the same repository, which serves nobody."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.errors import StackError
from stack.readiness import answers
from stack.site import LOCAL, Service, Site
from stack.supervision import Program

STAGING = "triton-staging"
"""A Triton that serves nobody: a deploy tries its candidate there first."""


def serving_environment(site: Site) -> dict[str, str]:
    """Return the variables by which a deployer finds the Triton that serves, and its repository."""
    return {
        "TRITON_DEPLOY_REPOSITORY": str(site.model_repository),
        "TRITON_DEPLOY_GRPC_URLS": site.url("triton-grpc"),
    }


def staging_environment(site: Site) -> dict[str, str]:
    """Return the variable by which a deployer finds the staging Triton."""
    return {"TRITON_DEPLOY_STAGING_GRPC_URL": site.url(f"{STAGING}-grpc")}


def serving(site: Site, env: Mapping[str, str]) -> Service:
    """The Triton that clients reach: it begins with all that the repository has."""
    return _tritonserver("triton", site, env, "--load-model=*")


def staging(site: Site, env: Mapping[str, str]) -> Service:
    """The staging Triton: it begins empty, so a candidate that has ended it does not end it again when it is back."""
    return _tritonserver(STAGING, site, env)


def _tritonserver(name: str, site: Site, env: Mapping[str, str], *arguments: str) -> Service:
    """Return a Triton on the site's repository, with its three ports and a folder of backends of its own."""
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
        # Without the libraries the backend's process dies and a load hangs for ever.
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PATH": f"{venv / 'bin'}:{env['PATH']}",
        # The onnxruntime wheel runs on the CPU: on a laptop with a GPU Triton would ask it for that.
        "CUDA_VISIBLE_DEVICES": "",
        # The backend's folder is the checkout's.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Service(
        # It stops the processes of its backends itself, after their requests.
        programs=[Program(name, [str(server / "bin/tritonserver"), *flags], triton_env, stop_group=False)],
        # Live comes before the models that it loads at the start, ready after them.
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
        # Copies: Triton refuses a backend library that a link leads to from outside its directory.
        shutil.copy2(file, python / file.name)
    (backends / "onnxruntime").symlink_to(site.repo / "stack/triton_backends/onnxruntime")
    return backends
