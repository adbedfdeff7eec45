"""The gate from the command line, for CI: the verdict as a page or as JSON, and as the exit code."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from ..triton_deploy.errors import DeployError, InvalidInput
from ..triton_deploy.errors.texts import OneLine
from ..triton_deploy.rules.names import check_model
from ..triton_deploy.settings import Settings, variables
from ..triton_deploy.settings.parser import Parser
from .rules import Rules

EXIT_KEPT = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare a registered version with the live version.

    Args:
        arguments: without the program's name; default: ``sys.argv[1:]``.

    Returns:
        0 when the version is to be promoted, 10 when not, else the exit code of the error.
    """
    options = _parser().parse_args(arguments)
    output = logging.StreamHandler()
    output.setFormatter(OneLine("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output])
    try:
        variables.check([Rules, Settings], changes=True)
        rules = Rules.from_env().overridden(_object(options.rules))
        settings, model = Settings.from_env(), check_model(options.model)

        from .evaluation import compare
        from .record import record
        from .report import page

        comparison = compare(settings, rules, model, options.version)
        if not options.dry_run:
            record(settings, comparison)
    except DeployError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(comparison.to_dict()) if options.json else page(comparison))
    return 0 if comparison.verdict.promote else EXIT_KEPT


def _object(text: str) -> dict[str, object]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InvalidInput(
            f"--rules {text!r} is no JSON object.", hint='Write it like \'{"metric": "accuracy"}\'.'
        )
    return values


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m ml_code.gate",
        description="Compare a registered version with the live version, on the rows that its training held out, and say"
        " whether the registered version should go live. The gate moves no alias and deploys nothing.",
        epilog="examples:\n"
        "  python -m ml_code.gate best_model 3\n"
        "  python -m ml_code.gate best_model 3 --dry-run --json\n\n"
        "exit codes:\n"
        "  0   promote\n"
        "  3   a name or setting is wrong, or something does not exist\n"
        "  4   the version can't be judged: it is broken\n"
        "  5   MLflow, S3 or the disk failed\n"
        f"  {EXIT_KEPT}  keep the live version",
    )
    parser.add_argument("model", help="registered model, and model in Triton")
    parser.add_argument("version", type=int, help="registered version to judge")
    parser.add_argument(
        "--rules", default="{}", help="rules that replace those of the environment (GATE_…), as a JSON object"
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing to MLflow")
    parser.add_argument("--json", action="store_true", help="print the comparison as one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
