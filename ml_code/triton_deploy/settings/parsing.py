"""Parses the text of an environment variable: a number, a list, a path of this machine or plain text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import Misconfigured
from ..rules.web_address import HIDDEN, shown

MOST_SECONDS = 1e9
"""Longest time of a setting, seconds (thirty years): the system's clocks and timers take little more."""
MOST = 2**62
"""Largest count or size of a setting: above those of every machine."""


def kubernetes_address(text: str) -> str:
    """Return a text that is an address as Kubernetes or a link of Docker writes it; else an empty text."""
    return text if re.fullmatch(r"(?:tcp|udp|sctp)://[^\s,]*", text) else ""


def of_kubernetes(variable: str, address: str) -> Misconfigured:
    """Return the error for a setting into which Kubernetes or Docker wrote the address of a Service."""
    service = variable.removesuffix("_PORT").lower().replace("_", "-")
    if variable.endswith("_PORT"):
        return Misconfigured(
            f"{variable}={shown(address)} is what Kubernetes tells every pod of a Service called {service!r}, not a setting.",
            hint=f"Set enableServiceLinks: false in the pod, rename the Service, or set {variable} in the pod to what is meant.",
        )
    return Misconfigured(
        f"{variable}={shown(address)} begins with {address.partition('://')[0]}://, as Kubernetes and Docker write addresses of "
        "Services: no setting is written so.",
        hint=f"Set {variable} to what is meant, and leave that scheme out.",
    )


def parse(variable: str, text: str, default: Any) -> Any:
    """Return the value of a text, by the type of the setting's default; raises Misconfigured."""
    if isinstance(default, (int, float)):
        return _number(variable, text, default)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return _path(variable, text) if default is None else text


def _number(variable: str, text: str, default: float) -> float:
    number = None
    if text.isascii() and "_" not in text:
        try:
            number = type(default)(text)
        except ValueError:
            number = None
    if number is None or not 0 <= number < float("inf"):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise Misconfigured(
            f"{variable}={_cut(text)!r} is not {kind} of 0 or more.",
            hint=f"Unset it for the default, {default}.",
        )
    if number > (MOST if isinstance(default, int) else MOST_SECONDS):
        raise Misconfigured(
            f"{variable}={_cut(text)} is more than any machine has.",
            hint=f"Unset it for the default, {default}.",
        )
    return number


def _path(variable: str, text: str) -> Path:
    """Return a path of this machine. A URL is no path, and only a shell expands ``~``."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    if scheme and scheme[1].lower() == "file":
        raise Misconfigured(
            f"{variable}={shown(text)} is a URL, and a path of this machine is wanted.",
            hint=f"Leave the scheme out: {variable}={re.sub('^file:/+', '/', text, flags=re.IGNORECASE)}",
        )
    if scheme:
        raise Misconfigured(
            f"{variable}={shown(text)} is a URL, and a path of this machine is wanted.",
            hint=_NO_STORE
            if variable == "TRITON_DEPLOY_REPOSITORY"
            else "Copy it to this machine, and write its path.",
        )
    if text.startswith("~") or "\0" in text:
        raise Misconfigured(
            f"{variable}={_cut(text)!r} is no path: only a shell knows what '~' stands for.",
            hint="Write the path from the root on.",
        )
    return Path(text)


_NO_STORE = (
    "Triton may serve from an object store, but a deploy can't be made safe in one: it needs link(2) and rename(2). Use a folder that "
    "the deployer shares with every Triton (a local disk, NFS 4, a ReadWriteMany volume), and start Triton with it."
)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + HIDDEN
