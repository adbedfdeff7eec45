"""Markdown tables, as the documents and the command line show them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; a column may have no name."""
    names = "|".join(f" {name} " if name else " " for name in head)
    lines = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return "\n".join([f"|{names}|", "|---" * len(head) + "|", *lines])
