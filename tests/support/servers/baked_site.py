"""A model on real servers: how it is deployed, and how its releases bake."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.bake import Baked, Baking
from ml_code.triton_deploy.watch.policy import BakePolicy
from tests.support.servers.gateways import Releases
from tests.support.settings import changed


@dataclass
class Site:
    """One model, its releases, and the settings of its deployer."""

    releases: Releases
    settings: Settings

    @property
    def deployer(self) -> Deployer:
        own = self.releases.deployer
        return Deployer(self.settings, registry=own._via.registry(), stores=own._via.stores)

    @property
    def live(self) -> int:
        return self.releases.live

    def with_(self, **settings: Any) -> Self:
        """The same with other settings."""
        return replace(self, settings=changed(self.settings, **settings))

    def bake(self, minutes: float | None = None, *, act: bool = True) -> Baked:
        """Watch the live version for this time, or for that of the settings; see ``Baking.run``."""
        policy = BakePolicy.of(self.settings, minutes)
        baking = Baking(self.settings, self.releases.model, policy, deployer=self.deployer, actor="test")
        baked = baking.run(baking.live().generation, act=act)
        print(baked.text)
        return baked
