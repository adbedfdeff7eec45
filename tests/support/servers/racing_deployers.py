"""Many deployers of one model at once: a process each, forked when all has been imported, started by one signal.

Run as a script: ``python -m tests.support.servers.racing_deployers MODEL RACERS ROUNDS [BUG…]`` with the
settings in the environment. Racer ``n`` deploys alias ``r<n>``; every third one reverts instead, when there
is something to go back to. Prints a JSON list with what each attempt came to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest, RevertRequest
from ml_code.triton_deploy.deploy.step import RunningStep
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.fleet.fleet import Fleet
from ml_code.triton_deploy.repository import durable
from ml_code.triton_deploy.repository.lease import Lease
from ml_code.triton_deploy.repository.releases import Releases
from ml_code.triton_deploy.rules.deployment import Deployment
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.settings import Settings

PAUSE_S = 0.2
"""Between two attempts of one racer."""


def nobody_minds_the_others() -> None:
    """Bug: every deployer gets the lease, no commit checks for another's release, and no deployer cleans up."""

    def nothing(*arguments: object, **named: object) -> None:
        pass

    for owner, name in (
        (Lease, "acquire"),
        (Lease, "renew"),
        (RunningStep, "refuse_outdated"),
        (Fleet, "retire"),
    ):
        setattr(owner, name, nothing)


def release_that_replaces() -> None:
    """Bug: the last one to publish a generation wins."""

    def publish(self: Releases, release: Release) -> None:
        path = self._path(release.generation)
        durable.make_directory(path.parent)
        durable.replace_file(path, to_json(release))

    Releases.publish = publish  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug for bug in (nobody_minds_the_others, release_that_replaces)
}


def attempt(model: str, number: int, turn: int) -> dict[str, object]:
    """Deploy, or revert, once; return the outcome."""
    deployer, deploy_id = Deployer(Settings.from_env()), f"r{number}-{turn}"
    reverts = turn > 0 and number % 3 == 0
    said: dict[str, object] = {"deploy_id": deploy_id, "reverts": reverts}
    try:
        done: Deployment = (
            deployer.revert(RevertRequest(model=model, deploy_id=deploy_id))
            if reverts
            else deployer.deploy(DeployRequest(model=model, alias=f"r{number}", deploy_id=deploy_id))
        )
    except DeployError as error:
        return {**said, "state": None, "error": error.kind, "message": error.message, "hint": error.hint}
    return {**said, "state": done.state, "version": done.version}


def race(model: str, racers: int, rounds: int) -> list[dict[str, object]]:
    """Let them all start at once, ``rounds`` times each; return what each attempt came to."""
    gate, open_gate = os.pipe()
    answers = []
    for number in range(racers):
        answer, tell = os.pipe()
        if os.fork() == 0:
            os.close(open_gate)
            os.read(gate, 1)
            said = []
            for turn in range(rounds):
                said.append(attempt(model, number, turn))
                time.sleep(PAUSE_S)
            with os.fdopen(tell, "w") as pipe:
                json.dump(said, pipe)
            os._exit(0)
        os.close(tell)
        answers.append(answer)
    os.close(open_gate)
    said = []
    for answer in answers:
        with os.fdopen(answer) as pipe:
            said += json.load(pipe)
    for _ in answers:
        os.wait()
    return said


if __name__ == "__main__":
    for bug in sys.argv[4:]:
        BUGS[bug]()
    # Imported late by those that use it: here once for all.
    import tritonclient.grpc  # noqa: F401

    print(json.dumps(race(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
