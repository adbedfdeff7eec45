#!/usr/bin/env python3
"""Writes `.env` for docker-compose.yml: a copy of `.env.example` in which every secret is a fresh one.

Needs nothing but Python 3.6. May be run again: what an `.env` sets stays, its secrets are those of the
databases that were made with it; what a newer version of this file needs besides is added.
"""

import base64
import os
import re
import secrets
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

MAKERS = {
    # URL-safe, so that it can stand in a database's URL as it is; MinIO takes no more than 40 characters,
    # and 20 of a name.
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


def missing(example: str, there: str) -> str:
    """Return the example's lines with a secret, filled, of the names that are not set there."""
    names = set(re.findall(r"^\s*(?:export\s+)?(\w+)[ \t]*=[ \t]*[^\s#]", there, flags=re.MULTILINE))
    secret = re.findall(r"^(\w+)(=\s*# secret: \w+)$", example, flags=re.MULTILINE)
    return "".join(filled(name + rest) + "\n" for name, rest in secret if name not in names)


def main() -> int:
    """Write the file, or add to it what it lacks; returns the exit status."""
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, ".env")
    with open(os.path.join(ROOT, ".env.example")) as file:
        example = file.read()
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return complete(target, example)
    with os.fdopen(descriptor, "w") as file:
        file.write(filled(example))
    print(f"wrote {target}, for you alone to read")
    return 0


def complete(target: str, example: str) -> int:
    """Add to a file the secrets of a newer example; what it sets stays. Returns the exit status."""
    with open(target) as file:
        there = file.read()
    added = missing(example, there)
    if added:
        with open(target, "a") as file:
            file.write(("" if there.endswith("\n") or not there else "\n") + added)
        names = [line.partition("=")[0] for line in added.splitlines()]
        print(f"added to {target}: {', '.join(names)}")
    print(f"{target} was there: what it set stays, the databases that were made with it know its passwords")
    return 0


if __name__ == "__main__":
    sys.exit(main())
