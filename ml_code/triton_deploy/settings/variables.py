"""Environment variables that look like a setting and are none: a misspelt one silently leaves a default."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import Misconfigured
from .environment import FromEnvironment
from .parsing import kubernetes_address

log = logging.getLogger(__name__)

NEAR_EDITS = 2
"""Largest number of letters changed, left out, added or swapped in a misspelt name."""
LONG = 10
"""Length from which on a prefix is not met by chance in another program's variable, even misspelt."""
CORRECT = "Correct the name, or unset it: nothing is changed with another value than was meant."
SHOWN = 3
"""Largest number of settings that a message proposes for a name."""

_OF_KUBERNETES = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(?:_[A-Z0-9_]+)?$|_PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PORT|PROTO|ADDR))?$"
)
"""Variables that Kubernetes sets in every pod for each Service of the namespace, beside ``…_PORT``."""


@dataclass(frozen=True)
class Unknown:
    """A variable with the prefix of a setting, or nearly its name, that is none.

    Attributes:
        name: name of the variable.
        meant: the settings that may be meant, the likeliest first.
        misspelt: whether the first of them differs by so few letters that it must be meant.
    """

    name: str
    meant: tuple[str, ...]
    misspelt: bool

    def __str__(self) -> str:
        which = f" Did you mean {' or '.join(self.meant)}?" if self.meant else ""
        return f"{self.name} is set, and no setting has that name: it changes nothing.{which}"


def unknown(
    environ: Mapping[str, str], settings: Iterable[type[FromEnvironment]], also: Collection[str] = ()
) -> list[Unknown]:
    """Return the variables that look like a setting and are none, in the order of their names.

    Args:
        environ: the variables.
        settings: the classes that read them; ``_prefix`` gives the prefixes of their variables.
        also: further names that are known.
    """
    known = {f.metadata["variable"] for one in settings for f in one.declared()}
    prefixes = {prefix for name in known if (prefix := _prefix(name))}
    ours = [name for name in known if _prefix(name)]
    found = []
    for name in sorted(environ):
        if name in known or name in also or not environ[name].strip() or _is_of_kubernetes(name, environ):
            continue
        near = _near(name.upper(), ours) if _has_nearly(name.upper(), prefixes) else []
        if near or name.upper().startswith(tuple(prefixes)):
            found.append(Unknown(name, tuple(near[:1] or _alike(name.upper(), ours)), bool(near)))
    return found


def check(
    settings: Iterable[type[FromEnvironment]],
    *,
    changes: bool,
    environ: Mapping[str, str] | None = None,
    also: Collection[str] = (),
) -> None:
    """Log each variable that looks like a setting and is none.

    Args:
        settings: see ``unknown``.
        changes: whether the command changes something, so that a misspelt name is refused.
        environ: the variables; those of the process by default.
        also: see ``unknown``.

    Raises:
        Misconfigured: a name is misspelt, and ``changes`` is true.
    """
    found = unknown(os.environ if environ is None else environ, settings, also)
    misspelt = [one for one in found if one.misspelt]
    if misspelt and changes:
        raise Misconfigured(" ".join(map(str, misspelt)), hint=CORRECT)
    for one in found:
        log.warning("%s", one)


def _prefix(variable: str) -> str:
    """Return the project's prefix of a setting; empty for other names, such as MLFLOW_TRACKING_URI."""
    found = re.match(r"TRITON_(?:DEPLOY|EVENTS)_|GATEWAY_|GATE_|RETRAIN_", variable)
    return found[0] if found else ""


def _is_of_kubernetes(name: str, environ: Mapping[str, str]) -> bool:
    if _OF_KUBERNETES.search(name):
        return True
    return name.endswith("_PORT") and bool(kubernetes_address(environ[name].strip()))


def _has_nearly(name: str, prefixes: Collection[str]) -> bool:
    """Whether a name begins with a prefix, or with a misspelling of a prefix that is longer than ``LONG``."""
    return any(
        name.startswith(prefix)
        or (len(prefix) > LONG and edits(name[: len(prefix)], prefix, NEAR_EDITS) <= NEAR_EDITS)
        for prefix in prefixes
    )


def _near(name: str, known: Collection[str]) -> list[str]:
    """Return the settings that a name misspells, the nearest first."""
    counted = sorted((edits(name, other, NEAR_EDITS), other) for other in known)
    return [other for count, other in counted if count <= NEAR_EDITS]


def _alike(name: str, known: Collection[str]) -> list[str]:
    """Return the settings that resemble a name beyond the prefix, the likeliest first."""
    prefix = _prefix(name)
    rests = {other.removeprefix(prefix): other for other in known if other.startswith(prefix)}
    return [rests[rest] for rest in get_close_matches(name.removeprefix(prefix), rests, n=SHOWN)]


def edits(one: str, other: str, most: int) -> int:
    """Return the number of letters changed, left out, added, or swapped with a neighbour between two texts.

    Args:
        one: a text.
        other: another text.
        most: where counting ends; for more, the function returns ``most + 1`` or more.
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, against in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != against))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == against:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return row[-1]
