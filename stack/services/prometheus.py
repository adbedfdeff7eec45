"""Prometheus, with the rules that the project ships; the machine has to have the program."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import StackError
from ..readiness import answers
from ..site import Service, Site
from ..supervision import Program
from .tritons import STAGING


def installed() -> str | None:
    """Return the path of the program, or None where it is not installed."""
    return shutil.which("prometheus")


def environment(site: Site) -> dict[str, str]:
    """Return the variables by which releases bake; for two minutes, so that a user need not wait for 15."""
    return {"TRITON_DEPLOY_PROMETHEUS_URL": site.url("prometheus"), "TRITON_DEPLOY_BAKE_MINUTES": "2"}


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return Prometheus, which scrapes the gateway and the Tritons of the stack.

    Raises:
        StackError: Prometheus is not installed.
    """
    program = installed()
    if program is None:
        raise StackError("no prometheus on PATH: install it (Debian: apt-get install prometheus)")
    shipped, home = site.repo / "deploy/prometheus", site.state_dir / "prometheus"
    shutil.rmtree(home / "rules", ignore_errors=True)
    shutil.copytree(shipped / "rules", home / "rules")
    shutil.copy2(shipped / "prometheus.yml", home)
    _write_targets(site, env, shipped / "targets", home / "targets")
    options = {
        "--config.file": str(home / "prometheus.yml"),
        "--storage.tsdb.path": str(home / "data"),
        "--web.listen-address": urlsplit(site.url("prometheus")).netloc,
    }
    argv = [program, *(f"{key}={value}" for key, value in options.items())]
    return Service(
        programs=[Program("prometheus", argv, env)],
        probe=lambda: answers(f"{site.url('prometheus')}/-/ready"),
        ports=["prometheus"],
    )


def _write_targets(site: Site, env: Mapping[str, str], shipped: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    # A stack with Prometheus always has a gateway, and a gateway its Triton.
    scraped = {"triton": "triton-metrics", "gateway": "gateway"}
    if env.get("TRITON_DEPLOY_STAGING_GRPC_URL") == site.url(f"{STAGING}-grpc"):
        scraped[STAGING] = f"{STAGING}-metrics"
    for path in shipped.iterdir():
        targets = [urlsplit(site.url(scraped[path.stem])).netloc] if path.stem in scraped else []
        # JSON is YAML.
        (folder / path.name).write_text(json.dumps([{"targets": targets}]))
