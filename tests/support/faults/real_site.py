"""A model repository with a real Triton on it, restored before each point of a sweep."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_code.triton_deploy.clients.triton import GrpcTriton
from stack import Stack
from tests.support.fakes import FakeRegistry, fake_store
from tests.support.faults.fork_server import CALL_S
from tests.support.settings import changed
from tests.support.world import MODEL, SETTINGS, World, deployed


@dataclass
class RealSite:
    """A model repository and a Triton on it.

    Attributes:
        world: the other collaborators of a deploy.
        triton: the server, as the deployer sees it.
        stack: runs it.
        originals: folder of the files that ``keep`` copied.
    """

    world: World
    triton: GrpcTriton
    stack: Stack
    originals: Path

    def keep(self, name: str) -> None:
        """Keep the repository as it is."""
        shutil.copytree(self.world.root, self.originals / name, symlinks=True)

    def back_to(self, name: str, now: datetime) -> None:
        """Everything as it was kept: the files, and on Triton versions 2 and 3 loaded, 3 served."""
        self.world.now = now
        for path in self.world.root.iterdir():
            shutil.rmtree(path)
        shutil.copytree(self.originals / name, self.world.root, symlinks=True, dirs_exist_ok=True)
        loaded = self.triton.loaded()
        for model in ("best_model.v2", "best_model.v3"):
            if model not in loaded:
                self.triton.load(model, CALL_S)
        if loaded.get(MODEL) != (3,):
            self.triton.load(MODEL, CALL_S)
        for model in loaded.keys() - {MODEL, "best_model.v2", "best_model.v3"}:
            self.triton.unload(model, CALL_S)


@contextmanager
def real_site(folder: Path) -> Iterator[RealSite]:
    """Versions 1 to 3 were deployed, version 4 is registered, as in the sweeps on fakes; kept as ``base``."""
    root = folder / "repository"
    root.mkdir()
    with (
        fake_store() as store,
        Stack(folder / "stack", ["triton"], model_repository=root) as stack,
    ):
        triton: Any = GrpcTriton(stack.url("triton-grpc"), CALL_S)
        settings = changed(SETTINGS, repository=root, triton__ready_timeout_s=CALL_S)
        world = deployed(World(root, settings, FakeRegistry(), store, triton))
        (folder / "originals").mkdir()
        site = RealSite(world, triton, stack, folder / "originals")
        site.keep("base")
        yield site
