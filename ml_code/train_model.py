"""Trains a model, exports it to ONNX and registers it in MLflow, under an alias if one is wanted.

Run it as ``python -m ml_code.train_model --trainer classifier --model best_model --alias A`` or call
:func:`train_and_register`.

mlflow, scikit-learn and PyTorch take 2 to 4 s each to import. Functions import them where they need them,
so that ``--help`` answers at once, and only a trainer that uses PyTorch needs PyTorch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ml_code.training.errors import InvalidRequestError, TrainingError
from ml_code.training.option import from_values
from ml_code.training.request import TrainingRequest, check_tracking_uri
from ml_code.training.trainer import Trainer, load_trainer, option_names, summary, train_with, trainer_names
from ml_code.triton_deploy.settings.parser import Parser

if TYPE_CHECKING:
    from ml_code.training.registration import RegisteredVersion


def train_and_register(request: TrainingRequest, tracking_uri: str | None = None) -> RegisteredVersion:
    """Trains, exports, checks and registers a model, and moves the alias to it last, if one is named.

    Args:
        request: Model, trainer and options.
        tracking_uri: MLflow's tracking server; default: ``MLFLOW_TRACKING_URI``.

    Returns:
        The new version.

    Raises:
        InvalidRequestError: No usable tracking URI, trainer or option.
        DataError: The data can't be read, or nothing can be learned from it; MLflow has no run of it.
        ParityError: See :func:`publish`; or the export takes no batch of one or of many rows.
        RegistryError: See :func:`publish`.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    check_tracking_uri(uri)
    trainer = load_trainer(request.trainer)
    from_values(trainer.options, request.options, trainer.name)

    from ml_code.training.registration import publish, select_experiment

    # Before training: an unreachable server costs no training.
    select_experiment(uri, request.experiment)
    return publish(train_with(trainer, request), request, uri)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module.

    Args:
        arguments: Without the program's name; default: ``sys.argv[1:]``.

    Returns:
        The exit code: 0, or that of the error (see ``--help``).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        trainer = _chosen(arguments)
        options = vars(_parser(trainer).parse_args(arguments))
        as_json, tracking_uri = options.pop("json"), options.pop("tracking_uri")
        own = {name: options.pop(name) for name in option_names(trainer)} if trainer else {}
        request = TrainingRequest(**options, options=own)
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
        f"{registered.name} version {registered.version} registered, {alias}\n"
        f"  run {registered.run_id}, model {registered.model_id}\n"
        f"  model.onnx sha256 {registered.onnx_sha256}\n{metrics}"
    )


def _chosen(arguments: Sequence[str]) -> Trainer | None:
    """Returns the trainer that the command line names; None if it asks for help and names none."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--trainer")
    first.add_argument("-h", "--help", action="store_true")
    known, _ = first.parse_known_args(arguments)
    if known.help and known.trainer is None:
        return None
    trainer = load_trainer(TrainingRequest().trainer if known.trainer is None else known.trainer)
    common = {*(f.name for f in fields(TrainingRequest)), "json", "tracking_uri", "help"}
    taken = sorted(common.intersection(option_names(trainer)))
    if taken:
        raise InvalidRequestError(
            f"the trainer {trainer.name!r} calls an option {taken[0]!r}, which every trainer has",
            "Give the option in its file another name.",
        )
    return trainer


def _parser(trainer: Trainer | None) -> argparse.ArgumentParser:
    defaults = TrainingRequest()
    trainers = "\n".join(f"  {name:14} {summary(name)}" for name in trainer_names())
    parser = Parser(
        prog="python -m ml_code.train_model",
        usage="%(prog)s [OPTION ...]",
        allow_abbrev=False,
        description="Train a model, export it to ONNX, check the export against the model, register it in MLflow"
        " and point an alias at it.",
        epilog="examples:\n"
        "  python -m ml_code.train_model --model best_model --alias A\n"
        "  python -m ml_code.train_model --trainer cnn --model digits --alias A\n"
        "  python -m ml_code.train_model --trainer cnn --help\n\n"
        f"trainers, each with options of its own (--trainer NAME --help):\n{trainers}\n\n"
        "exit codes:\n"
        "  0  registered\n"
        "  2  an argument or MLFLOW_TRACKING_URI is not usable\n"
        "  3  MLflow or its artifact store failed\n"
        "  4  the ONNX export differs from the model\n"
        "  5  the data can't be read or used",
    )

    def option(flag: str, default: Any, text: str, **settings: Any) -> None:
        parser.add_argument(flag, default=default, help=f"{text} (default: {default})", **settings)

    option("--model", defaults.model, "registered model")
    option("--alias", defaults.alias, "alias to point at the new version; empty: none")
    option("--trainer", defaults.trainer, "trainer, see below", metavar="NAME")
    option("--experiment", defaults.experiment, "MLflow experiment, created if missing")
    option("--seed", defaults.seed, "seed of all random numbers, including those of the split", type=int)
    option(
        "--parity-tolerance",
        defaults.parity_tolerance,
        "largest accepted difference of a number between model and export, absolute or relative",
        type=float,
    )
    option("--golden-rows", defaults.golden_rows, "held-out rows logged as golden", type=int)
    parser.add_argument(
        "--tracking-uri",
        metavar="URL",
        help="MLflow server (default: environment variable MLFLOW_TRACKING_URI)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    if trainer:
        _add_options(parser, trainer)
    return parser


def _add_options(parser: argparse.ArgumentParser, trainer: Trainer) -> None:
    group = parser.add_argument_group(f"options of the trainer {trainer.name}", summary(trainer.name))
    for f in fields(trainer.options):
        group.add_argument(
            f"--{f.name.replace('_', '-')}",
            default=f.default,
            type=type(f.default),
            choices=f.metadata["choices"] or None,
            # argparse takes a percent sign for a format.
            help=f"{f.metadata['doc']} (default: {f.default or 'none'})".replace("%", "%%"),
        )


if __name__ == "__main__":
    sys.exit(main())
