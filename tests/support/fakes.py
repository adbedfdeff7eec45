"""In-memory stand-ins for MLflow, S3 and Triton, held to the same contract tests as the real ones."""

from __future__ import annotations

import io
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from ml_code.triton_deploy.clients.artifacts import Source
from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.clients.triton import Index, Inference, ModelState, Phase, ServerInfo
from ml_code.triton_deploy.clients.triton.lifeline import Life
from ml_code.triton_deploy.errors import (
    AliasNotFound,
    ArtifactRejected,
    DeployError,
    Misconfigured,
    NotFound,
    Unavailable,
)
from ml_code.triton_deploy.rules.identity import Origin
from ml_code.triton_deploy.rules.standing import Registered
from ml_code.triton_deploy.rules.triton_errors import error_of
from ml_code.triton_deploy.rules.triton_errors.calls import Call, Doing
from ml_code.triton_deploy.rules.version_files import DIGEST_TAG, RemoteFile
from tests.support.ranged_server import Stored, ranged_server


class FakeRegistry:
    """Aliases in a dict; ``calls`` counts the look-ups."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, RegisteredVersion]] = {}
        self.calls = 0

    def resolve(self, model: str, alias: str) -> RegisteredVersion:
        self.calls += 1
        if model not in self.models:
            raise NotFound(f"Registered Model with name={model} not found.", hint="Check the name.")
        if alias not in self.models[model]:
            raise AliasNotFound(f"Registered model alias {alias} not found.", hint="Set it.")
        return self.models[model][alias]


class FakeBoard:
    """Tags and aliases in dicts; ``fail`` is raised by every call, ``written`` has every change of a tag.

    A version is of the run and the source in ``origins``; by default of the run that the world gives to its
    number.
    """

    def __init__(self) -> None:
        self.shelves: dict[str, dict[int, dict[str, str]]] = {}
        self.origins: dict[tuple[str, int], Origin] = {}
        self.counted: dict[str, int] = {}
        self.pointing: dict[str, dict[str, int]] = {}
        self.fail: Exception | None = None
        self.written: list[tuple[int, str, str | None]] = []

    def versions(self, model: str) -> dict[int, Registered]:
        self._answer()
        return {version: self._registered(model, version) for version in self.shelves.get(model, {})}

    def named(self, model: str, alias: str) -> Registered | None:
        version = self.aliases(model).get(alias)
        return self._registered(model, version) if version is not None else None

    def aliases(self, model: str) -> dict[str, int]:
        self._answer()
        if model not in self.shelves:
            raise NotFound(f"Registered Model with name={model} not found.", hint="Check the name.")
        return dict(self.pointing.get(model, {}))

    def set_tag(self, model: str, version: int, key: str, value: str) -> None:
        self._version(model, version)[key] = value
        self.written.append((version, key, value))

    def delete_tag(self, model: str, version: int, key: str) -> None:
        self._version(model, version).pop(key, None)
        self.written.append((version, key, None))

    def register(self, model: str, like: Registered, tags: Mapping[str, str]) -> int:
        self._answer()
        shelf = self.shelves.setdefault(model, {})
        # MLflow gives no number twice, unless the whole model was deleted.
        number = max(self.counted.get(model, 0), *shelf, 0) + 1
        self.counted[model] = number
        shelf[number] = dict(tags)
        self.origins[model, number] = replace(like.origin, digest="")
        return number

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self._version(model, version)
        self.pointing.setdefault(model, {})[alias] = version

    def delete_version(self, model: str, version: int) -> None:
        self._version(model, version)
        del self.shelves[model][version]
        pointing = self.pointing.get(model, {})
        self.pointing[model] = {alias: named for alias, named in pointing.items() if named != version}

    def make_anew(self, model: str) -> None:
        """Delete the registered model, and make an empty one of the same name."""
        self.shelves[model] = {}
        self.pointing.pop(model, None)
        self.counted.pop(model, None)
        self.origins = {key: origin for key, origin in self.origins.items() if key[0] != model}

    def _registered(self, model: str, version: int) -> Registered:
        tags = self.shelves[model][version]
        origin = self.origins.get((model, version), Origin(run_id=f"run{version}"))
        return Registered(
            version=version, origin=replace(origin, digest=tags.get(DIGEST_TAG, "")), tags=dict(tags)
        )

    def _version(self, model: str, version: int) -> dict[str, str]:
        self._answer()
        if version not in self.shelves.get(model, {}):
            raise NotFound(f"Model Version (name={model}, version={version}) not found", hint="Check it.")
        return self.shelves[model][version]

    def _answer(self) -> None:
        if self.fail is not None:
            raise self.fail


class FakeStore:
    """Artifacts in a dict, handed out by a small HTTP server that answers ranges as S3 does."""

    def __init__(self, url: str, objects: dict[str, bytes]) -> None:
        self._url = url
        self.objects = objects
        self.reads: list[str] = []

    def list_files(self, uri: str) -> list[RemoteFile]:
        prefix = uri.rstrip("/") + "/"
        return sorted(
            (
                RemoteFile(k.removeprefix(prefix), len(v))
                for k, v in self.objects.items()
                if k.startswith(prefix)
            ),
            key=lambda file: file.path,
        )

    def source(self, uri: str, path: str) -> Source:
        self.reads.append(path)
        return Source(
            f"{self._url}/{uri.rstrip('/')}/{path}".replace("fake://", ""), "the fake store", ranged=True
        )


@contextmanager
def fake_store() -> Iterator[FakeStore]:
    objects: dict[str, bytes] = {}

    def find(path: str) -> Stored | None:
        body = objects.get(f"fake://{path}")
        return None if body is None else Stored(len(body), f"{zlib.crc32(body):x}", lambda: io.BytesIO(body))

    with ranged_server(find) as url:
        yield FakeStore(url, objects)


class FakeTriton:
    """One Triton in explicit mode on a real repository folder: loads config and model files as the server does.

    ``fail`` maps an operation (``load``, ``unload``, ``ready_versions``, ``infer``), or one with a model name
    (``load best_model.v2``), to the exception that it raises. ``shapes`` maps a tensor's name to the shape that this Triton's session
    has of it, in place of ONNX Runtime's here. ``ends_at`` has those, written alike, at which its process ends, and how
    often; it is started anew at once, with what the files say.
    """

    def __init__(self, repository: Path, url: str = "fake:1") -> None:
        self.url = url
        self._repository = repository
        self._engines: dict[str, tuple[int, onnxruntime.InferenceSession]] = {}
        self._switches: dict[str, tuple[int, str]] = {}
        self._states: dict[str, str] = {}
        self._overridden_at: dict[str, float] = {}
        self._configs: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.completes = True
        self.fail: dict[str, Exception] = {}
        self.ends_at: dict[str, float] = {}
        self.starts = 1
        self.calls: list[str] = []

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        self._called("load", model)
        try:
            self._load(model, config)
        except Misconfigured:
            # A version that can't be polled gets no state.
            raise
        except DeployError as error:
            self._states[model] = f"UNAVAILABLE: {error.message}"
            raise
        self._states[model] = "READY"

    def _load(self, model: str, config: str | None) -> None:
        message = self._config_of(model, config)
        version = message.version_policy.specific.versions[0]
        if message.platform == "ensemble":
            step = message.ensemble_scheduling.step[0]
            self._switches.pop(model, None)
            if step.model_name not in self._engines:
                # The real Triton loads the members of an ensemble; a member that can't be loaded takes the
                # ensemble down.
                self._load(step.model_name, None)
                self._states[step.model_name] = "READY"
            self._switches[model] = (version, step.model_name)
            if self._is_changed(step.model_name):
                # Too late for the ensemble, which points there already.
                self._load(step.model_name, None)
            return
        try:
            path = self._repository / model / str(version) / "model.onnx"
            session = _session(path)
        except Exception as error:
            raise ArtifactRejected(f"load failed for model '{model}': {error}", hint="") from error
        self._configs[model] = self._checked(message, session)
        self._engines[model] = (version, session)
        self._overridden_at.pop(model, None)
        if config is not None:
            self._overridden_at[model] = time.time()

    def _checked(self, message: Any, session: onnxruntime.InferenceSession) -> Any:
        """Return the configuration, completed if it has no tensors; refuse shapes that are not the session's."""
        tensors = {
            role: {node.name: (node.type, self._shape_of(node)) for node in nodes}
            for role, nodes in (("input", session.get_inputs()), ("output", session.get_outputs()))
        }
        if self.completes and not (message.input and message.output):
            complete(message, tensors)
        if missing := tensors["input"].keys() - {tensor.name for tensor in message.input}:
            text = f"ModelError: unable to load model '{message.name}': input '{min(missing)}' of the file is required, but the configuration lacks it"
            raise error_of(self.url, Doing(Call.LOADING, message.name), 1, "INTERNAL", text)
        for role, known in tensors.items():
            for tensor in getattr(message, role):
                shape = known.get(tensor.name, ("", None))[1]
                said = [-1] * bool(message.max_batch_size) + list(
                    tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
                )
                if shape is not None and not _fits(role, shape, said):
                    raise error_of(
                        self.url,
                        Doing(Call.LOADING, message.name),
                        1,
                        "INTERNAL",
                        f"load failed for model '{message.name}': version 1 is at UNAVAILABLE state: Internal: ModelError: unable to "
                        f"load model '{message.name}': {role} '{tensor.name}': the file has {list(shape)}, the configuration says {said}",
                    )
        return message

    def _shape_of(self, node: Any) -> tuple[int, ...]:
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        return self.shapes.get(node.name, shape)

    def _config_of(self, model: str, config: str | None) -> Any:
        message = model_config_pb2.ModelConfig()
        if config is not None:
            return json_format.Parse(config, message)
        path = self._repository / model / "config.pbtxt"
        try:
            return text_format.Parse(path.read_text(), message)
        except (FileNotFoundError, text_format.ParseError):
            raise Misconfigured(f"failed to poll {model} from the model repository", hint="") from None

    def _is_changed(self, engine: str) -> bool:
        """Whether the file is read again of an engine whose configuration came with its load: when anything there is newer."""
        at = self._overridden_at.get(engine)
        folder = self._repository / engine
        return at is not None and any(
            max(found.st_mtime, found.st_ctime) > at
            for path in (folder, *folder.glob("*"), *folder.glob("*/*"))
            if path.exists()
            for found in [path.stat()]
        )

    def unload(self, model: str, timeout_s: float) -> None:
        self._called("unload", model)
        self._engines.pop(model, None)
        self._switches.pop(model, None)
        if model in self._states:
            self._states[model] = "UNAVAILABLE: unloaded"

    def configuration(self, model: str) -> Mapping[str, Any]:
        self._called("configuration", model)
        if model not in self._engines:
            raise NotFound(f"Request for unknown model: '{model}'", hint="")
        return dict(json_format.MessageToDict(self._configs[model], preserving_proto_field_name=True))

    def about(self) -> ServerInfo:
        self._called("about", "")
        return ServerInfo("2.51.0", ())

    def loaded(self) -> dict[str, tuple[int, ...]]:
        return dict(self.index().ready)

    def index(self) -> Index:
        self._called("loaded", "")
        ready = {name: (entry[0],) for name, entry in [*self._engines.items(), *self._switches.items()]}
        there = {name for name in self._states if _is_there(self._repository / name)}
        states = {name: state_of(text) for name, text in self._states.items() if name in there}
        return Index(ready, states)

    def ready_versions(self, model: str) -> tuple[int, ...]:
        self._called("ready_versions", model)
        loaded = self._switches.get(model) or self._engines.get(model)
        return (loaded[0],) if loaded else ()

    def states(self) -> dict[str, ModelState]:
        return dict(self.index().states)

    @contextmanager
    def lifeline(self, model: str) -> Iterator[FakeLifeline]:
        self._called("lifeline", "")
        yield FakeLifeline(self)

    def infer(
        self, model: str, inputs: Mapping[str, Any], timeout_s: float, version: int | None = None
    ) -> Inference:
        self._called("infer", model)
        started = time.perf_counter()
        has, engine = self._switches.get(model, (None, model))
        if engine not in self._engines or version not in (None, has or self._engines[engine][0]):
            raise NotFound(f"Request for unknown model: '{model}' version {version}", hint="")
        loaded, session = self._engines[engine]
        try:
            names = [output.name for output in session.get_outputs()]
            ranks = {one.name: len(one.shape) for one in session.get_inputs()}
            # Clients send a scalar as a list of one, and with batching a scalar a row as a column.
            given = {
                name: array.reshape(array.shape[: ranks.get(name, array.ndim)])
                for name, array in inputs.items()
            }
            answers = map(np.atleast_1d, session.run(names, given))
            outputs = dict(zip(names, answers, strict=True))
        except Exception as error:
            raise ArtifactRejected(f"asking {model} failed: {error}", hint="") from error
        return Inference(has or loaded, outputs, time.perf_counter() - started)

    def restart(self, *models: str) -> None:
        """Forget everything, then load the models of the server's command line, from the files alone."""
        self.starts += 1
        self._engines.clear()
        self._switches.clear()
        self._states.clear()
        self._overridden_at.clear()
        for model in models:
            self.load(model, 1)

    def restart_with_all(self) -> None:
        """Restart as with ``--load-model=*``: models that can't be loaded are left out."""
        self.restart()
        for path in sorted(self._repository.iterdir()):
            if path.is_dir():
                with suppress(DeployError):
                    self.load(path.name, 1)

    def _called(self, operation: str, model: str) -> None:
        call = f"{operation} {model}"
        self.calls.append(call)
        if self.ends_at.get(call, 0):
            # What it loads at its start ends it no more: the candidate is not among it.
            left, self.ends_at[call] = self.ends_at[call] - 1, 0
            self.restart_with_all()
            self.ends_at[call] = left
            raise unavailable()
        error = self.fail.get(call) or self.fail.get(operation)
        if error is not None:
            raise error


