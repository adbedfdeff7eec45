"""Reads the JSON that this package wrote, in this version or another, into its dataclasses.

Pure rules: standard library only, no I/O. A field that a class does not know was written by a newer
version, and is ignored at any depth; a record that is written again keeps such fields, see ``keeping``.
This module alone checks what the code relies on: types, and with the ``Annotated`` types below also
ranges and forms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .names import MAX_VERSION, MIN_VERSION, is_deploy_id

T = TypeVar("T")

ADDED = "_added"
"""Suffix of the object beside a part with the fields that later versions added to that part: see
``writer.ADDED``."""


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_inside(path: str) -> bool:
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")


def _limit(what: str, holds: Callable[[Any], bool]) -> tuple[str, Callable[[Any], bool]]:
    return what, holds


Version = Annotated[
    int,
    _limit(
        f"a version from {MIN_VERSION} to {MAX_VERSION}", lambda number: MIN_VERSION <= number <= MAX_VERSION
    ),
]
"""A model version."""
Generation = Annotated[int, _limit("a number from 1 on", lambda number: 1 <= number < 2**63)]
"""A release's number."""
Count = Annotated[int, _limit("a number from 0 on", lambda number: 0 <= number < 2**63)]
"""A number of things, or of bytes."""
Moment = Annotated[str, _limit("a time in ISO 8601 with its offset from UTC", _is_moment)]
"""A moment as text."""
MomentOrEmpty = Annotated[
    str,
    _limit("empty or a time in ISO 8601 with its offset from UTC", lambda text: not text or _is_moment(text)),
]
"""A moment as text, or empty."""
DeployId = Annotated[str, _limit("a deployment's id", is_deploy_id)]
"""A deployment's id, which becomes part of a path."""
InnerPath = Annotated[str, _limit("a path inside its directory", _is_inside)]
"""A path below a directory."""

PLAIN: Mapping[type, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def decode(text: str, cls: type[T]) -> T:
    """Read one object of ``cls`` from JSON.

    Raises:
        ValueError: ``text`` is not JSON, or not such an object; the message names the field.
    """
    return record(parsed(text), cls)


def record(data: Mapping[str, Any], cls: type[T], where: str = "") -> T:
    """Return an object of ``cls`` with the fields of a decoded JSON object that ``cls`` knows.

    Args:
        data: the decoded object.
        cls: a dataclass whose fields are plain types, enumerations, ``Annotated`` types of this module,
            other such dataclasses, or tuples and mappings of them.
        where: the object's name with a dot, for messages.

    Raises:
        ValueError: a field is missing, or does not fit its type in ``cls``; the message names the field.
    """
    kinds = _kinds(cls)
    missing = [field.name for field in fields(cast(Any, cls)) if _required(field) and field.name not in data]
    if missing:
        raise ValueError(f"fields are missing: {', '.join(where + name for name in missing)}")
    parts = _parts(cls)
    values = {}
    for name in kinds.keys() & data.keys():
        value = data[name]
        if name in parts and isinstance(value, dict):
            beside = data.get(name + ADDED, {})
            if not isinstance(beside, dict):
                raise _wrong(where + name + ADDED, "an object", beside)
            value = value | beside
        values[name] = _value(value, kinds[name], where + name)
    return cls(**values)


def keeping(data: Mapping[str, Any], before: str, cls: type[Any]) -> dict[str, Any]:
    """Add the unknown fields of the preceding record to a record that is about to be written.

    Args:
        data: the new record, a ``cls`` as JSON values.
        before: the text of the preceding record, which a newer version may have written.
        cls: the class of both.

    Returns:
        ``data`` with the fields of ``before`` that ``cls`` does not know, each in its place. The unknown
        fields of a part are kept only if the part is the same, by its required fields: a new failure
        inherits nothing from the one before.

    Raises:
        ValueError: ``before`` is not a JSON object.
    """
    old = parsed(before)
    kept = dict(data)
    parts = _parts(cls)
    known = _kinds(cls).keys()
    for name, value in old.items():
        part = name.removesuffix(ADDED)
        if part in parts:
            now = kept.get(part)
            if (
                isinstance(value, dict)
                and isinstance(now, dict)
                and _is_same(now, old.get(part), parts[part])
            ):
                unknown = {key: one for key, one in value.items() if key not in _kinds(parts[part])}
                if unknown:
                    kept[name] = unknown | kept.get(name, {})
        elif name not in known:
            kept.setdefault(name, value)
    return kept


def parsed(text: str) -> dict[str, Any]:
    """Return a JSON object as plain values; raises ValueError when ``text`` is not an object."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError("it is empty" if not text.strip() else f"it is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"a JSON object was expected, not {_shown(data)}")
    return data


def _value(value: object, kind: Any, where: str) -> object:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        what, holds = arguments[1]
        if isinstance(value, bool) or not isinstance(value, arguments[0]) or not holds(value):
            raise _wrong(where, what, value)
        return _value(value, arguments[0], where)
    if origin in (Union, UnionType):
        inner = next(one for one in arguments if one is not NoneType)
        return None if value is None else _value(value, inner, where)
    if origin is tuple:
        # A record that was not written yet has a tuple.
        if not isinstance(value, list | tuple):
            raise _wrong(where, "a list", value)
        return tuple(_value(one, arguments[0], f"{where}[{place}]") for place, one in enumerate(value))
    if kind is not Any and (origin is not None or is_dataclass(kind)):
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        if is_dataclass(kind):
            return record(value, cast(type[Any], kind), f"{where}.")
        return {key: _value(one, arguments[1], f"{where}.{key}") for key, one in value.items()}
    return _plain(value, kind, where)


def _plain(value: object, kind: Any, where: str) -> object:
    if kind is Any:
        return value
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise _wrong(
                where, f"one of {', '.join(kind)}, which is all that this version knows", value
            ) from None
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (kind is not bool and isinstance(value, bool)):
        raise _wrong(where, PLAIN[kind], value)
    if kind is float and not _is_finite(cast(float, value)):
        raise _wrong(where, "a finite number", value)
    if kind is str and not _is_text(cast(str, value)):
        raise _wrong(where, "text that UTF-8 can hold", value)
    return value


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _is_text(text: str) -> bool:
    # JSON can name one half of a UTF-16 surrogate pair.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _wrong(where: str, what: str, value: object) -> ValueError:
    return ValueError(f"{where} is {_shown(value)}, and has to be {what}")


def _shown(value: object) -> str:
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        return "something that can't be shown"
    return text if len(text) <= 60 else f"{text[:60]}…"


def _find_kinds(cls: type[Any]) -> Mapping[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


_kinds: Callable[[type[Any]], Mapping[str, Any]] = cast(Any, cache(_find_kinds))
"""Returns the types of a dataclass's fields, by name."""


def _find_parts(cls: type[Any]) -> Mapping[str, type[Any]]:
    return {
        name: one
        for name, kind in _kinds(cls).items()
        for one in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,))
        if is_dataclass(one) and isinstance(one, type)
    }


_parts: Callable[[type[Any]], Mapping[str, type[Any]]] = cast(Any, cache(_find_parts))
"""Returns the fields that hold one object of another dataclass, with that class."""


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _is_same(now: Mapping[str, Any], before: object, cls: type[Any]) -> bool:
    names = [field.name for field in fields(cls) if _required(field)]
    # A record that was read has lists where a record that was not written yet has tuples.
    one, other = (
        {name: thing.get(name) for name in names} for thing in (now, cast(Mapping[str, Any], before or {}))
    )
    return bool(json.dumps(one) == json.dumps(other))
