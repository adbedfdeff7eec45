"""What clients live through while models are deployed, on the real stack: 200 requests a second over connections they keep."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import InferenceServerClient

from ml_code.triton_deploy.clients.triton import GrpcTriton, Inference
from ml_code.triton_deploy.errors import DeployError, Superseded, Unavailable, VerificationFailed
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.writer import to_json
from stack import Stack
from tests.support.fakes import ones
from tests.support.models import external, files, for_a_gpu, golden, times
from tests.support.servers.traffic import (
    Site,
    Traffic,
    assert_answered_by,
    assert_nobody_failed,
    assert_nobody_waited,
    name,
    own_site,
)
from tests.support.servers.tritons import TritonServer

__all__ = ["name", "own_site"]

pytestmark = pytest.mark.integration


def assert_unnoticed(traffic: Traffic, versions: Sequence[int]) -> None:
    assert_nobody_failed(traffic.seen)
    assert_answered_by(traffic.seen, versions)
    assert_nobody_waited(traffic.seen)


@pytest.fixture
def site(stack: Stack, name: str) -> Site:
    """The stack's Triton, with a model that has one release."""
    site = Site(stack, name, stack.model_repository, TritonServer(stack))
    site.deploy_next()
    return site


# Swaps


def test_a_deploy_is_unnoticed(site: Site) -> None:
    site.publish()
    with site.traffic() as traffic:
        done = site.deploy()
    assert done.returncode == 0, done.stderr
    assert_unnoticed(traffic, [1, 2])
    assert site.current["active_version"] == 2


def test_a_failed_deploy_is_unnoticed(site: Site) -> None:
    before = site.current
    site.publish(expected=1)
    with site.traffic() as traffic:
        failed = site.deploy()
    assert failed.returncode == 4, failed.stderr
    assert json.loads(failed.stdout)["error"] == "verification_failed"
    assert_unnoticed(traffic, [1])
    assert site.current == before
    assert site.quarantine() == ["2"]
    assert site.loaded() == [1]


def test_a_version_that_triton_can_not_load_is_unnoticed(site: Site) -> None:
    site.publish_files(for_a_gpu(2))
    with site.traffic() as traffic:
        failed = site.deploy()
    assert failed.returncode == 5, failed.stderr
    assert_unnoticed(traffic, [1])
    assert site.quarantine() == ["2"]


class Interrupted(GrpcTriton):
    """Something happens when the deployer asks the public name, which is after the flip."""

    def __init__(self, url: str, model: str, happens: Callable[[], None]) -> None:
        super().__init__(url, 5)
        self._public, self._happens = model, happens

    def infer(
        self, model: str, inputs: Mapping[str, Any], timeout_s: float, version: int | None = None
    ) -> Inference:
        if model == self._public:
            self._happens()
        return super().infer(model, inputs, timeout_s, version)


def test_a_commit_that_fails_after_the_flip_is_taken_back(site: Site) -> None:
    def fail() -> None:
        # Long enough for every client to be answered by the candidate, which is verified by now.
        traffic.everybody_asks()
        raise VerificationFailed("The public check failed.", hint="")

    before = site.current
    site.publish()
    deployer = site.deployer(Interrupted(site.servers[0].grpc_url, site.model, fail))
    with site.traffic() as traffic:
        _, deploy_id = site.run_until("smoke", deployer)
        with pytest.raises(VerificationFailed):
            deployer.commit(site.model, deploy_id)
        traffic.everybody_asks()
        # The commit itself has put the switch back: the rollback may come late.
        assert site.serves() == [1]
        rolled_back = deployer.rollback(site.model, deploy_id)
    assert_unnoticed(traffic, [1, 2, 1])
    assert rolled_back is not None
    assert rolled_back.state is State.ROLLED_BACK
    assert site.current == before
    assert site.quarantine() == ["2"]
    assert site.loaded() == [1]


def test_a_commit_that_comes_second_is_taken_back(site: Site) -> None:
    def commit_another() -> None:
        first = site.folder.releases.latest()
        assert first is not None
        another = replace(first, generation=2, deploy_id="another")
        (site.folder.versions.path(1).parent / "releases/000002.json").write_text(to_json(another))

    site.publish()
    deployer = site.deployer(Interrupted(site.servers[0].grpc_url, site.model, commit_another))
    with site.traffic() as traffic:
        _, deploy_id = site.run_until("smoke", deployer)
        with pytest.raises(Superseded):
            deployer.commit(site.model, deploy_id)
        deployer.rollback(site.model, deploy_id)
    assert_nobody_failed(traffic.seen)
    assert_nobody_waited(traffic.seen)
    assert all(seen.answers[-1] == (1, 1.0) for seen in traffic.seen)
    assert site.current["deploy_id"] != deploy_id
    site.deploy_next()
    assert site.serves() == [3]
    assert site.current["generation"] == 3


