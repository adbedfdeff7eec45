"""MLflow's requests after an alias was moved, with MLflow's signature."""

from __future__ import annotations

import json
import time
from typing import Any

from ml_code.alias_events import signature
from ml_code.alias_events.moves import Move

SECRET = "a secret of some length"

MOVE = Move("best_model", "A", "13")


def event(move: Move = MOVE, **changes: Any) -> bytes:
    """The body that MLflow 3.17 sends."""
    data = {"name": move.model, "alias": move.alias, "version": move.version}
    content = {
        "entity": "model_version_alias",
        "action": "created",
        "timestamp": "2026-11-25T12:00:00+00:00",
        "data": data,
    }
    return json.dumps(content | changes).encode()


def signed(
    body: bytes, delivery_id: str = "d-1", secret: str = SECRET, at_s: float | None = None
) -> dict[str, str]:
    timestamp = str(int(time.time() if at_s is None else at_s))
    return {
        signature.SIGNATURE: signature.sign(secret, delivery_id, timestamp, body),
        signature.DELIVERY_ID: delivery_id,
        signature.TIMESTAMP: timestamp,
    }
