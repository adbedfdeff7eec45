"""Trains a classifier, exports it to ONNX and registers it in MLflow under an alias.

Run it as ``python -m ml_code.train_model --model best_model --alias A`` or call
:func:`train_and_register`.

mlflow and scikit-learn take 2 to 4 s each to import: only :func:`train_and_register` imports what
needs them, so that ``--help`` and a rejected argument answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ml_code.training.request import DATASETS, TrainingError, TrainingRequest, check_tracking_uri

if TYPE_CHECKING:
    from ml_code.training.registration import RegisteredVersion


def train_and_register(request: TrainingRequest, tracking_uri: str | None = None) -> RegisteredVersion:
    """Trains, exports, checks and registers a model, and moves the alias to it last, if one is named.

    Args:
        request: What to train.
        tracking_uri: MLflow's tracking server; default: ``MLFLOW_TRACKING_URI``.

    Returns:
        The new version.

    Raises:
        InvalidRequestError: No usable tracking URI.
        ParityError: See :func:`publish`.
        RegistryError: See :func:`publish`.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    check_tracking_uri(uri)

    from ml_code.training.classifier import train
    from ml_code.training.registration import publish, select_experiment

    # Before training: an unreachable server costs no training.
    select_experiment(uri, request.experiment)
    return publish(train(request), request, uri)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module.

    Args:
        arguments: Without the program's name; default: ``sys.argv[1:]``.

    Returns:
        The exit code: 0, or that of the error (see ``--help``).
    """
    options = vars(_parser().parse_args(arguments))
    as_json = options.pop("json")
    tracking_uri = options.pop("tracking_uri")
    try:
        request = TrainingRequest(**options)
        # MLflow prints links to stdout, which belongs to the result.
        with contextlib.redirect_stdout(sys.stderr):
            registered = train_and_register(request, tracking_uri)
    except TrainingError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(asdict(registered)) if as_json else _summary(registered))
    return 0


def _summary(registered: RegisteredVersion) -> str:
    metrics = "\n".join(f"  {name:24} {value:.6g}" for name, value in registered.metrics.items())
    alias = f"alias {registered.alias} points at it" if registered.alias else "no alias was moved"
    return (
        f"{registered.name} version {registered.version} registered, {alias}\n  run {registered.run_id}, model {registered.model_id}\n"
        f"  model.onnx sha256 {registered.onnx_sha256}\n{metrics}"
    )


def _parser() -> argparse.ArgumentParser:
    defaults = TrainingRequest()
    parser = argparse.ArgumentParser(
        prog="python -m ml_code.train_model",
        description="Train a classifier on a real data set, export it to ONNX, check the export"
        " against the model, register it in MLflow and point an alias at it.",
        epilog="exit codes: 0 registered; 2 an argument or MLFLOW_TRACKING_URI is not usable;"
        " 3 MLflow or its artifact store failed; 4 the ONNX export differs from the model.",
    )

    def option(flag: str, default: Any, text: str, **settings: Any) -> None:
        parser.add_argument(flag, default=default, help=f"{text} (default: {default})", **settings)

    option("--model", defaults.model, "registered model")
    option("--alias", defaults.alias, "alias to point at the new version; empty: none")
    option("--dataset", defaults.dataset, "data set of scikit-learn", choices=DATASETS)
    option("--experiment", defaults.experiment, "MLflow experiment, created if missing")
    option("--seed", defaults.seed, "seed of the split and the solver", type=int)
    option("--regularization", defaults.regularization, "L2 penalty, larger: simpler", type=float)
    option(
        "--parity-tolerance",
        defaults.parity_tolerance,
        "largest accepted difference of a probability between model and export",
        type=float,
    )
    option("--golden-rows", defaults.golden_rows, "held-out rows logged as golden", type=int)
    parser.add_argument(
        "--tracking-uri", help="MLflow server (default: environment variable MLFLOW_TRACKING_URI)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