def test_going_back_to_a_warm_version_is_unnoticed(site: Site) -> None:
    site.deploy_next()
    site.publisher.set_alias(site.model, "A", 1)
    with site.traffic() as traffic:
        done = site.deploy()
    assert done.returncode == 0, done.stderr
    assert_unnoticed(traffic, [2, 1])
    assert (site.current["active_version"], site.current["previous_version"]) == (1, 2)


def test_a_retired_version_is_not_missed(site: Site) -> None:
    site.deploy_next()
    assert site.loaded() == [1, 2]
    with site.traffic() as traffic:
        site.deploy_next()
    assert_unnoticed(traffic, [2, 3])
    assert site.loaded() == [2, 3]
    assert site.folder.engines.versions() == [2, 3]
    site.publisher.set_alias(site.model, "A", 1)
    with site.traffic() as traffic:
        done = site.deploy()
    assert done.returncode == 0, done.stderr
    assert_unnoticed(traffic, [3, 1])


# Restarts


def kill(site: Site) -> None:
    """Kill Triton; return when it is up again, with what the files say."""
    server = site.servers[0]
    assert isinstance(server, TritonServer)
    server.stack.kill("triton")
    server.stack.wait_ready("triton")


def test_a_killed_triton_comes_back_with_what_is_live(own_site: Callable[..., Site]) -> None:
    site = own_site()
    site.deploy_next()
    site.deploy_next()
    with site.traffic() as traffic:
        kill(site)
    assert_answered_by(traffic.seen, [2])
    assert site.loaded() == [1, 2]
    site.publisher.set_alias(site.model, "A", 1)
    with site.traffic() as traffic:
        assert site.deploy().returncode == 0
    assert_unnoticed(traffic, [2, 1])


@pytest.mark.parametrize("last", ["materialize", pytest.param("load", marks=pytest.mark.soak), "smoke"])
def test_a_triton_killed_in_the_middle_of_a_deploy_serves_the_live_version(
    own_site: Callable[..., Site], last: str
) -> None:
    site = own_site()
    site.deploy_next()
    broken = for_a_gpu(2)
    version = site.publish() if last == "smoke" else site.publish_files(broken)
    deployer, deploy_id = site.run_until("smoke" if last == "smoke" else "materialize")
    if last == "load":
        with pytest.raises(DeployError):
            deployer.load(site.model, deploy_id)
        assert site.folder.engines.versions() == [1, version]

    kill(site)

    with site.traffic() as traffic:
        deployer.rollback(site.model, deploy_id)
    assert_unnoticed(traffic, [1])
    assert site.quarantine() == ["2"]
    site.deploy_next()
    assert site.serves() == [3]


def test_a_first_deploy_that_failed_leaves_a_repository_that_triton_starts_on(
    own_site: Callable[..., Site],
) -> None:
    site = own_site()
    site.publish(expected=7)
    assert site.deploy().returncode == 4
    assert site.quarantine() == ["1"]
    assert site.folder.engines.versions() == []

    kill(site)

    site.deploy_next()
    assert site.serves() == [2]
    kill(site)
    assert site.serves() == [2]


# Two Tritons


def test_a_deploy_flips_every_triton(own_site: Callable[..., Site]) -> None:
    site = own_site(2)
    site.deploy_next()
    site.publish()
    with site.traffic(0) as first, site.traffic(1) as second:
        done = site.deploy()
    assert done.returncode == 0, done.stderr
    assert_unnoticed(first, [1, 2])
    assert_unnoticed(second, [1, 2])


def test_a_triton_that_is_down_stops_a_deploy_and_nothing_changes_on_the_other(
    own_site: Callable[..., Site],
) -> None:
    site = own_site(2)
    site.deploy_next()
    before, down = site.current, site.servers[1]
    assert isinstance(down, TritonServer)
    site.publish()
    with site.traffic(0) as traffic:
        down.stop()
        failed = site.deploy()
    assert failed.returncode == 5, failed.stderr
    assert down.grpc_url in failed.stderr
    assert_unnoticed(traffic, [1])
    assert site.current == before
    assert site.loaded(0) == [1]

    down.restart()
    assert site.serves() == [1, 1]
    # Nobody blames the model: the same version may be deployed as soon as both are there.
    done = site.deploy()
    assert done.returncode == 0, done.stderr
    assert site.serves() == [2, 2]


