"""Checks that a delivery is MLflow's, by its signature and its time. Rules only: the time is an argument.

Source: ``mlflow/webhooks/delivery.py`` of MLflow 3.17, which follows the Standard Webhooks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from .errors import Forged

SIGNATURE = "x-mlflow-signature"
DELIVERY_ID = "x-mlflow-delivery-id"
TIMESTAMP = "x-mlflow-timestamp"


def sign(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """Return the signature that MLflow puts on a delivery."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret.encode(), signed, hashlib.sha256)).decode()


def check(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], *, now_s: float, tolerance_s: float
) -> str:
    """Return the id of a delivery that MLflow made.

    The signature covers the id, so a repeated delivery has the same id.

    Args:
        headers: headers of the request, by lower-case name.
        body: the body as received.
        secrets: the accepted secrets.
        now_s: seconds since 1970.
        tolerance_s: largest distance of the delivery's time from now, seconds.

    Raises:
        Forged: a header is missing, the time is too far from now, or no secret gives that signature.
    """
    given = [headers.get(name, "") for name in (SIGNATURE, DELIVERY_ID, TIMESTAMP)]
    signature, delivery_id, timestamp = given
    if not all(given):
        raise Forged(
            "The delivery is not signed: X-MLflow-Signature, -Delivery-Id and -Timestamp are needed."
        )
    if not re.fullmatch("[A-Za-z0-9-]{1,64}", delivery_id) or not re.fullmatch("[0-9]{1,12}", timestamp):
        raise Forged("The delivery's id or time is not as MLflow writes it.")
    # Every secret is tried, so that the duration does not reveal which one fits.
    expected = [sign(secret, delivery_id, timestamp, body).encode() for secret in secrets]
    if not sum(hmac.compare_digest(signature.encode(), one) for one in expected):
        raise Forged("The signature is wrong: it was made with another secret, or the delivery was changed.")
    off_s = now_s - int(timestamp)
    if abs(off_s) > tolerance_s:
        raise Forged(
            f"The delivery was signed {abs(off_s):.0f} s {'ago' if off_s > 0 else 'ahead of this clock'}; "
            f"{tolerance_s:.0f} s are allowed. It is a repeated one, or the clocks differ."
        )
    return delivery_id
