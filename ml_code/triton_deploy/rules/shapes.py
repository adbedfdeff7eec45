"""The shapes that a Triton reports of a model, and those of the deployer's ONNX Runtime. Pure rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .schema import Schema
from .version_files import Manifest


@dataclass(frozen=True)
class Reported:
    """The shapes of a model in one Triton.

    Attributes:
        schema: the model's schema with those shapes.
        server: that Triton's version and address.
    """

    schema: Schema
    server: str


def is_open(schema: Schema) -> bool:
    """Whether a tensor has a size that is not fixed: only then can two runtimes infer different shapes."""
    return any(-1 in tensor.shape for tensor in (*schema.inputs, *schema.outputs))


def differences(ours: Schema, reported: Schema) -> list[str]:
    """Return, as phrases, every tensor whose shape differs.

    Args:
        ours: the schema of the deployer.
        reported: the schema of a Triton, with the same tensors.
    """
    pairs = zip((*ours.inputs, *ours.outputs), (*reported.inputs, *reported.outputs), strict=True)
    return [
        f"{known.name} is {list(found.shape)} there and {list(known.shape)} here"
        for known, found in pairs
        if known.shape != found.shape
    ]


def shape_facts(ours: Schema, reported: Reported, runtime: str) -> dict[str, Any]:
    """Return what a deployment records of shapes that it takes over from a Triton.

    Args:
        ours: the schema of the deployer.
        reported: the shapes of that Triton.
        runtime: version of the deployer's ONNX Runtime.
    """
    return {
        "triton": reported.server,
        "onnxruntime": runtime,
        "differences": differences(ours, reported.schema),
        # Plain JSON values: a record is compared with the same record as it is read.
        "schema": json.loads(json.dumps(reported.schema.to_dict())),
        "inferred": json.loads(json.dumps(ours.to_dict())),
    }


def with_facts(manifest: Manifest, facts: Mapping[str, Any]) -> Manifest:
    """Return a version's manifest with recorded shapes."""
    return replace(manifest, schema=facts["schema"], inferred=facts["inferred"])


def known_shapes(inferred: Schema, live: Manifest | None) -> Schema:
    """Return the shapes that Triton has of a model, if the live version shows them.

    Args:
        inferred: the model's schema as the deployer's ONNX Runtime has it.
        live: the manifest of the live version.

    Returns:
        The live version's schema, if Triton's shapes took the place of just these; else ``inferred``.
    """
    if live is None or not live.inferred or Schema.from_dict(live.inferred) != inferred:
        return inferred
    return Schema.from_dict(live.schema)


def told(facts: Mapping[str, Any]) -> str:
    """Return the facts of ``shape_facts`` in a line; empty without any."""
    if not facts:
        return ""
    return f"shapes of Triton {facts['triton']}, not of ONNX Runtime {facts['onnxruntime']}: {'; '.join(facts['differences'])}"