def test_a_triton_that_dies_before_the_flip_keeps_the_other_from_flipping(
    own_site: Callable[..., Site],
) -> None:
    site = own_site(2)
    site.deploy_next()
    site.publish()
    dies = site.servers[1]
    assert isinstance(dies, TritonServer)
    with site.traffic(0) as traffic:
        deployer, deploy_id = site.run_until("smoke")
        dies.stop()
        with pytest.raises(Unavailable):
            deployer.commit(site.model, deploy_id)
        # It had been told that clients may reach the candidate, so it has to see that they do not.
        with pytest.raises(Unavailable):
            deployer.rollback(site.model, deploy_id)
    assert_unnoticed(traffic, [1])
    dies.restart()
    restarted = time.monotonic()
    while True:
        try:
            rolled_back = deployer.rollback(site.model, deploy_id)
            break
        except Unavailable:
            assert time.monotonic() - restarted < 3, "it does not see that Triton is back"
            time.sleep(0.1)
    assert rolled_back is not None
    assert rolled_back.state is State.ROLLED_BACK
    assert site.serves() == [1, 1]
    site.deploy_next()
    assert site.serves() == [3, 3]


# What travels with a model


def deploy_files(site: Site, artifact: dict[str, bytes]) -> tuple[InferenceServerClient, str]:
    version = site.publish_files(artifact)
    done = site.deploy()
    assert done.returncode == 0, done.stderr
    return InferenceServerClient(site.servers[0].grpc_url), f"{site.model}.v{version}"


@pytest.fixture
def empty_site(stack: Stack, name: str) -> Site:
    """The stack's Triton, with no version of the model."""
    return Site(stack, name, stack.model_repository, TritonServer(stack))


def test_a_model_of_strings(empty_site: Site) -> None:
    def tensor(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.STRING, ["n"])

    graph = helper.make_graph(
        [helper.make_node("StringConcat", ["text", "text"], ["twice"])],
        "g",
        [tensor("text")],
        [tensor("twice")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    tensors = {"datatype": "BYTES", "shape": [2]}
    case = {
        "inputs": [{"name": "text", **tensors, "data": ["a", "grüße"]}],
        "outputs": [{"name": "twice", **tensors, "data": ["aa", "grüßegrüße"]}],
    }
    deploy_files(empty_site, files(model, triton__golden_json=json.dumps(case).encode()))
    inputs = {"text": np.array([b"one", b"two"], dtype=np.object_)}
    answer = GrpcTriton(empty_site.servers[0].grpc_url, 5).infer(empty_site.model, inputs, 5)
    assert answer.outputs["twice"].tolist() == [b"oneone", b"twotwo"]


def test_external_data_beside_the_model(empty_site: Site) -> None:
    model, weights = external("weights.bin", factor=3.0)
    artifact = {**files(model, triton__golden_json=golden(3)), "weights.bin": weights}
    deploy_files(empty_site, artifact)
    answer = GrpcTriton(empty_site.servers[0].grpc_url, 5).infer(empty_site.model, ones(), 5)
    assert answer.outputs["y"].tolist() == [[3, 3]]


def test_batching_as_the_model_asks_for_it(empty_site: Site) -> None:
    options = {
        "max_batch_size": 4,
        "dynamic_batching": {"max_queue_delay_microseconds": 2000},
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
    }
    artifact = files(
        times(1), triton__golden_json=golden(1), triton__config_json=json.dumps(options).encode()
    )
    client, engine = deploy_files(empty_site, artifact)

    config = client.get_model_config(engine, as_json=True)["config"]
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "2000"
    assert (config["instance_group"][0]["count"], config["instance_group"][0]["kind"]) == (2, "KIND_CPU")
    with empty_site.traffic() as traffic:
        time.sleep(1)
    assert_unnoticed(traffic, [1])
    statistics = client.get_inference_statistics(engine, as_json=True)["model_stats"][0]
    assert int(statistics["execution_count"]) < int(statistics["inference_count"]), "nothing was stacked"
    triton = GrpcTriton(empty_site.servers[0].grpc_url, 5)
    assert triton.infer(empty_site.model, {"x": np.ones((4, 2), np.float32)}, 5).outputs["y"].shape == (4, 2)
    with pytest.raises(DeployError, match="batch-size must be <= 4"):
        triton.infer(empty_site.model, {"x": np.ones((5, 2), np.float32)}, 5)
    with empty_site.traffic() as traffic:
        empty_site.deploy_next()
    assert_unnoticed(traffic, [1, 2])
