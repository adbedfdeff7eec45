"""The retention on a real Triton: what it leaves is served after a restart and reverted to, what it takes is in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import NotFound
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.upkeep.gc import GarbageCollector
from stack.servers import REPO
from tests.support.servers.sites import Ours, Site, assert_serves, assert_works, name, own_site, store
from tests.support.settings import changed

__all__ = ["name", "own_site", "store"]

pytestmark = pytest.mark.integration


def gc(ours: Ours, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own; the versions of the last three releases stay."""
    settings = {
        "TRITON_DEPLOY_REPOSITORY": str(ours.settings.repository),
        "TRITON_DEPLOY_GRPC_URLS": ",".join(ours.settings.triton.grpc_urls),
        "TRITON_DEPLOY_KEEP_RELEASES": "3",
    }
    command = [sys.executable, "-m", cli.__name__, "gc", ours.model, "--json", *argv]
    return subprocess.run(
        command, cwd=REPO, env=os.environ | settings, check=True, capture_output=True, text=True
    )


def revert(ours: Ours, version: int) -> State:
    request = RevertRequest(model=ours.model, deploy_id=f"back-to-{version}", version=version)
    return ours.deployer().revert(request).state


def versions(ours: Ours) -> set[str]:
    return {
        path.name
        for path in (ours.settings.repository_root / ours.model).glob("[0-9]*")
        if path.name.isdigit()
    }


def test_what_a_gc_leaves_serves_after_a_restart_and_is_reverted_to(
    own_site: Callable[..., Site], name: str
) -> None:
    site = own_site()
    ours = Ours(site, name)
    for version in range(1, 6):
        ours.deploy(version)
    ours.fail_smoke(6)
    planned = json.loads(gc(ours, "--dry-run").stdout)
    assert versions(ours) == {"1", "2", "3", "4", "5"}
    (collected,) = json.loads(gc(ours).stdout)
    assert [collected] == planned
    assert [removed["name"] for removed in collected["removed"]] == ["1", "2"]
    assert versions(ours) == {"3", "4", "5"}
    assert ours.quarantine() == ["6"]
    assert_serves(site, name, 5)

    site.server.restart()

    assert_serves(site, name, 5)
    assert revert(ours, 3) is State.COMMITTED
    assert_serves(site, name, 3)
    with pytest.raises(NotFound, match="its files were removed"):
        revert(ours, 1)
    ours.deploy(1)
    assert_serves(site, name, 1)


def test_what_is_on_its_way_out_is_in_nobodys_way(
    own_site: Callable[..., Site], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gc was killed after each of its renames."""
    site = own_site()
    ours = Ours(site, name)
    for version in range(1, 5):
        ours.deploy(version)
    with monkeypatch.context() as patch:
        patch.setattr("ml_code.triton_deploy.repository.durable.remove_tree", lambda path: False)
        left = GarbageCollector(changed(ours.settings, retention__keep_releases=3)).run(name).still_open
    assert [trash[: len(".trash-entry-1-")] for trash in left] == [".trash-entry-1-"]
    folder = ours.settings.repository_root / name
    (folder / "2").rename(folder / ".leaving-entry-2-0badcafe")

    assert_works(lambda: site.triton.load(name, 10))
    assert_serves(site, name, 4)
    site.server.restart()
    assert_serves(site, name, 4)
    ours.deploy(5)
    assert_serves(site, name, 5)
    gc(ours)
    assert not list(folder.glob(".[lt]*"))
    assert versions(ours) == {"3", "4", "5"}
    site.server.restart()
    assert_serves(site, name, 5)
