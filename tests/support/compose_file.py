"""docker-compose.yml as Docker Compose reads it, and the facts of its images: deploy/versions.toml."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILES = {"base": ["docker-compose.yml"], "dev": ["docker-compose.yml", "docker-compose.dev.yml"]}
PROFILES = ("core", "gpu", "observability", "nginx")
WRITE_ENV = ROOT / "deploy/compose/write_env.py"


class Refused(Exception):
    """Compose refuses the file; the text is the user's message."""


def compose(env_file: Path, *profiles: str, files: str = "base", arguments: tuple[str, ...] = ()) -> str:
    """Run `docker compose config` and return its output.

    Args:
        env_file: what `.env` would be.
        profiles: those that are on.
        files: key of FILES.
        arguments: further ones.

    Raises:
        Refused: Compose finds fault with the file.
    """
    options = [part for name in FILES[files] for part in ("--file", name)]
    options += [part for profile in profiles for part in ("--profile", profile)]
    program = str(Path(sys.executable).with_name("docker-compose"))
    done = subprocess.run(
        [program, "--env-file", str(env_file), *options, "config", *arguments],
        cwd=ROOT,
        # Exports of the caller's shell would win over the file.
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


@functools.cache
def services(env_file: Path, *profiles: str, files: str = "base") -> dict[str, dict[str, Any]]:
    """Return the services of these profiles, by name, as Compose would start them."""
    found: dict[str, dict[str, Any]] = json.loads(
        compose(env_file, *profiles, files=files, arguments=("--format", "json"))
    )["services"]
    return found


def matrix() -> dict[str, dict[str, Any]]:
    """Return deploy/versions.toml."""
    return tomllib.loads((ROOT / "deploy/versions.toml").read_text(encoding="utf-8"))


def image(name: str) -> str:
    """Return an image of the matrix with its tag."""
    entry = matrix()["images"][name]
    return f"{entry['image']}:{entry['tag']}"
