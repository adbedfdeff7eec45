"""A gateway that serves the version of an alias without Triton."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack import Stack
from tests.support.models import files, golden, times
from tests.support.servers.gateways import Gateway
from tests.support.servers.publisher import Publisher


class Followed:
    """A model in MLflow whose version ``n`` answers ``n`` times what it is asked, and a gateway that follows its alias."""

    def __init__(self, name: str, stack: Stack, log: Path) -> None:
        self.name, self.publisher, self._stack, self._log = name, Publisher(stack.environment), stack, log
        self._versions = 0

    def publish(self, *, expected: int | None = None) -> int:
        version = self._versions + 1
        return self.publish_files(files(times(version), triton__golden_json=golden(expected or version)))

    def publish_files(self, artifact: dict[str, bytes]) -> int:
        self._versions = self.publisher.publish(self.name, artifact)
        return self._versions

    def gateway(self, *, ready: bool = True, **environment: str) -> Gateway:
        settings = {
            **self._stack.environment,
            "GATEWAY_BACKEND": "local",
            "GATEWAY_MODEL": self.name,
            "TRITON_DEPLOY_ALIAS_POLL_S": "0.2",
            **environment,
        }
        return Gateway(self._log, settings, ready=ready)


@pytest.fixture
def followed(mlflow_stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Followed:
    name = "local_" + re.sub(r"\W+", "_", request.node.name.removeprefix("test_"))[:80]
    return Followed(name, mlflow_stack, tmp_path / "log")


@pytest.fixture
def start(followed: Followed) -> Iterator[Callable[..., Gateway]]:
    """``start(…)``: a gateway that is stopped in the end."""
    with ExitStack() as running:
        yield lambda **options: running.enter_context(followed.gateway(**options))


def serves(gateway: Gateway, version: int) -> bool:
    return bool(gateway.info()["version"] == version)