def complete(message: Any, tensors: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]]) -> None:
    """Complete a configuration as NVIDIA's backend does: AutoCompleteMaxBatch, and AutoCompleteIO."""
    shapes = [shape for named in tensors.values() for _, shape in named.values()]
    if all(shape[:1] == (-1,) for shape in shapes):
        message.max_batch_size = message.max_batch_size or 4
        if message.max_batch_size > 1:
            message.dynamic_batching.SetInParent()
    for role, named in tensors.items():
        for name, (kind, shape) in () if len(getattr(message, role)) else named.items():
            entry = getattr(message, role).add(name=name, data_type=TYPES[kind])
            dims = shape[1:] if message.max_batch_size else shape
            entry.dims.extend(dims or (1,))
            if message.max_batch_size and not dims:
                entry.reshape.SetInParent()


TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(string)": "TYPE_STRING",
    "tensor(bool)": "TYPE_BOOL",
    **{
        f"tensor({sign}int{bits})": f"TYPE_{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
"""Triton's name of each type of ONNX Runtime that the backend takes."""


def _fits(role: str, shape: Sequence[int], said: Sequence[int]) -> bool:
    """Whether the backend takes a shape of the configuration for one of its session."""
    if not shape:
        return all(size == 1 for size in said)
    return len(shape) == len(said) and all(
        have == size or (role == "input" and have == -1) for have, size in zip(shape, said, strict=True)
    )


_STAT = os.stat
"""Triton's look at the disk is another process's: what a test does to this one's is nothing to it."""


def state_of(text: str) -> ModelState:
    """Return the state that reads as ``text``, such as ``UNAVAILABLE: unloaded``."""
    phase, _, reason = text.partition(": ")
    return ModelState(Phase(phase), reason)


def _is_there(path: Path) -> bool:
    with suppress(OSError):
        return bool(_STAT(path))
    return False


class FakeLifeline:
    """Knows how often its Triton was started when it was opened."""

    def __init__(self, triton: FakeTriton) -> None:
        self._triton = triton
        self._starts = triton.starts

    def look(self) -> Life:
        return Life.SAME if self._triton.starts == self._starts else Life.ENDED


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # No threads: starting and ending them takes longer than these models do.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def unavailable() -> Unavailable:
    return Unavailable("The fake does not answer.", hint="Wait.")


def ones(columns: int = 2) -> dict[str, Any]:
    return {"x": np.ones((1, columns), np.float32)}
