"""What a version consists of, and by which digest it is known: the contract between training, gate, gateway and deployer. Pure rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from . import reader
from .reader import Count, InnerPath, Version
from .schema import Schema

MODEL_FILE = "model.onnx"
SERVING_EXAMPLE = "serving_input_example.json"
GOLDEN = "triton/golden.json"
OPTIONS = "triton/config.json"
MOST_BYTES = {GOLDEN: 64 << 20, OPTIONS: 1 << 20}
"""Sizes over which these files are not read: as JSON they take several times that in memory."""
MOST_EXAMPLE_BYTES = 64 << 20
"""Size over which an input example is not read."""
SMOKE_CASE = "smoke.json"
"""The golden inputs that the version is tried with, in its directory of the repository."""

DIGEST_TAG = "triton_deploy.digest"
"""Model version tag in which training records the digest of what it logged."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of an artifact directory: path relative to it, size in bytes."""

    path: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a version: path relative to its directory, size in bytes, sha256 in hex."""

    path: InnerPath
    size_bytes: Count
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a version directory holds and where it came from; written last, before the directory gets its name.

    Attributes:
        version: model version.
        digest: sha256 over the artifact's files, their names, sizes and sha256 (see ``tree_digest``).
        fingerprint: identity of the source before its bytes were read (``deployment.Pinned``).
        artifact_uri: where the files came from.
        run_id: MLflow run.
        deploy_id: deployment that installed it, which alone may quarantine it.
        files: the artifact's files, and the smoke case; earlier code left that one out.
        schema: inputs and outputs as ``Schema.to_dict`` gives them.
        options: the user's Triton options that travelled with the version.
    """

    version: Version
    digest: str
    fingerprint: str
    artifact_uri: str
    run_id: str
    deploy_id: str
    files: tuple[FileEntry, ...]
    schema: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Take a manifest out of its file's text; raises ValueError when it is none."""
        manifest = reader.decode(text, cls)
        # Read wherever it is needed: here it is known to be one.
        Schema.from_dict(manifest.schema)
        return manifest


def tree_digest(files: Iterable[FileEntry]) -> str:
    """Return the digest of a set of files: sha256 over a line ``<sha256>  <size>  <path>`` for each, sorted by path."""
    lines = sorted(f"{file.sha256}  {file.size_bytes}  {file.path}\n" for file in files)
    lines.sort(key=lambda line: line.split("  ", 2)[2])
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def source_fingerprint(uri: str, files: Iterable[RemoteFile]) -> str:
    """Return the identity of an artifact before its bytes are read: sha256 over its location and listing."""
    listing = [uri, sorted((file.path, file.size_bytes) for file in files)]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
