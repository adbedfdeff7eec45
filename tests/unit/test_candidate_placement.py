"""Which of its Tritons a gateway takes for the one that a record names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ml_code.gateway.settings import GatewaySettings
from ml_code.gateway.triton.placement import ANY, LOOK_AGAIN_S, Placement, addresses_of
from ml_code.triton_deploy.errors import Misconfigured
from ml_code.triton_deploy.rules.canary import Exposure

KNOWN = {
    "triton-1": "10.0.0.5",
    "triton-2": "10.0.0.6",
    "localhost": "127.0.0.1",
    "serving-triton-0": "172.20.1.1",
    "serving-triton-0.serving-triton": "10.1.0.7",
    "serving-triton-1": "172.20.1.2",
    "serving-triton-1.serving-triton": "10.1.0.8",
}
"""What names resolve to; the Services of single Tritons in Kubernetes have addresses of their own."""


def hosts_of(host: str) -> frozenset[str]:
    name = host.strip("[]")
    return frozenset({name, KNOWN.get(name, name)})


LOCAL = ("127.0.0.1:8000", "127.0.0.1:8010")
COMPOSE = ("triton-1:8000", "triton-2:8000")
CHART = ("serving-triton-0:8000", "serving-triton-1:8000")


@pytest.mark.parametrize(
    ("urls", "grpc_urls", "tritons", "places"),
    [
        pytest.param(["127.0.0.1:8000"], [], ["127.0.0.1:8001"], [0], id="embedded stack"),
        pytest.param(["gateway-side:8000"], [], ["10.0.0.9:8001"], [0], id="one is that one"),
        pytest.param(["triton-1:8000"], [], ["10.0.0.5:8001", "10.0.0.6:8001"], [0, None], id="one of two"),
        pytest.param(["balancer:8000"], [], ["a:8001", "b:8001"], [None, None], id="a balancer of two"),
        pytest.param(LOCAL, [], ["127.0.0.1:8001", "127.0.0.1:8011"], [0, 1], id="two on one host"),
        pytest.param(LOCAL, [], ["localhost:8001", "localhost:8011"], [0, 1], id="two on one host by name"),
        pytest.param(LOCAL, [], ["127.0.0.1:8001"], [None], id="this gateway knows one more"),
        pytest.param(LOCAL[:1], [], ["127.0.0.1:8001", "127.0.0.1:8011"], [None, None], id="one less"),
        pytest.param(COMPOSE, [], ["10.0.0.5:8001", "10.0.0.6:8001"], [0, 1], id="Compose"),
        pytest.param(COMPOSE, [], ["10.0.0.6:8001", "10.0.0.5:8001"], [1, 0], id="in another order"),
        pytest.param(CHART, [], ["10.1.0.7:8001", "10.1.0.8:8001"], [None, None], id="Services"),
        pytest.param(
            CHART,
            ["serving-triton-0.serving-triton:8001", "serving-triton-1.serving-triton:8001"],
            ["10.1.0.7:8001", "10.1.0.8:8001"],
            [0, 1],
            id="Kubernetes",
        ),
        pytest.param(
            LOCAL,
            ["127.0.0.1:8011", "127.0.0.1:8001"],
            ["127.0.0.1:8001", "127.0.0.1:8011"],
            [1, 0],
            id="what is set comes first",
        ),
        pytest.param(COMPOSE, ["a:8001", "b:8001"], ["10.0.0.5:8001"], [None], id="what is set names others"),
        pytest.param(CHART[:1], ["pod:8001"], ["192.0.2.9:30001"], [0], id="one, from outside"),
        pytest.param(
            ["[fd00::1]:8000", "[fd00::2]:8000"], [], ["[fd00::1]:8001", "[fd00::2]:8001"], [0, 1], id="IPv6"
        ),
    ],
)
def test_the_triton_of_a_record(
    urls: Sequence[str], grpc_urls: Sequence[str], tritons: Sequence[str], places: list[int | None]
) -> None:
    placement = Placement(urls, grpc_urls, hosts_of)
    found = [placement.find(triton, tritons) for triton in tritons]
    assert found == [None if place is None else urls[place] for place in places]
    assert placement.find("", ()) == ANY


def test_a_name_has_its_addresses_and_one_that_has_none_is_itself() -> None:
    assert "127.0.0.1" in addresses_of("localhost")
    assert addresses_of("127.0.0.1") == {"127.0.0.1"}
    assert addresses_of("[::1]") == {"::1"}
    assert addresses_of("nobody.invalid") == {"nobody.invalid"}
    assert addresses_of("." * 300) == {"." * 300}


def test_names_are_resolved_once_or_again_after_a_while_where_nothing_was_found() -> None:
    asked: list[str] = []
    passed = [0.0]
    known: dict[str, Callable[[], str]] = {}

    def resolve(host: str) -> frozenset[str]:
        asked.append(host)
        return frozenset({host, known[host]()} if host in known else {host})

    placement = Placement(COMPOSE, (), resolve, lambda: passed[0])
    exposed = Exposure("d2", 2, 5, 0, 60, "10.0.0.5:8001", ("10.0.0.5:8001",))

    def look() -> str | None:
        placement.look("m", exposed)
        place = placement.of("m", exposed)
        assert place is not None
        return place.at

    assert placement.of("m", exposed) is None
    assert look() is None
    before = len(asked)
    assert look() is None
    assert len(asked) == before, "a name server is not asked at every look"
    known["triton-1"] = lambda: "10.0.0.5"
    passed[0] = LOOK_AGAIN_S
    assert look() == "triton-1:8000"
    before = len(asked)
    passed[0] = 1000
    assert look() == "triton-1:8000"
    assert len(asked) == before, "it stays where it is"
    other = Exposure("d3", 3, 5, 0, 60, "10.0.0.5:8001", ("10.0.0.5:8001",))
    assert placement.of("m", other) is None, "what was found is another deployment's"


@pytest.mark.parametrize("value", ["a:8001", "a:8001,b:8001,c:8001", "a:8001,dns:///b:8001", "a,b"])
def test_both_lists_of_tritons_have_to_fit(value: str) -> None:
    environment = {"TRITON_DEPLOY_REPOSITORY": "/models", "GATEWAY_TRITON_URLS": "a:8000,b:8000"}
    fitting = GatewaySettings.from_env({**environment, "GATEWAY_TRITON_GRPC_URLS": "a:8001,b:8001"})
    assert fitting.repository == Path("/models")
    with pytest.raises(Misconfigured, match="GATEWAY_TRITON_GRPC_URLS"):
        GatewaySettings.from_env({**environment, "GATEWAY_TRITON_GRPC_URLS": value})
