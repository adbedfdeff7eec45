#!/usr/bin/env python3
"""Writes `.env` for docker-compose.yml: a copy of `.env.example` in which every secret is a fresh one.

Needs nothing but Python 3.6. Never overwrites: the secrets in an `.env` are those of the databases that were made with it.
"""

import base64
import os
import re
import secrets
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

MAKERS = {
    # URL-safe, so that it can stand in a database's URL as it is; MinIO takes no more than 40 characters, and 20 of a name.
    "hex": lambda: secrets.token_hex(20),
    "name": lambda: secrets.token_hex(8),
    "long": lambda: secrets.token_hex(64),
    "fernet": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
}


def filled(example: str) -> str:
    """Return the example with a fresh secret for every line `NAME=  # secret: hex`."""
    return re.sub(
        r"^(\w+)=\s*# secret: (\w+)$",
        lambda found: f"{found.group(1)}={MAKERS[found.group(2)]()}",
        example,
        flags=re.MULTILINE,
    )


def main() -> int:
    """Write the file; returns the exit status."""
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, ".env")
    with open(os.path.join(ROOT, ".env.example")) as file:
        text = filled(file.read())
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{target} is there: it is not overwritten, the databases know its passwords", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    print(f"wrote {target}, for you alone to read")
    return 0


if __name__ == "__main__":
    sys.exit(main())
