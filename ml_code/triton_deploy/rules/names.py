"""The rules of names: a name from outside is checked here before it becomes part of a path or URL."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from ..errors import InvalidInput

MODEL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$"
"""A model name: no dot, so that an engine's name (``best_model.v13``) can't be another model's."""

ALIAS_PATTERN = r"^(?![Ll][Aa][Tt][Ee][Ss][Tt]$)(?![Vv]\d+$)[A-Za-z0-9_-]{1,100}$"
"""An MLflow alias. MLflow reserves ``latest`` and ``v<number>``."""

DEPLOY_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}$"
"""A deployment's id: a file name on every file system."""

UNSEEN_PATTERN = r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
"""Characters that no name, list or reason of a user may have: line breaks, control characters, direction
marks, surrogates."""

LONGEST_REASON = 500
"""Longest reason of a user for the history, characters."""

MIN_VERSION, MAX_VERSION = 1, 2**31 - 1
"""Numbers of model versions: MLflow counts from 1, in 32 bits."""

RESERVED_FILES = frozenset(
    {
        "config.pbtxt",
        "failure.json",
        "manifest.json",
        "model.onnx",
        "serving_input_example.json",
        "smoke.json",
        "triton",
    }
)
"""Files and folders of the deployer at the top of a version's directory; no weights may have these names."""

OUR_FOLDERS = ("releases", "deployments", "leases", "engines", "bakes")
"""Folders of this package in a model's folder, besides the versions."""

MAX_PART_BYTES, MAX_PATH_BYTES = 255, 1024
"""Longest name on the usual file systems, and longest key in S3; bytes of UTF-8."""


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


def check_reason(value: str) -> str:
    """Return ``value`` if it is one line that the history can show, else raise InvalidInput."""
    if len(value) > LONGEST_REASON:
        raise InvalidInput(
            f"The reason has {len(value)} characters.",
            hint=f"Use {LONGEST_REASON} at most: it is for the history.",
        )
    if re.search(UNSEEN_PATTERN, value):
        raise InvalidInput(
            f"The reason {_shortened(value)} is not one line of text.",
            hint="Leave out line breaks and characters that nobody sees.",
        )
    return value


def check_version(value: int | str) -> int:
    """Return the number of a model version.

    Args:
        value: the number, or its decimal digits as MLflow writes them.

    Raises:
        InvalidInput: it is no whole number from MIN_VERSION to MAX_VERSION.
    """
    digits = re.fullmatch(r"[0-9]{1,10}", value) if isinstance(value, str) else None
    number = int(digits[0]) if digits else value
    if isinstance(number, bool) or not isinstance(number, int) or not MIN_VERSION <= number <= MAX_VERSION:
        raise InvalidInput(
            f"{_shortened(value)} is not a valid model version.",
            hint=f"Use a whole number from {MIN_VERSION} to {MAX_VERSION}. If MLflow gave it, check that MLFLOW_TRACKING_URI is an "
            "MLflow server.",
        )
    return number


def is_version(name: str) -> bool:
    """Whether a directory's name is a model version's number as this package writes it."""
    return re.fullmatch(r"[1-9][0-9]{0,9}", name) is not None and int(name) <= MAX_VERSION


def ends_triton(name: str) -> bool:
    """Whether a directory of this name in a Triton model's folder ends Triton.

    Triton takes every directory there for a version and reads its name with ``std::stoll``: the digits at
    the beginning, after white space and a sign. A number that does not fit into 64 bits throws an
    exception that Triton does not catch, so the process ends at each load of the model. This rule refuses
    every name of 19 digits or more, even if the number would just fit.
    """
    return re.match(r"[ \t\n\v\f\r]*[+-]?[0-9]{19}", name) is not None


def unfit_for_weights(path: str) -> str:
    """Return why a file of weights can't have this name in a version's directory; empty when it can.

    On no file system may a model's file be mistaken for a file of the deployer: names are compared
    without regard to case and to Unicode's equivalent forms.

    Args:
        path: the name in the model, relative to the model's directory.
    """
    if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        return "outside the model's own directory"
    # "./weights" and "a//weights" are the same names in another notation.
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        return "outside the model's own directory"
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in path):
        return "a name with invisible characters"
    if any(same_name(part).startswith(".") for part in parts):
        return "a hidden file or folder"
    if any(part != part.strip() or part.endswith(".") for part in parts):
        return "a name with a space at an end, or a dot at its end"
    if len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return "a name that is too long"
    if same_name(parts[0]) in RESERVED_FILES:
        return "a file or folder of the deployer's own"
    return ""


def same_name(path: str) -> str:
    """Return a normal form, the same for all paths that a file system or reader may confuse."""
    once = unicodedata.normalize("NFKC", path).casefold()
    return unicodedata.normalize("NFKC", once).casefold()


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


PLAIN_PATH = "letters, digits and / . _ - + @ % , ="
"""Characters of a path that a shell does not interpret, for messages."""


def needs_quoting(path: str) -> str:
    """Return the characters of a path that a shell would interpret; empty without any.

    Triton's Python backend starts its processes by a line of shell in which it does not quote the path of
    the model.

    Args:
        path: path of the repository, or of a folder above it.
    """
    odd = sorted(set(re.sub(r"[A-Za-z0-9/._+@%,=-]|[^\x00-\x7f]", "", path)))
    return ", ".join("a space" if character == " " else repr(character) for character in odd)


def is_model(value: str) -> bool:
    """Whether ``value`` may be a model's name."""
    return re.fullmatch(MODEL_PATTERN.removesuffix("$"), value) is not None


def is_deploy_id(value: str) -> bool:
    """Whether ``value`` may be a deployment's id."""
    return re.fullmatch(DEPLOY_ID_PATTERN.removesuffix("$"), value) is not None


def deploy_id_for(run_id: str) -> str:
    """Derive a deployment id from an orchestrator's run id.

    The same run always gives the same id, so the steps of a run find their record on any worker with
    nothing passed between them; a hash keeps run ids apart that differ only in characters a file name
    can't have.

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


def model_of(name: str) -> str:
    """Return the model of a public name or engine in Triton: no model's name has a dot."""
    return name.partition(".v")[0]


def engine_version(model: str, name: str) -> int | None:
    """Return the version in the name of an engine in Triton; None if it is no engine of ``model``."""
    match = re.fullmatch(r"(.*)\.v(0|[1-9][0-9]{0,9})", name)
    return int(match[2]) if match and match[1] == model else None
