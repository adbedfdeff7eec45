"""Writes records as the JSON that ``reader`` reads, in this version of the package or another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from . import reader
from .bake_record import Bake
from .deployment import Deployment, Failure
from .reconcile_note import ReconcileNote
from .release import Release

ADDED: Mapping[str, tuple[str, ...]] = {
    "canary": ("triton", "tritons", "key", "waits", "told", "held_utc", "held_for", "unjudged", "counted"),
    "failure": ("suspect",),
}
"""Fields that later versions added to a part of a deployment. They are written beside the part, as
``<part>_added``: earlier code can't read a part with a field that it does not know."""


def to_json(record: Deployment | Release | Failure | Bake | ReconcileNote, before: str = "") -> str:
    """Return a record as the text that its file holds.

    Args:
        record: the record.
        before: text of the preceding record: fields that a newer version of this package wrote there are
            kept.
    """
    data = asdict(record)
    for part, names in ADDED.items():
        if data.get(part):
            data[part + reader.ADDED] = {name: data[part].pop(name) for name in names}
    if before:
        data = reader.keeping(data, before, type(record))
    return json.dumps(data, indent=2) + "\n"
