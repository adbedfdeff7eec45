"""The queries of a bake: PromQL with places for model, version and window, in a file that users may edit."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from ..errors import Misconfigured

DEFAULT = Path(__file__).with_name("queries.toml")
SOURCE_QUERIES = ("requests", "failures", "latency_s")
MORE_QUERIES = (
    "clients",
    "clients_failed",
    "both",
    "alone",
    "load",
    "rows_requests",
    "rows_latency_s",
)
"""Queries that a source may have besides; queries.toml explains each."""
BEYOND = "beyond"
ROWS = ("1", "10", "100", "1000", "more")
"""Classes of requests by their number of rows: the values of the label ``rows`` in the gateway's metrics."""
PLACES = frozenset(("model", "version", "window", "offset"))
ROWS_PLACE = "rows"
_PAIRS = (("clients", "clients_failed"), ("both", "alone"), ("rows_requests", "rows_latency_s"))
_OF_ROWS = frozenset(("rows_requests", "rows_latency_s"))
_SECTIONS = frozenset(("sources", "checks"))


@dataclass(frozen=True)
class Span:
    """The version and the window of time that a query is about.

    Attributes:
        model: name of the model.
        version: the version.
        window_s: length of the window, seconds.
        offset_s: time from the end of the window to now, seconds.
    """

    model: str
    version: int
    window_s: int
    offset_s: int = 0

    def fill(self, query: str, rows: str = "") -> str:
        """Return a query with its places filled; ``rows`` is one of ``ROWS``, for queries by rows."""
        offset = f"offset {self.offset_s}s" if self.offset_s else ""
        return Template(query).substitute(
            model=self.model, version=self.version, window=f"{self.window_s}s", offset=offset, rows=rows
        )

    def until(self, ago_s: int) -> Span:
        """Return the span without its last ``ago_s`` seconds."""
        return replace(self, window_s=self.window_s - ago_s, offset_s=self.offset_s + ago_s)


@dataclass(frozen=True)
class QueryCheck:
    """A user's own query: the release is bad while its value is above ``limit``."""

    name: str
    query: str
    limit: float


@dataclass(frozen=True)
class Queries:
    """All queries of a bake: those of each source, by the source's name, and the user's checks."""

    sources: Mapping[str, Mapping[str, str]]
    checks: tuple[QueryCheck, ...] = ()

    @classmethod
    def read(cls, path: Path | None = None, default: Path = DEFAULT) -> Queries:
        """Read a file of queries.

        Args:
            path: the file; None for the default.
            default: the package's own file.

        Raises:
            Misconfigured: the file can't be read, or has wrong content; the text says where.
        """
        path = path or default
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _unusable(path, f"it can't be read: {error}") from error
        try:
            return cls.parse(content)
        except ValueError as error:
            raise _unusable(path, str(error)) from error

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Queries:
        """Return the queries of a parsed TOML file; raises ValueError for wrong content."""
        if unknown := sorted(content.keys() - _SECTIONS):
            raise ValueError(f"{unknown[0]!r} is neither 'sources' nor 'checks'")
        sources, checks = content.get("sources", {}), content.get("checks", [])
        if not isinstance(sources, dict) or not isinstance(checks, list):
            raise ValueError("it holds tables [sources.<name>] and [[checks]]")
        if not sources:
            raise ValueError("it has no [sources.<name>]: nothing could be judged")
        read = {name: _source(name, table) for name, table in sources.items()}
        for name, table in read.items():
            if table.get(BEYOND, name) not in list(read)[: list(read).index(name) + 1]:
                raise ValueError(f"[sources.{name}] {BEYOND}: {table[BEYOND]!r} is no source above it")
        return cls(read, tuple(_check(number, table) for number, table in enumerate(checks, 1)))


def _source(name: str, table: Any) -> Mapping[str, str]:
    where = f"[sources.{name}]"
    if not isinstance(table, dict) or not table.keys() >= set(SOURCE_QUERIES):
        raise ValueError(f"{where} has to have {', '.join(SOURCE_QUERIES)}")
    if unknown := sorted(table.keys() - {*SOURCE_QUERIES, *MORE_QUERIES, BEYOND}):
        more = ", ".join((*MORE_QUERIES, BEYOND))
        raise ValueError(
            f"{where} has {unknown[0]!r}; beside {', '.join(SOURCE_QUERIES)} it may have {more}, and nothing else"
        )
    for one, other in _PAIRS:
        if (one in table) != (other in table):
            raise ValueError(f"{where} has to have both of {one} and {other}, or none")
    return {key: _query(table[key], f"{where} {key}", is_of_rows=key in _OF_ROWS) for key in table}


def _check(number: int, table: Any) -> QueryCheck:
    where = f"[[checks]] number {number}"
    if not isinstance(table, dict) or table.keys() != {"name", "query", "max"}:
        raise ValueError(f"{where} has to have name, query and max, and nothing else")
    name, limit = table["name"], table["max"]
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: its name has to be text")
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
        raise ValueError(f"{where}: max has to be a number")
    return QueryCheck(name, _query(table["query"], where), float(limit))


def _query(text: Any, where: str, *, is_of_rows: bool = False) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: the query has to be text")
    template = Template(text)
    if not template.is_valid():
        raise ValueError(f"{where}: a '$' stands before no name; write '$$' for one in the query itself")
    places = PLACES | {ROWS_PLACE} if is_of_rows else PLACES
    if unknown := sorted(set(template.get_identifiers()) - places):
        known = ", ".join(f"${place}" for place in sorted(places))
        raise ValueError(f"{where}: ${unknown[0]} is none of {known}")
    return text.strip()


def _unusable(path: Path, what: str) -> Misconfigured:
    return Misconfigured(
        f"The queries of the bake in {path} can't be used: {what}.",
        hint="Correct the file; docs/bake.md and the comments in the shipped one say what it holds.",
    )
