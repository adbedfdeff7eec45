"""What ``triton-deploy canary`` prints."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ..deploy.canary_decisions import done
from ..deploy.request import whoever
from ..errors.texts import printable
from ..rules.names import check_model, check_reason
from ..settings import Settings


def canary(options: argparse.Namespace, settings: Settings) -> int:
    """Show a canary that is under way, or say what is to become of it."""
    record, lines = done(
        settings,
        check_model(options.model),
        options.decision,
        by=whoever(),
        reason=check_reason(options.reason),
        deploy_id=options.deploy_id or "",
    )
    if options.json:
        print(json.dumps(asdict(record) | {"text": "\n".join(lines)}, indent=2))
    else:
        print("\n".join(map(printable, lines)))
    return 0
