"""What a name may look like. Nothing from outside reaches a path or a URL before it passed one of these."""

from __future__ import annotations

import hashlib
import re

from .errors import InvalidInput

MODEL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$"
"""A model name: no dot, so that an engine's name (``best_model.v13``) can't be another model's."""

ALIAS_PATTERN = r"^(?![Ll][Aa][Tt][Ee][Ss][Tt]$)(?![Vv]\d+$)[A-Za-z0-9_-]{1,100}$"
"""An MLflow alias. MLflow reserves ``latest`` and ``v<number>``."""

DEPLOY_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}$"
"""A deployment's id: a file name on every file system."""


def _checked(value: str, pattern: str, what: str, allowed: str) -> str:
    # fullmatch: "$" alone would let a trailing newline through.
    if not isinstance(value, str) or not re.fullmatch(pattern.removesuffix("$"), value):
        raise InvalidInput(f"{value!r} is not a valid {what}.", hint=f"Use {allowed}.")
    return value


def check_model(value: str) -> str:
    """Return ``value`` if it is a model name, else raise InvalidInput."""
    return _checked(
        value, MODEL_PATTERN, "model name", "1 to 100 letters, digits, '_' or '-', not starting with '-'"
    )


def check_alias(value: str) -> str:
    """Return ``value`` if MLflow can hold it as an alias, else raise InvalidInput."""
    return _checked(
        value,
        ALIAS_PATTERN,
        "alias",
        "1 to 100 letters, digits, '_' or '-'; MLflow reserves 'latest' and 'v<number>'",
    )


def check_deploy_id(value: str) -> str:
    """Return ``value`` if it is a deployment id, else raise InvalidInput."""
    return _checked(
        value,
        DEPLOY_ID_PATTERN,
        "deploy id",
        "1 to 120 letters, digits, '_', '.' or '-', starting with a letter or digit",
    )


PLAIN_PATH = "letters, digits and / . _ - + @ % , ="
"""What a path may hold that a shell reads as it stands, for messages."""


def needs_quoting(path: str) -> str:
    """Name what a path holds that a shell does not read as it stands; empty when there is nothing.

    Triton's Python backend starts its processes by a line of shell in which it does not quote the path of the model.

    Args:
        path: of the repository, or of what is above it.
    """
    odd = sorted(set(re.sub(r"[A-Za-z0-9/._+@%,=-]|[^\x00-\x7f]", "", path)))
    return ", ".join("a space" if character == " " else repr(character) for character in odd)


def is_deploy_id(value: str) -> bool:
    """Whether ``value`` may be a deployment's id."""
    return re.fullmatch(DEPLOY_ID_PATTERN.removesuffix("$"), value) is not None


def deploy_id_for(run_id: str) -> str:
    """Derive a deployment id from an orchestrator's run id.

    The same run always gives the same id, so the steps of a run find their record on any worker with nothing passed
    between them; a hash keeps run ids apart that differ only in characters a file name can't have.

    Args:
        run_id: any text, for example Airflow's ``manual__2026-01-02T03:04:05+00:00``.

    Returns:
        An id that check_deploy_id accepts.
    """
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_id).strip("-._")[:100]
    return f"{readable or 'run'}-{digest}"


def engine_name(model: str, version: int) -> str:
    """Return the name of the Triton model that holds one version's weights."""
    return f"{model}.v{version}"
