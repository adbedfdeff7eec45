"""One Triton and one gateway, into which the cases are deployed one after the other by the real deployer."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import requests

from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.model.smoke_case import SmokeCase
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.names import engine_name
from ml_code.triton_deploy.rules.schema import Offer
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.fakes import FakeRegistry
from tests.support.servers.gateways import Gateway
from tests.support.servers.tritons import TritonServer
from tests.support.settings import changed
from tests.support.waiting import eventually
from tests.zoo.asking import OwnRuntime, Question, Ways, as_sent, public, verdict_of
from tests.zoo.case import Array, Case, NotExported, Unavailable
from tests.zoo.store import SCHEME, FolderStore, folder_store
from tests.zoo.verdicts import EQUAL, Outcome, Verdict

VERSION = 1
LONGEST_CAUSE = 600


class Enclosure:
    """Deploys, asks and removes cases.

    Args:
        server: the Triton.
        repository: its model repository.
        gateway: follows that repository.
        folder: the store's.
        store: serves that folder.
    """

    def __init__(
        self, server: TritonServer, repository: Path, gateway: Gateway, folder: Path, store: FolderStore
    ) -> None:
        self._repository, self._gateway, self._folder, self._store = repository, gateway, folder, store
        self._triton = GrpcTriton(server.grpc_url, 10)
        self._registry = FakeRegistry()
        self.ways = Ways(gateway.address, server.http_url, server.grpc_url)
        self.settings = changed(
            Settings(),
            repository=repository,
            triton__grpc_urls=(server.grpc_url,),
            mlflow__alias_wait_s=0,
            triton__settle_s=0,
        )

    def judge(self, case: Case) -> Verdict:
        """Write, deploy, ask and remove one case; a case that raises is WRONG, and the next one can be judged."""
        artifact = self._folder / case.model / str(VERSION)
        artifact.mkdir(parents=True)
        try:
            return self._judge(case, artifact)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"[:LONGEST_CAUSE]
            return Verdict(name=case.name, group=case.group, outcome=Outcome.WRONG, cause=cause)
        finally:
            self._remove(case.model)

    def _judge(self, case: Case, artifact: Path) -> Verdict:
        def verdict(outcome: Outcome, cause: object = "", **more: Any) -> Verdict:
            # Paths and ports differ from run to run.
            text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1", str(cause).replace(f"{artifact}/", ""))
            text = " ".join(text.split())[:LONGEST_CAUSE]
            return Verdict(name=case.name, group=case.group, outcome=outcome, cause=text, **more)

        try:
            case.write(artifact)
        except Unavailable as why:
            return verdict(Outcome.UNAVAILABLE, why)
        except NotExported as why:
            return verdict(Outcome.NOT_EXPORTED, why)
        began = time.monotonic()
        inputs = case.inputs(artifact) if callable(case.inputs) else case.inputs
        expected, failure = _own_answers(artifact, inputs)
        if failure and not case.refused:
            return verdict(Outcome.LOCAL_FAILS, failure)
        _log_example(case, artifact, inputs, expected)
        try:
            offer = self._deploy(case.model)
        except DeployError as error:
            expects = case.refused and case.refused in str(error)
            return verdict(Outcome.REFUSED if expects else Outcome.WRONG, f"{error.kind}: {error}")
        if case.refused:
            return verdict(Outcome.WRONG, f"is served; expected is the refusal {case.refused!r}")
        ways = self._ask(case.model, offer, inputs, expected)
        wrong = [f"{way}: {said}" for way, said in ways.items() if said.startswith(("fails", "differs"))]
        outcome = Outcome.SERVED if EQUAL in ways.values() and not wrong else Outcome.WRONG
        return verdict(outcome, "; ".join(wrong), ways=ways, took_s=round(time.monotonic() - began, 2))

    def _deploy(self, model: str) -> Offer:
        uri = f"{SCHEME}{model}/{VERSION}"
        self._registry.models[model] = {
            "A": RegisteredVersion(version=VERSION, run_id="run", artifact_uris=(uri,), expected_digest="")
        }
        deployer = Deployer(self.settings, registry=self._registry, stores=lambda uri: self._store)
        deployer.deploy(DeployRequest(model=model, alias="A", deploy_id=f"d{time.monotonic_ns()}"))
        return ModelFolder.at(self._repository, model).versions.require(VERSION).offer

    def _ask(
        self, model: str, offer: Offer, inputs: Mapping[str, Array], expected: Mapping[str, Array]
    ) -> dict[str, str]:
        datatypes = {tensor.name: tensor.datatype for tensor in offer.schema.inputs}
        sent = {name: as_sent(public(array, offer), datatypes[name]) for name, array in inputs.items()}
        wanted = {name: public(array, offer) for name, array in expected.items()}
        question = Question(model, offer, sent, wanted)
        eventually(lambda: self._is_known(model), f"the gateway knows {model}", 30)
        return {way: verdict_of(ask, question) for way, ask in self.ways.all.items()}

    def _is_known(self, model: str) -> bool:
        return requests.get(f"{self._gateway.url}/v2/models/{model}/ready", timeout=10).ok

    def _remove(self, model: str) -> None:
        """Free the memory and the disk that a case took."""
        for name in (model, engine_name(model, VERSION)):
            with contextlib.suppress(DeployError):
                self._triton.unload(name, 30)
            shutil.rmtree(self._repository / name, ignore_errors=True)
        shutil.rmtree(self._folder / model, ignore_errors=True)


def _own_answers(artifact: Path, inputs: Mapping[str, Array]) -> tuple[dict[str, Any], str]:
    try:
        return OwnRuntime(artifact / "model.onnx").answers(inputs), ""
    except Exception as error:  # ONNX Runtime raises many kinds
        return {}, f"{type(error).__name__} {error}"


def _log_example(
    case: Case, artifact: Path, inputs: Mapping[str, Array], expected: Mapping[str, Array]
) -> None:
    """Write the files that training would have logged beside the model."""
    triton = artifact / "triton"
    triton.mkdir(exist_ok=True)
    if case.config:
        (triton / "config.json").write_text(json.dumps(case.config))
    if case.example == "golden" and expected:
        # A case that has to be refused may have answers that no golden file can hold.
        with contextlib.suppress(KeyError, AttributeError):
            (triton / "golden.json").write_text(SmokeCase("golden", inputs, expected).to_json())
    elif case.example == "input_example":
        example = {"inputs": {name: _plain(array) for name, array in inputs.items()}}
        (artifact / "serving_input_example.json").write_text(json.dumps(example))


def _plain(array: Array) -> Any:
    if array.dtype.kind not in "OUS":
        return array.tolist()
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in array.flat]
    # MLflow keeps no scalar.
    return np.array(texts, np.object_).reshape(array.shape or (1,)).tolist()


@contextlib.contextmanager
def enclosure(
    home: Path, server: TritonServer | None = None, repository: Path | None = None
) -> Iterator[Enclosure]:
    """Start a gateway, and a Triton unless there is one.

    Args:
        home: empty folder for all files.
        server: a Triton that runs already.
        repository: the model repository of that Triton.
    """
    home.mkdir(parents=True, exist_ok=True)
    repository = repository or home / "model-repo"
    with ExitStack() as running:
        store = running.enter_context(folder_store(home / "artifacts"))
        if server is None:
            stack = Stack(home / "state", ["triton"], model_repository=repository)
            server = TritonServer(running.enter_context(stack))
        settings = {
            "TRITON_DEPLOY_REPOSITORY": str(repository),
            "GATEWAY_TRITON_URLS": server.http_url,
            "GATEWAY_MODEL": "none",
            "GATEWAY_POLL_INTERVAL_S": "0.1",
            "GATEWAY_ACCESS_LOG": "errors",
            "GATEWAY_NAN_POLICY": "allow",
        }
        gateway = running.enter_context(Gateway(home / "gateway.log", settings, ready=False))
        found = Enclosure(server, repository, gateway, home / "artifacts", store)
        running.callback(found.ways.close)
        yield found
