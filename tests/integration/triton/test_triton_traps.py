"""How Triton bites, on the real one: each test shows the naive way failing, and ours not, by the same assertion.

The naive ways: one Triton model with all versions in its directory, controlled over HTTP; and a switch over one shared
engine model that holds all versions. The bad behaviour is Triton's own, so a newer Triton that turns a test red here may
have made a precaution needless.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import ArtifactRejected, DeployError, NotFound, StorageFailed
from ml_code.triton_deploy.model import model_config
from ml_code.triton_deploy.rules.schema import Schema, Tensor
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.fakes import ones
from tests.support.models import files, for_a_gpu, golden, times, unknown_operator, write
from tests.support.servers.sites import Ours, Site, assert_serves, assert_works, name, own_site, site, store
from tests.support.servers.traffic import (
    Traffic,
    assert_answered_by,
    assert_nobody_failed,
    assert_nobody_waited,
)
from tests.support.waiting import eventually

__all__ = ["name", "own_site", "site", "store"]

pytestmark = pytest.mark.integration

SCHEMA = Schema((Tensor("x", "FP32", (-1, 2)),), (Tensor("y", "FP32", (-1, 2)),))


class Plain:
    """The first naive way: one model, all versions in its directory, the HTTP endpoints, no version named."""

    def __init__(self, site: Site, model: str) -> None:
        self._site, self.model = site, model
        self.path = site.repository / model
        self.limit_s = 60
        self._url = f"http://{site.server.http_url}/v2"

    def put(self, version: int, factor: float | None = None) -> Path:
        if not self.path.exists():
            self.configure({"latest": {"num_versions": 9}})
        return write(self.path / str(version), files(times(factor or version)))

    def configure(self, policy: dict[str, Any]) -> None:
        config = model_config.engine_config(self.model, 1, SCHEMA, {})
        self.path.mkdir(exist_ok=True)
        text = model_config.to_pbtxt({**config, "name": self.model, "version_policy": policy})
        (self.path / "config.pbtxt").write_text(text)

    def load(self) -> None:
        self._control("load")

    def unload(self) -> None:
        self._control("unload")

    def ready(self) -> bool:
        return requests.get(f"{self._url}/models/{self.model}/ready", timeout=10).ok

    def _control(self, action: str) -> None:
        url = f"{self._url}/repository/models/{self.model}/{action}"
        response = requests.post(url, json={}, timeout=self.limit_s)
        if not response.ok:
            raise ArtifactRejected(response.text, hint="")


class SharedEngine:
    """The second naive way: a switch, over one engine model that holds all versions."""

    def __init__(self, site: Site, model: str) -> None:
        self._site, self.model, self.engine = site, model, f"{model}_versions"

    def put(self, version: int, artifact: dict[str, bytes] | None = None) -> None:
        write(self._site.repository / self.engine / str(version), artifact or files(times(version)))
        (self._site.repository / self.model / str(version)).mkdir(parents=True)

    def load(self, *versions: int, schema: Schema = SCHEMA, timeout_s: float = 30) -> None:
        config = model_config.engine_config(self.model, 1, schema, {})
        policy = {"specific": {"versions": list(versions)}}
        text = model_config.to_json({**config, "name": self.engine, "version_policy": policy})
        self._site.triton.load(self.engine, timeout_s, text)

    def flip(self, version: int, timeout_s: float = 10) -> None:
        config = model_config.switch_config(self.model, version, SCHEMA, {})
        config["ensemble_scheduling"]["step"][0]["model_name"] = self.engine
        self._site.triton.load(self.model, timeout_s, model_config.to_json(config))


# What must hold, whoever does it


def assert_told_the_truth(said: bool, site: Site, model: str, version: int) -> None:
    is_so = version in site.triton.ready_versions(model)
    assert said == is_so, f"version {version} was said to be ready: {said}; it is: {is_so}"


def assert_loaded_once(site: Site, model: str, version: int) -> None:
    # The log may come after the answer.
    time.sleep(0.3)
    assert (count := site.loads(model, version)) == 1, f"version {version} was loaded {count} times"


def says_so(action: Callable[[], object]) -> bool:
    """Whether a check succeeds."""
    try:
        return action() is not False
    except DeployError:
        return False


# Loading


def test_a_load_that_succeeded_may_have_loaded_something_else(site: Site, name: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.configure({"specific": {"versions": [1, 2]}})
    naive.load()
    with pytest.raises(AssertionError, match="said to be ready: True; it is: False"):
        assert_told_the_truth(naive.ready(), site, naive.model, 2)

    ours = Ours(site, name)
    ours.deploy(1)
    ours.run_until(2, "materialize")
    manifest = ours.manifest(2)
    shutil.rmtree(ours.folder.versions.path(2))
    with contextlib.suppress(DeployError):
        ours.serving.load_candidate(manifest, "d", fresh=True)
    said = says_so(lambda: ours.serving.wait_ready(2))
    assert_told_the_truth(said, site, ours.engine(2), 2)


def test_a_model_is_ready_as_long_as_any_version_is(site: Site, name: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.put(2)
    naive.load()
    naive.configure({"specific": {"versions": [1]}})
    naive.load()
    with pytest.raises(AssertionError, match="said to be ready: True; it is: False"):
        assert_told_the_truth(naive.ready(), site, naive.model, 2)

    ours = Ours(site, name)
    ours.deploy(1)
    deployer, deploy_id = ours.run_until(2, "load")
    site.triton.unload(ours.engine(2), 10)
    said = says_so(lambda: deployer.ready(ours.model, deploy_id))
    assert_told_the_truth(said, site, ours.engine(2), 2)
    assert_serves(site, ours.model, 1)


def test_no_client_reaches_a_candidate_before_it_is_verified(site: Site, name: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.load()
    with Traffic(site.server, naive.model) as traffic:
        naive.put(2)
        naive.load()
    with pytest.raises(AssertionError, match=r"answered by \[1, 2\], not \[1\]"):
        assert_answered_by(traffic.seen, [1])

    ours = Ours(site, name)
    ours.deploy(1)
    with Traffic(site.server, ours.model) as traffic:
        deployer, deploy_id = ours.run_until(2, "smoke")
    assert_answered_by(traffic.seen, [1])
    with Traffic(site.server, ours.model) as traffic:
        deployer.commit(ours.model, deploy_id)
    assert_answered_by(traffic.seen, [1, 2])


def test_an_older_version_can_be_made_live_again(site: Site, name: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.put(2)
    naive.load()
    # Going back by loading what is there, with both of them loaded.
    naive.load()
    with pytest.raises(AssertionError, match="version 2 answers"):
        assert_serves(site, naive.model, 1)

    ours = Ours(site, name)
    for version in (1, 2, 1):
        ours.deploy(version)
    assert_serves(site, ours.model, 1)
    assert_loaded_once(site, ours.engine(1), 1)


def test_a_deploy_does_not_load_the_live_version_again(site: Site, name: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.load()
    (naive.path / "current.json").write_text("{}")
    naive.put(2)
    naive.load()
    with pytest.raises(AssertionError, match="version 1 was loaded 2 times"):
        assert_loaded_once(site, naive.model, 1)

    ours = Ours(site, name)
    for version in (1, 2, 3):
        ours.deploy(version)
    for version in (1, 2, 3):
        assert_loaded_once(site, ours.engine(version), version)


def test_a_restarted_triton_serves_what_was_committed(own_site: Callable[..., Site], name: str) -> None:
    site = own_site()
    naive, ours = Ours(site, f"naive_{name}"), Ours(site, name)
    naive.deploy(1)
    ours.deploy(1)
    # By override alone: nothing on disk changes.
    naive.run_until(2, "smoke")
    naive.serving.switch_to(naive.manifest(2))
    ours.deploy(2)
    for model in (naive.model, ours.model):
        assert_serves(site, model, 2)

    site.server.restart()

    with pytest.raises(AssertionError, match="version 1 answers"):
        assert_serves(site, naive.model, 2)
    assert_serves(site, ours.model, 2)


def test_new_content_under_a_known_name_is_loaded(site: Site, name: str, tmp_path: Path) -> None:
    # Triton asks for the times of what a link leads to: content that is older than what it had is not looked at.
    older = write(tmp_path / "older", files(times(2)))
    naive = Plain(site, f"naive_{name}")
    naive.configure({"latest": {"num_versions": 1}})
    newer = write(tmp_path / "newer", files(times(20)))
    (naive.path / "2").symlink_to(newer)
    naive.load()
    (naive.path / "2").unlink()
    (naive.path / "2").symlink_to(older)
    naive.load()
    with pytest.raises(AssertionError, match="version 2 answers, with 20"):
        assert_serves(site, naive.model, 2)

    ours = Ours(site, name)
    ours.run_until(2, "materialize")
    manifest, folder = ours.manifest(2), ours.folder.versions.path(2)
    case = (folder / "smoke.json").read_bytes()
    for content, factor in ((newer, 20), (older, 2)):
        (content / "smoke.json").write_bytes(case)
        shutil.rmtree(folder) if not folder.is_symlink() else folder.unlink()
        folder.symlink_to(content)
        ours.serving.load_candidate(manifest, "d", fresh=True)
        assert site.answer(ours.engine(2)) == (2, factor)
    assert_serves(site, ours.engine(2), 2)


def test_no_client_waits_for_a_load(site: Site, name: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.load()
    naive.put(2)
    with Traffic(site.server, naive.model) as traffic:
        with site.hanging(naive.model, 2, naive.load):
            time.sleep(1.5)
        traffic.everybody_asks()
    assert_nobody_failed(traffic.seen)
    with pytest.raises(AssertionError, match="a client waited"):
        assert_nobody_waited(traffic.seen)

    ours = Ours(site, name)
    ours.deploy(1)
    with Traffic(site.server, ours.model) as traffic:
        with site.hanging(ours.engine(2), 2, lambda: ours.deploy(2)) as loading:
            time.sleep(1.5)
        loading.result()
    assert_nobody_failed(traffic.seen)
    assert_nobody_waited(traffic.seen)


@pytest.mark.soak
def test_a_hung_load_blocks_no_other_deploy(site: Site, name: str) -> None:
    naive = SharedEngine(site, f"naive_{name}")
    for version in (1, 2, 3):
        naive.put(version)
    naive.load(1)
    naive.flip(1)
    with site.hanging(naive.engine, 2, lambda: naive.load(1, 2)):
        with pytest.raises(AssertionError, match="did not finish"):
            assert_works(lambda: naive.load(1, 3, timeout_s=2))
        with pytest.raises(AssertionError, match="did not finish"):
            assert_works(lambda: naive.flip(1, timeout_s=2))
        assert_serves(site, naive.model, 1)

    ours = Ours(site, name)
    ours.deploy(1)
    with site.hanging(
        ours.engine(2),
        2,
        lambda: says_so(lambda: ours.deploy(2, triton__load_timeout_s=1, triton__switch_timeout_s=1)),
    ) as failing:
        eventually(failing.done, limit_s=20)
        assert ours.quarantine() == ["2"]
        assert_works(lambda: ours.deploy(3))
        assert_works(lambda: ours.deploy(1))
        assert_serves(site, ours.model, 1)
    # What hung, and the unload that waited for it, come to their end inside Triton: until then that version fails, no other.
    eventually(lambda: says_so(lambda: ours.deploy(2)), limit_s=20)
    assert_serves(site, ours.model, 2)


def test_a_rollback_is_no_outage(site: Site, name: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.load()
    with Traffic(site.server, naive.model) as traffic:
        shutil.rmtree(naive.put(2))
        naive.unload()
        naive.load()
    with pytest.raises(AssertionError, match="requests failed"):
        assert_nobody_failed(traffic.seen)

    ours = Ours(site, name)
    ours.deploy(1)
    with Traffic(site.server, ours.model) as traffic:
        ours.fail_smoke(2)
    assert_nobody_failed(traffic.seen)
    assert_answered_by(traffic.seen, [1])

    # After the flip too. An outage of the switch would be of milliseconds: once would not do to see it.
    ours.deploy(3)
    with Traffic(site.server, ours.model) as traffic:
        for _ in range(50):
            ours.serving.switch_to(ours.manifest(1))
            ours.serving.restore(ours.manifest(3))
    assert_nobody_failed(traffic.seen)


def test_a_broken_version_leaves_the_live_one_alone(site: Site, name: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.load()
    write(naive.path / "2", files(unknown_operator()))
    assert not says_so(naive.load)
    assert_serves(site, naive.model, 1)
    naive.unload()
    assert not says_so(naive.load)
    with pytest.raises(AssertionError, match="nobody answers"):
        assert_serves(site, naive.model, 1)

    ours = Ours(site, name)
    ours.deploy(1)
    assert not says_so(lambda: ours.deploy(2, for_a_gpu(2)))
    assert_serves(site, ours.model, 1)


def test_a_hundred_flips_leave_no_memory_behind(site: Site, name: str) -> None:
    ours = Ours(site, name)
    ours.deploy(1)
    ours.deploy(2)

    def flip(times: int) -> int:
        for number in range(times):
            ours.serving.switch_to(ours.manifest(1 + number % 2))
        status = Path(f"/proc/{site.server.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])

    flip(20)
    before_kb = flip(2)
    grown_kb = flip(100) - before_kb
    print(f"100 flips: {grown_kb} kB on {before_kb} kB")
    assert grown_kb < 20_000


# Directory names


@pytest.mark.parametrize("leftover", ["2.failed_20260102T030405", "2.tmp", "2.uploading"])
def test_what_lies_beside_the_versions_is_in_nobodys_way(site: Site, name: str, leftover: str) -> None:
    naive = Plain(site, f"naive_{name}")
    naive.put(1)
    naive.load()
    naive.put(2).rename(naive.path / leftover)
    with pytest.raises(AssertionError, match=r"/2/model\.onnx"):
        assert_works(naive.load)

    ours = Ours(site, name)
    ours.deploy(1)
    write(ours.folder.versions.path(2).with_name(leftover), files(times(2)))
    assert_works(lambda: ours.deploy(3))
    assert_serves(site, ours.model, 3)


@pytest.mark.parametrize("leftover", ["9" * 21, pytest.param(f"-{'9' * 21}.bak", marks=pytest.mark.soak)])
def test_a_directory_that_begins_with_a_long_number_ends_triton_at_the_next_load(
    own_site: Callable[..., Site], name: str, leftover: str
) -> None:
    site = own_site()
    naive, ours = Plain(site, f"naive_{name}"), Ours(site, name)
    naive.put(1)
    naive.load()
    ours.deploy(1)
    pid = site.server.pid
    deadly = naive.path / leftover
    # A file of that name is none.
    deadly.write_text("")
    assert_works(naive.load)
    deadly.unlink()
    deadly.mkdir()
    with pytest.raises(requests.RequestException):
        naive.load()
    eventually(lambda: site.server.pid not in (0, pid), limit_s=30)
    deadly.rmdir()
    site.server.restart()

    pid = site.server.pid
    for folder in (site.repository / ours.model, site.repository / ours.engine(1)):
        deadly = folder / leftover
        deadly.mkdir()
        with pytest.raises(StorageFailed, match="ends Triton at its next load"):
            ours.deploy(2)
        (problem,) = model_status(ours.settings, ours.model).problems
        assert str(deadly) in problem
        # To look at it, and to take something out, ends nothing.
        site.triton.unload(ours.model, 10)
        deadly.rmdir()
    ours.deploy(2)
    assert_serves(site, ours.model, 2)
    assert site.server.pid == pid


@pytest.mark.parametrize("leads_to", ["nowhere", pytest.param("itself", marks=pytest.mark.soak)])
def test_a_link_that_leads_nowhere_keeps_triton_from_a_flip(site: Site, name: str, leads_to: str) -> None:
    naive, ours = Plain(site, f"naive_{name}"), Ours(site, name)
    naive.put(1)
    naive.load()
    link = naive.path / "itself"
    link.symlink_to(leads_to)
    with pytest.raises(ArtifactRejected, match="failed to poll"):
        naive.load()
    link.unlink()
    ours.deploy(1)
    link = site.repository / ours.model / "itself"
    link.symlink_to(leads_to)
    with pytest.raises(StorageFailed, match="a link that leads nowhere"):
        ours.deploy(2)
    (problem,) = model_status(ours.settings, ours.model).problems
    assert str(link) in problem
    assert_serves(site, ours.model, 1)
    link.unlink()
    ours.deploy(2)
    assert_serves(site, ours.model, 2)


def test_links_by_which_a_folder_contains_itself_keep_triton_busy_without_end(
    own_site: Callable[..., Site], name: str
) -> None:
    site = own_site()
    naive, ours = Plain(site, f"naive_{name}"), Ours(site, name)
    ours.deploy(1)
    links = [site.repository / ours.model / "old" / at for at in ("one", "two")]
    links[0].parent.mkdir()
    for link in links:
        link.symlink_to(".")
    with pytest.raises(StorageFailed, match="by this link a folder contains itself"):
        ours.deploy(2)
    assert_serves(site, ours.model, 1)
    for link in links:
        link.unlink()
    ours.deploy(2)
    assert_serves(site, ours.model, 2)
    # Last of all, because this Triton does not come back from it.
    naive.put(1)
    for link in ("one", "two"):
        (naive.path / link).symlink_to(".")
    naive.limit_s = 3
    with pytest.raises(requests.Timeout):
        naive.load()


def test_a_quarantine_of_ours_is_in_nobodys_way(site: Site, name: str) -> None:
    ours = Ours(site, name)
    ours.deploy(1)
    ours.fail_smoke(2)
    assert ours.quarantine() == ["2"]
    assert_works(lambda: ours.deploy(3))
    site.triton.load(ours.model, 10)
    assert_serves(site, ours.model, 3)


# The switch


def test_the_switch_never_points_at_what_is_not_loaded(site: Site, name: str) -> None:
    shared = SharedEngine(site, f"shared_{name}")
    shared.put(1)
    shared.put(2)
    shared.load(1)
    shared.flip(1)
    assert not says_so(lambda: shared.flip(2))
    with pytest.raises(AssertionError, match="nobody answers"):
        assert_serves(site, shared.model, 1)

    naive, ours = Ours(site, f"naive_{name}"), Ours(site, name)
    for way in (naive, ours):
        way.deploy(1)
        way.run_until(2, "smoke")
        # A Triton that was restarted while somebody cleared the repository up.
        site.triton.unload(way.engine(2), 10)
        way.folder.engines.remove(2)
    switch = model_config.switch_config(naive.model, 2, SCHEMA, {})
    assert not says_so(lambda: site.triton.load(naive.model, 10, model_config.to_json(switch)))
    with pytest.raises(AssertionError, match="nobody answers"):
        assert_serves(site, naive.model, 1)

    with Traffic(site.server, ours.model) as traffic, pytest.raises(NotFound):
        ours.serving.switch_to(ours.manifest(2))
    assert_nobody_failed(traffic.seen)
    assert_serves(site, ours.model, 1)


def test_a_candidate_with_another_schema_leaves_the_public_model_alone(site: Site, name: str) -> None:
    other = files(times(2, target="z"), triton__golden_json=golden(2, target="z"))
    naive = SharedEngine(site, f"naive_{name}")
    naive.put(1)
    naive.put(2, other)
    naive.load(1)
    naive.flip(1)
    assert_serves(site, naive.model, 1)
    changed = Schema(SCHEMA.inputs, (Tensor("z", "FP32", (-1, 2)),))
    # Beside the live version it can't be loaded: one configuration holds for all versions of a model.
    assert not says_so(lambda: naive.load(1, 2, schema=changed))
    assert_works(lambda: naive.load(2, schema=changed))
    with pytest.raises(AssertionError, match="nobody answers"):
        assert_serves(site, naive.model, 1)

    ours = Ours(site, name)
    ours.deploy(1)
    request = ours.request(2, other, allow_schema_change=True)
    deployer = ours.deployer()
    with Traffic(site.server, ours.model) as traffic:
        deployer.snapshot(request)
        for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
            step(ours.model, request.deploy_id)
    assert_nobody_failed(traffic.seen)
    assert_serves(site, ours.model, 1)
    deployer.commit(ours.model, request.deploy_id)
    assert site.triton.infer(ours.model, ones(), 5).outputs["z"][0, 0] == 2


def test_a_switch_declares_its_tensors_in_full(site: Site, name: str) -> None:
    ours = Ours(site, name)
    ours.deploy(1)
    switch = model_config.switch_config(ours.model, 1, SCHEMA, {})
    naive = {key: value for key, value in switch.items() if key not in ("input", "output")}
    with pytest.raises(AssertionError, match="refused loading"):
        assert_works(lambda: site.triton.load(ours.model, 10, model_config.to_json(naive)))
    assert_works(lambda: site.triton.load(ours.model, 10, model_config.to_json(switch)))


# Health


def assert_health_is_right(healthy: bool, site: Site, model: str) -> None:
    serves = says_so(lambda: site.answer(model))
    assert healthy == serves, f"healthy: {healthy}, serves: {serves}"


def server_is_ready(site: Site) -> bool:
    return requests.get(f"http://{site.server.http_url}/v2/health/ready", timeout=10).ok


def test_a_failed_candidate_does_not_look_like_an_outage(own_site: Callable[..., Site], name: str) -> None:
    site = own_site("--strict-readiness=true")
    ours = Ours(site, name)
    ours.deploy(1)
    deployer = ours.deployer()
    request = ours.request(2, for_a_gpu(2))
    deployer.snapshot(request)
    deployer.materialize(ours.model, request.deploy_id)
    with pytest.raises(DeployError, match="failed loading"):
        deployer.load(ours.model, request.deploy_id)

    with pytest.raises(AssertionError, match="healthy: False, serves: True"):
        assert_health_is_right(server_is_ready(site), site, ours.model)
    assert_health_is_right(model_status(ours.settings, ours.model).agrees, site, ours.model)


def test_a_triton_without_the_model_does_not_look_healthy(site: Site, name: str) -> None:
    ours = Ours(site, name)
    ours.deploy(1)
    site.triton.unload(ours.model, 10)

    with pytest.raises(AssertionError, match="healthy: True, serves: False"):
        assert_health_is_right(server_is_ready(site), site, ours.model)
    assert_health_is_right(model_status(ours.settings, ours.model).agrees, site, ours.model)
    command = [sys.executable, "-m", "ml_code.triton_deploy.cli", "status", ours.model, "--json"]
    environment = {
        **os.environ,
        "TRITON_DEPLOY_REPOSITORY": str(site.repository),
        "TRITON_DEPLOY_GRPC_URLS": site.server.grpc_url,
    }
    status = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert status.returncode == 7
    assert json.loads(status.stdout)[0]["serving"] == {site.server.grpc_url: None}


@pytest.mark.parametrize("deploys", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_each_engine_is_loaded_once_over_deploys_and_reverts(site: Site, name: str, deploys: int) -> None:
    """A flip looks at the engine's folder again: what changed there would be read, and loaded anew."""
    ours = Ours(site, name)
    for version in range(1, deploys + 1):
        ours.deploy(version)
    for number in range(deploys):
        ours.deployer().revert(RevertRequest(model=name, deploy_id=f"r{number}", actor="me"))
    log = site.log_path.read_text()
    assert [log.count(f'"loading: {ours.engine(version)}:') for version in range(1, deploys + 1)] == [
        1
    ] * deploys
    assert site.answer(name)[0] in (deploys, deploys - 1)


def test_a_triton_that_is_restarted_before_the_flip_serves_the_old_version_and_after_it_the_new(
    own_site: Callable[..., Site], name: str
) -> None:
    site, last_version = own_site(), 5
    ours = Ours(site, name)
    ours.deploy(1)
    # Each in a version of its own: what had met a Triton that was started anew is suspected.
    for version, last in enumerate(("materialize", "load", "smoke"), start=2):
        deployer, deploy_id = ours.run_until(version, last)
        site.server.restart()
        assert_serves(site, name, 1)
        assert ours.engine(version) not in site.triton.states(), "the candidate is not loaded again"
        deployer.rollback(name, deploy_id)
    ours.deploy(last_version)
    site.server.restart()
    assert_serves(site, name, last_version)
