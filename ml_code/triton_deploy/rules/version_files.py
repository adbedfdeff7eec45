"""The files of a version and their digest: a contract of training, gate, gateway and deployer. Pure rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from . import reader
from .reader import Count, InnerPath, Version
from .schema import Offer, Schema

MODEL_FILE = "model.onnx"
SERVING_EXAMPLE = "serving_input_example.json"
GOLDEN = "triton/golden.json"
OPTIONS = "triton/config.json"
MOST_BYTES = {GOLDEN: 64 << 20, OPTIONS: 1 << 20}
"""Largest size of these files, bytes: as parsed JSON they take several times that in memory."""
MOST_EXAMPLE_BYTES = 64 << 20
"""Largest size of an input example, bytes."""
SMOKE_CASE = "smoke.json"
"""File of the smoke test's inputs and expected answers, in the version's directory of the repository."""

DIGEST_TAG = "triton_deploy.digest"
"""Model version tag in which training records the digest of the logged files."""


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
    """Content and origin of a version's directory; written last, before the directory gets its final name.

    Attributes:
        version: model version.
        digest: sha256 over the artifact's files, their names, sizes and sha256 (see ``tree_digest``).
        fingerprint: identity of the source before its bytes were read (``deployment.Pinned``).
        artifact_uri: location that the files were read from.
        run_id: MLflow run.
        deploy_id: deployment that installed the version; no other deployment may quarantine it.
        files: the artifact's files and the smoke case, which earlier code left out.
        schema: inputs and outputs as ``Schema.to_dict`` gives them.
        options: the user's Triton options that travelled with the version.
        inferred: inputs and outputs as the deployer's ONNX Runtime has them, where a Triton's shapes took
            their place in ``schema``; else empty.
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
    inferred: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text of a manifest's file; raises ValueError when it is no manifest."""
        manifest = reader.decode(text, cls)
        # Other code parses the schema where it needs it: check it here.
        Schema.from_dict(manifest.schema)
        return manifest

    def to_json(self) -> str:
        """Return the text of the manifest's file.

        ``inferred`` is in it only where it has something: earlier code refuses a manifest with a field that
        it does not know.
        """
        fields = asdict(self)
        if not self.inferred:
            del fields["inferred"]
        return json.dumps(fields, indent=2) + "\n"

    @property
    def offer(self) -> Offer:
        """What the version offers to clients."""
        return Offer(Schema.from_dict(self.schema), self.options)


def tree_digest(files: Iterable[FileEntry]) -> str:
    """Return the digest of files: sha256 over a line ``<sha256>  <size>  <path>`` each, sorted by path."""
    lines = sorted(f"{file.sha256}  {file.size_bytes}  {file.path}\n" for file in files)
    lines.sort(key=lambda line: line.split("  ", 2)[2])
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def source_fingerprint(uri: str, files: Iterable[RemoteFile]) -> str:
    """Return the identity of an artifact before its bytes are read: sha256 over its location and listing."""
    listing = [uri, sorted((file.path, file.size_bytes) for file in files)]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
