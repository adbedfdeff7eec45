"""Checks of single settings: each takes variable, value and default, and raises for a wrong value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import Misconfigured
from ..rules.web_address import fault, remedy, shown

Check = Callable[[str, Any, Any], None]
"""A check of one setting, given where the setting is declared: ``setting(..., check=share)``.

Arguments: variable, value, default."""


def one_of(*choices: str) -> Check:
    """Return the check that a text is one of the choices."""

    def check(variable: str, value: str, default: str) -> None:
        if value not in choices:
            *first, last = map(repr, choices)
            raise Misconfigured(
                f"{variable}={value!r} is neither {', '.join(first)} nor {last}.",
                hint=f"Unset it for the default, {default}.",
            )

    return check


def at_least(minimum: float) -> Check:
    """Return the check that a number is not below the minimum."""

    def check(variable: str, value: float, default: float) -> None:
        if value < minimum:
            raise Misconfigured(
                f"{variable}={value:g} is less than {minimum:g}.", hint="Unset it for the default."
            )

    return check


def at_most(maximum: float, words: str) -> Check:
    """Return the check that a number is not above the maximum.

    Args:
        maximum: the largest value, in the unit of the setting.
        words: the same value in words, such as "30 days".
    """

    def check(variable: str, value: float, default: float) -> None:
        if value > maximum:
            raise Misconfigured(
                f"{variable}={value:g} is more than {words}.",
                hint=f"Use {maximum:g} at most; unset it for the default, {default:g}.",
            )

    return check


def within(minimum: float, maximum: float) -> Check:
    """Return the check that a number is in a range, both ends included."""

    def check(variable: str, value: float, default: float) -> None:
        if not minimum <= value <= maximum:
            raise Misconfigured(
                f"{variable}={value:g} is not {minimum:g} to {maximum:g}.",
                hint=f"Unset it for the default, {default:g}.",
            )

    return check


def share(variable: str, value: float, default: float) -> None:
    """Check that a number is a share of requests, 0 to 1."""
    if value > 1:
        raise Misconfigured(
            f"{variable}={value:g} is more than all requests.",
            hint="Write a share: 0.01 for one of a hundred.",
        )


def web_address(variable: str, value: str, default: str) -> None:
    """Check that a text is empty or an ``http://`` or ``https://`` address."""
    if value and (why := fault(value)):
        raise Misconfigured(f"{variable}={shown(value)!r} is {why}.", hint=remedy(value))


def web_addresses(variable: str, value: Iterable[str], default: object) -> None:
    """Check that each text is an ``http://`` or ``https://`` address."""
    for url in value:
        if why := fault(url):
            raise Misconfigured(f"{variable} has {shown(url)!r}, which is {why}.", hint=remedy(url))


def is_address(text: str) -> bool:
    """Whether a text is ``host:port``, without a scheme, a user or a path."""
    host, _, port = text.rpartition(":")
    named = re.fullmatch(r"\[[0-9A-Fa-f:.%]+\]|[^\s/@:\[\]]+", host) is not None
    return named and re.fullmatch("[0-9]{1,5}", port) is not None and 0 < int(port) < 65536
