"""A deployer that tells of every moment of its work, so that a test can break something just then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ml_code.triton_deploy.clients.triton import GrpcTriton, Inference
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.rules.deployment import Deployment
from ml_code.triton_deploy.settings import Settings

STEPS = ("snapshot", "materialize", "load", "ready", "smoke", "commit", "rollback")

Happens = Callable[[str], None]
"""Told of a moment: ``smoke`` when that step begins; ``commit: load public`` right before that call to a Triton, and
``commit: load public done`` right after it. Operations are ``load``, ``unload``, ``ask`` (of ``public`` or
``engine``) and ``look``."""


def watched_deployer(settings: Settings, model: str, happens: Happens) -> Deployer:
    """Return a deployer of one model that reports its present step."""
    step = ""

    def tell(operation: str) -> None:
        happens(f"{step}: {operation}")

    def told(name: str) -> Callable[..., Deployment | None]:
        run = getattr(deployer, name)

        def begin(*arguments: Any) -> Deployment | None:
            nonlocal step
            step = name
            happens(name)
            record: Deployment | None = run(*arguments)
            return record

        return begin

    deployer = Deployer(
        settings,
        tritons=[
            _Watched(url, settings.triton.switch_timeout_s, model, tell) for url in settings.triton.grpc_urls
        ],
    )
    for name in STEPS:
        setattr(deployer, name, told(name))
    return deployer


class _Watched(GrpcTriton):
    def __init__(self, url: str, call_timeout_s: float, public: str, tell: Happens) -> None:
        super().__init__(url, call_timeout_s)
        self._public, self._tell = public, tell

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        with self._told("load", model):
            super().load(model, timeout_s, config)

    def unload(self, model: str, timeout_s: float) -> None:
        with self._told("unload", model):
            super().unload(model, timeout_s)

    def loaded(self) -> dict[str, tuple[int, ...]]:
        self._tell("look")
        return super().loaded()

    def infer(
        self, model: str, inputs: Mapping[str, Any], timeout_s: float, version: int | None = None
    ) -> Inference:
        with self._told("ask", model):
            return super().infer(model, inputs, timeout_s, version)

    @contextmanager
    def _told(self, operation: str, model: str) -> Iterator[None]:
        call = f"{operation} {'public' if model == self._public else 'engine'}"
        self._tell(call)
        yield
        self._tell(f"{call} done")
