"""What Triton means when it fails to poll a model: its index and a second load tell."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from ml_code.triton_deploy.clients.triton import ModelState
from ml_code.triton_deploy.clients.triton.polling import told_apart
from ml_code.triton_deploy.clients.triton.protocol import TWICE
from ml_code.triton_deploy.errors import ArtifactRejected, DeployError, Misconfigured, Unavailable
from ml_code.triton_deploy.model import model_config
from ml_code.triton_deploy.rules.schema import Schema, Tensor
from ml_code.triton_deploy.rules.triton_errors import error_of
from ml_code.triton_deploy.rules.triton_errors.calls import Call, Doing
from ml_code.triton_deploy.rules.triton_errors.row import NotPolled
from tests.support.fakes import state_of

SCHEMA = Schema((Tensor("x", "FP32", (-1, 2)),), (Tensor("y", "FP32", (-1, 2)),))
ENGINE = model_config.to_json(model_config.engine_config("m", 2, SCHEMA, {}))
SWITCH = model_config.to_json(model_config.switch_config("m", 2, SCHEMA, {}))
POLLED = "failed to load 'm.v2', failed to poll from model repository"
NO_BACKEND = "load failed for model 'm.v2': version 2 is at UNAVAILABLE state: Invalid argument: unable to find backend library for backend 'x'"


def said(text: str) -> DeployError:
    return error_of("triton:1", Doing(Call.LOADING, "m.v2"), 5, "StatusCode.INTERNAL", text)


@dataclass
class Triton:
    """One that has failed to poll ``m.v2``, and says what it is set to say."""

    seen: frozenset[str] = frozenset({"m.v2", "m"})
    known: dict[str, str] = field(default_factory=dict)
    second: DeployError | None = field(default_factory=lambda: said(NO_BACKEND))
    listing: DeployError | None = None
    url: str = "triton:1"
    loads: list[str] = field(default_factory=list)

    def folders(self) -> frozenset[str]:
        if self.listing:
            raise self.listing
        return self.seen

    def states(self) -> dict[str, ModelState]:
        return {name: state_of(text) for name, text in self.known.items()}

    def load_once(self, model: str, timeout_s: float, config: str | None) -> None:
        self.loads.append(config or "")
        if self.second:
            raise self.second


def told(triton: Triton, config: str | None = ENGINE, model: str = "m.v2") -> DeployError:
    error = said(POLLED)
    assert isinstance(error, NotPolled)
    return told_apart(triton, model, config, 5, error)


def test_a_folder_that_it_does_not_see_is_the_mounts_affair() -> None:
    triton = Triton(seen=frozenset({"other"}))
    error = told(triton)
    assert type(error) is Misconfigured
    assert "does not see the model in its repository" in error.message
    assert "--model-repository" in error.hint
    assert triton.loads == []


def test_a_configuration_that_it_refuses_is_the_artifacts() -> None:
    triton = Triton()
    error = told(triton)
    assert type(error) is ArtifactRejected
    assert "reads that folder, and refuses the configuration" in error.message
    assert "triton/config.json" in error.hint
    assert "Poll failed for model directory 'm.v2'" in error.hint
    (second,) = map(json.loads, triton.loads)
    assert second["name"] == "m.v2", "else Triton refuses that as well"
    assert second["backend"] != "onnxruntime", "else the model is loaded"


def test_a_folder_that_it_cant_read_blames_nobody() -> None:
    error = told(Triton(second=said(POLLED)))
    assert type(error) is Unavailable
    assert "can't read it" in error.message
    assert "The model is not at fault." in error.hint


def test_a_triton_that_goes_away_meanwhile_blames_nobody() -> None:
    error = told(Triton(second=Unavailable("gone", hint="")))
    assert isinstance(error, NotPolled)
    assert "or refuses its configuration" in error.message


def test_a_machine_that_can_list_nothing_is_told_by_what_it_says() -> None:
    why = Unavailable("failed to open directory /models: Too many open files", hint="")
    assert told(Triton(listing=why)) is why


def test_a_folder_in_two_repositories_is_told() -> None:
    error = told(Triton(known={"m.v2": f"UNAVAILABLE: {TWICE}"}))
    assert type(error) is Misconfigured
    assert "in two of its repositories" in error.message


@pytest.mark.parametrize("config", [None, SWITCH])
def test_what_serves_is_never_tried_with_another_configuration(config: str | None) -> None:
    triton = Triton()
    error = told(triton, config, "m")
    assert type(error) is Misconfigured, "who flips writes the engine anew then"
    assert triton.loads == []
    assert "triton-deploy reconcile" in error.hint


@pytest.mark.parametrize("state", ["READY", "LOADING", "UNLOADING"])
def test_an_engine_that_answers_is_not_loaded_a_second_time(state: str) -> None:
    triton = Triton(known={"m.v2": state})
    assert isinstance(told(triton), NotPolled)
    assert triton.loads == []
