"""The project's ``onnxruntime`` backend, with models that end the whole server: NVIDIA's runs in Triton's process, and its crash is Triton's.

A model whose ONNX file carries a mark does what the mark says, see ``MARK`` in
``tests/support/servers/crashed_triton.py``. For Tritons of tests only.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[5]

LONGEST_HANG_S = 120.0
GOLDEN = [1.0, 2.0]
"""The row of ``tests.support.models.golden``; the clients of the harness ask another."""


def _module(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / path)
    assert spec is not None
    assert spec.loader is not None
    # Its dataclasses look for their own module.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ending = _module("ending", "tests/support/servers/crashed_triton.py")
# Triton adds only this file's folder to sys.path; the project's backend has a sibling to import.
sys.path.append(str(CHECKOUT / "stack/triton_backends/onnxruntime"))
projects: Any = _module("projects_backend", "stack/triton_backends/onnxruntime/model.py")


class TritonPythonModel(projects.TritonPythonModel):  # type: ignore[misc]
    """The project's, until the moment that a model is marked with."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session; here end those that are marked with a moment of the load."""
        super().initialize(args)
        self._moment = self._session.get_modelmeta().custom_metadata_map.get(ending.MARK, "")
        if not self._moment or _held(ending.CALM).exists():
            self._moment = ""
            return
        self._server = ending.server_above(os.getppid())
        self._name, self._version = args["model_name"].rpartition(".v")[0], args["model_version"]
        match self._moment:
            case "load":
                ending.end_server(self._server)
            case "load_later":
                _hang()
                ending.end_server(self._server)
            case "stub_dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang_load":
                _hang()
            case "switch":
                self._public = _Public(self._server, self._name, self._version)
                threading.Thread(target=self._end_when_public, daemon=True).start()
            case "smoke_public":
                self._public = _Public(self._server, self._name, self._version)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer, unless the model is marked with a moment of that."""
        match self._moment:
            case "hang_infer":
                _hang()
            case "warmup" | "smoke_engine":
                ending.end_server(self._server)
            case "switch" | "smoke_public" if self._public.is_ready():
                ending.end_server(self._server)
            case "client" if any(map(_is_a_clients, requests)):
                ending.end_server(self._server)
        answers: list[Any] = super().execute(requests)
        return answers

    def _end_when_public(self) -> None:
        public = _Public(self._server, self._name, self._version)
        while not public.is_ready():
            time.sleep(0.001)
        ending.end_server(self._server)


class _Public:
    """A version of the public name on the stub's own server."""

    def __init__(self, server: int, name: str, version: str) -> None:
        arguments = Path(f"/proc/{server}/cmdline").read_bytes().decode().split("\0")
        port = next(part.partition("=")[2] for part in arguments if part.startswith("--http-port="))
        self._connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
        self._path = f"/v2/models/{name}/versions/{version}/ready"

    def is_ready(self) -> bool:
        """Whether clients reach it."""
        try:
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
        return response.status == 200


def _is_a_clients(request: Any) -> bool:
    return any(row.tolist() != GOLDEN for tensor in request.inputs() for row in tensor.as_numpy())


def _held(end: str = "") -> Path:
    return Path(os.environ[ending.HANGS_WHILE] + end)


def _hang() -> None:
    deadline = time.monotonic() + LONGEST_HANG_S
    _held(ending.REACHED).touch()
    while _held().exists() and time.monotonic() < deadline:
        time.sleep(0.05)
