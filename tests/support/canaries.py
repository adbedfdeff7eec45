"""A canary on fakes, with a judge, the gateways' counters, and a gateway that reads the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_code.gateway.triton.release_follower import ReleaseFollower
from ml_code.triton_deploy.deploy.canary_control import CanaryControl
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.rules.canary import Decision, Exposure, canary_of
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Judge, Judgment, Watched
from ml_code.triton_deploy.rules.deployment import Canary, Deployment
from tests.support.settings import changed
from tests.support.signing import declared
from tests.support.world import MODEL, World

SHARES = "5,25,50"
SILENCE_S = 90


class Scene:
    """A live version, the next one as a candidate, a judge with scripted verdicts, and a gateway that reads the record.

    Args:
        world: has nothing deployed.
        live: number of versions deployed before; the last one is live.
    """

    def __init__(self, world: World, live: int = 1) -> None:
        self.world = world
        self.verdict: Callable[[Watched], CanaryVerdict] = lambda watched: CanaryVerdict.PASS
        self.watched: list[Watched] = []
        self.seen: list[tuple[int, int]] = []
        self.counts: dict[str, dict[str, float]] = {}
        """The gateways' counts of the candidate, by their address."""
        self.why = "so the test says"
        self.evidence: float | None = None
        self.tritons = [world.triton]
        for version in range(1, live + 1):
            world.register_times(version)
            world.deploy(f"v{version}")
        world.register_times(live + 1)
        self._follower = ReleaseFollower(world.root, lambda: 0.0, lambda: world.now)

    def deployer(self, judge: Judge | None = None) -> Deployer:
        return Deployer(
            self.world.settings,
            registry=self.world.registry,
            stores=lambda uri: self.world.store,
            tritons=self.tritons,
            clock=lambda: self.world.now,
            judge=judge or self._judge,
            counter=lambda model, version: {url: dict(counts) for url, counts in self.counts.items()},
            sleep=self._sleep,
            sign=declared,
        )

    def deploy(self, shares: str = SHARES, shadow: int = 0, **request: Any) -> Deployment:
        canary = canary_of(shares, shadow, 2)
        return self.deployer().deploy(self.world.request("d2", canary=canary, **request))

    def until_canary(self, shares: str = SHARES) -> Deployer:
        """Everything but the canary."""
        deployer = self.deployer()
        deployer.snapshot(self.world.request("d2", canary=canary_of(shares, 0, 2)))
        for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
            step(MODEL, "d2")
        return deployer

    @property
    def exposure(self) -> Exposure | None:
        """The canary as a gateway reads it."""
        self._follower.look()
        return self._follower.exposure(MODEL)

    @property
    def share(self) -> int:
        found = self.exposure
        return found.share_percent if found else 0

    def set(self, **changes: Any) -> None:
        """Change settings."""
        self.world.settings = changed(self.world.settings, **changes)

    def say(self, what: Decision, reason: str = "") -> Deployment:
        """Record a person's decision."""
        control = CanaryControl(self.world.settings, MODEL, lambda: self.world.now)
        return control.decide(what, by="me@here", reason=reason)

    def pass_by(self, deployer: Deployer, seconds: float, every_s: float = 15) -> float | None:
        """Let time pass, with a look every ``every_s`` seconds; return the result of the last look."""
        pause_s: float | None = 0.0
        for _ in range(int(seconds // every_s)):
            self.world.later(every_s)
            pause_s = deployer.look_at_canary(MODEL, "d2")
            if pause_s is None:
                break
        return pause_s

    @property
    def canary(self) -> Canary:
        """The canary in the record."""
        canary = self.record.canary
        assert canary is not None
        return canary

    @property
    def record(self) -> Deployment:
        return self.world.folder.journal.get("d2")

    def _judge(self, watched: Watched) -> Judgment:
        self.watched.append(watched)
        return Judgment(self.verdict(watched), self.why, {"requests": 1000, "buckets": (1, 2)}, self.evidence)

    def _sleep(self, seconds: float) -> None:
        found = self.exposure
        self.seen.append((found.share_percent, found.mirrored_percent) if found else (0, 0))
        self.world.later(seconds)
