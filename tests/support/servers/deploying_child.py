"""A deploy in a process of its own, to be killed: ``python -m``, with its task pickled on stdin."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.settings import Settings
from stack.servers import REPO
from tests.support.fakes import FakeRegistry, FakeStore


@dataclass(frozen=True)
class Job:
    """The deploy of the child.

    Attributes:
        settings: the deployer's.
        registry: has the alias.
        store: has the artifact; its server is the parent's.
        request: the request.
    """

    settings: Settings
    registry: FakeRegistry
    store: FakeStore
    request: DeployRequest

    def start(self) -> subprocess.Popen[bytes]:
        """Start the child; the caller has to kill it or wait for it."""
        command = [sys.executable, "-m", __name__]
        child = subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdin is not None
        child.stdin.write(pickle.dumps(self))
        child.stdin.close()
        return child


if __name__ == "__main__":
    # The class by its own name: as a script this module is another one.
    from tests.support.servers import deploying_child

    job: deploying_child.Job = pickle.load(sys.stdin.buffer)
    Deployer(job.settings, registry=job.registry, stores=lambda uri: job.store).deploy(job.request)
