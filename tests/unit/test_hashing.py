"""Bytes are hashed before Triton loads them, and what they are compared with is covered by the release."""

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.deploy import incoming, integrity
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.deployments import Deployments
from ml_code.triton_deploy.deploy.materialize import DigestMissing
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import Damaged, DeployError, InvalidInput, Superseded
from ml_code.triton_deploy.repository import versions
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from tests.support import world as worlds
from tests.support.fakes import unavailable
from tests.support.models import files, golden, times
from tests.support.world import MODEL, World

KNOWN_TO_EARLIER_CODE = {
    "version",
    "digest",
    "fingerprint",
    "artifact_uri",
    "run_id",
    "deploy_id",
    "files",
    "schema",
    "options",
}
"""The fields of a manifest: earlier code can't read one that has more."""


@pytest.fixture
def deployed(world: World) -> World:
    """Version 3 is live, 2 is warm, 1 is retired."""
    return worlds.deployed(world)


def revert(world: World, version: int | None = None, deploy_id: str = "r1", **changes: object) -> Deployment:
    request = RevertRequest(model=MODEL, deploy_id=deploy_id, version=version, actor="me")
    return world.deployer().revert(dataclasses.replace(request, **changes))  # type: ignore[arg-type]


def reconcile(world: World, *, deep: bool = False) -> Reconciled:
    return Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL, deep=deep)


def of_version(world: World, version: int, name: str) -> Path:
    return world.root / MODEL / str(version) / name


def swap(path: Path) -> None:
    """Change a file and keep its size; a JSON file stays JSON."""
    data = path.read_bytes()
    changed = data.replace(b"1.0", b"7.0") if path.suffix == ".json" else data[:-1] + bytes([data[-1] ^ 1])
    assert changed != data
    path.write_bytes(changed)


def edit_manifest(world: World, version: int, change: Callable[[dict[str, object]], object]) -> None:
    path = of_version(world, version, "manifest.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2) + "\n")


def swap_with_manifest(world: World, version: int) -> None:
    """Another model, and a manifest that fits it: what somebody would do who writes the repository."""
    path = of_version(world, version, "model.onnx")
    path.write_bytes(times(7.0).SerializeToString())
    data = path.read_bytes()

    def fit(content: dict[str, object]) -> None:
        entries = content["files"]
        assert isinstance(entries, list)
        for entry in entries:
            if entry["path"] == "model.onnx":
                entry |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    edit_manifest(world, version, fit)


def as_earlier_code_left_it(world: World) -> None:
    """Take out of manifests and releases what earlier code did not write."""
    for path in (world.root / MODEL).glob("[0-9]*/manifest.json"):
        version = int(path.parent.name)
        edit_manifest(
            world,
            version,
            lambda content: content.update(
                files=[entry for entry in content["files"] if entry["path"] != "smoke.json"]  # type: ignore[attr-defined]
            ),
        )
    for path in (*(world.root / MODEL / "releases").iterdir(), world.root / MODEL / "current.json"):
        content = json.loads(path.read_text())
        del content["manifest_digest"]
        path.write_text(json.dumps(content, indent=2) + "\n")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Gets the path of every file that is hashed where it lies."""
    seen: list[Path] = []
    real = versions.sha256_of

    def noted(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
        seen.append(path)
        return real(path, progress)

    monkeypatch.setattr(versions, "sha256_of", noted)
    monkeypatch.setattr(incoming, "sha256_of", noted)
    return seen


# What covers what


def test_the_release_covers_the_manifest_and_the_manifest_the_smoke_case(deployed: World) -> None:
    data = of_version(deployed, 3, "manifest.json").read_bytes()
    current = json.loads(deployed.current or "")
    assert current["manifest_digest"] == hashlib.sha256(data).hexdigest()
    manifest = json.loads(data)
    assert set(manifest) == KNOWN_TO_EARLIER_CODE
    case = next(entry for entry in manifest["files"] if entry["path"] == "smoke.json")
    smoke = of_version(deployed, 3, "smoke.json").read_bytes()
    assert (case["size_bytes"], case["sha256"]) == (len(smoke), hashlib.sha256(smoke).hexdigest())
    assert current["digest"] == manifest["digest"]


# A version that is loaded again


DAMAGES: dict[str, tuple[str, Callable[[World], object]]] = {
    "another byte": ("model.onnx has other bytes", lambda w: swap(of_version(w, 1, "model.onnx"))),
    "cut off": ("model.onnx is missing", lambda w: os.truncate(of_version(w, 1, "model.onnx"), 9)),
    "gone": ("model.onnx is missing", lambda w: of_version(w, 1, "model.onnx").unlink()),
    "expected answers": ("smoke.json has other bytes", lambda w: swap(of_version(w, 1, "smoke.json"))),
    "options": (
        "manifest.json has other bytes",
        lambda w: edit_manifest(w, 1, lambda content: content.update(options={"max_batch_size": 1})),
    ),
    "model and manifest": ("manifest.json has other bytes", lambda w: swap_with_manifest(w, 1)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_cold_revert_loads_nothing_that_is_damaged(deployed: World, damage: str) -> None:
    message, apply = DAMAGES[damage]
    apply(deployed)
    before, calls = deployed.current, len(deployed.triton.calls)
    plan = deployed.deployer().plan_revert(RevertRequest(model=MODEL, deploy_id="r1", version=1, actor="me"))
    with pytest.raises(Damaged, match=message) as refused:
        revert(deployed, 1)
    assert "Restore them from a backup" in refused.value.hint
    assert [(error.kind, error.message) for error in plan.obstacles] == [("damaged", refused.value.message)]
    assert plan.exit_code == refused.value.exit_code == 4
    assert not [call for call in deployed.triton.calls[calls:] if call.startswith("load")]
    assert deployed.current == before
    assert deployed.ask() == (3, 3.0)
    failure = deployed.folder.journal.get("r1").failure
    assert failure is not None
    assert (failure.kind, failure.blames_artifact) == ("damaged", False)
    assert "1" in deployed.names
    assert list(deployed.folder.quarantine.failures()) == []


def test_a_cold_revert_reads_every_byte_once(deployed: World, hashed: list[Path]) -> None:
    record = revert(deployed, 1)
    assert deployed.ask() == (1, 1.0)
    assert record.hashed_utc
    assert {path.name for path in hashed} >= {"model.onnx", "golden.json", "smoke.json", "manifest.json"}
    assert len([path for path in hashed if path.name == "model.onnx"]) == 1


def test_a_warm_revert_reads_no_model(deployed: World, hashed: list[Path]) -> None:
    record = revert(deployed)
    assert deployed.ask() == (2, 2.0)
    assert not record.hashed_utc
    assert {path.name for path in hashed} == {"smoke.json", "manifest.json"}


def test_a_warm_version_that_triton_has_lost_is_read(deployed: World) -> None:
    swap(of_version(deployed, 2, "model.onnx"))
    deployed.triton.unload("best_model.v2", 1)
    with pytest.raises(Damaged, match=r"version 2 .*model\.onnx has other bytes"):
        revert(deployed)
    assert deployed.ask() == (3, 3.0)


@pytest.mark.parametrize("name", ["smoke.json", "manifest.json"])
def test_a_warm_version_is_not_judged_by_what_somebody_else_wrote(deployed: World, name: str) -> None:
    if name == "smoke.json":
        path = of_version(deployed, 2, name)
        path.write_bytes(path.read_bytes().replace(b"2.0", b"7.0"))
    else:
        edit_manifest(deployed, 2, lambda content: content.update(options={"max_batch_size": 1}))
    with pytest.raises(Damaged, match=f"{name} has other bytes"):
        revert(deployed)


def test_a_version_that_is_deployed_anew_is_read_once(deployed: World, hashed: list[Path]) -> None:
    deployed.register_times(1)
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d5"))
    deployer.materialize(MODEL, "d5")
    deployed.triton.fail["load best_model.v1"] = unavailable()
    for _ in range(2):
        with pytest.raises(DeployError):
            deployer.load(MODEL, "d5")
    deployed.triton.fail.clear()
    deployer.load(MODEL, "d5")
    assert len([path for path in hashed if path.name == "model.onnx"]) == 1


def test_a_version_that_is_deployed_anew_and_is_damaged_is_refused(deployed: World) -> None:
    swap(of_version(deployed, 1, "model.onnx"))
    deployed.register_times(1)
    plan = deployed.deployer().plan_deploy(deployed.request("d5"))
    with pytest.raises(Damaged, match="damaged") as refused:
        deployed.deploy("d5")
    assert [error.message for error in plan.obstacles] == [refused.value.message]
    assert f"move {deployed.root}/best_model/1 away" in refused.value.hint
    # The way that it names.
    (deployed.root / MODEL / "1").rename(deployed.root.parent / "away")
    deployed.deploy("d6")
    assert deployed.ask() == (1, 1.0)


@pytest.mark.parametrize("name", ["smoke.json", "manifest.json", "model.onnx"])
def test_what_is_changed_before_its_first_load_is_refused(deployed: World, name: str) -> None:
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d4"))
    deployer.materialize(MODEL, "d4")
    path = of_version(deployed, 4, name)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(Damaged, match=name):
        deployer.load(MODEL, "d4")
    deployer.rollback(MODEL, "d4")
    assert deployed.ask() == (3, 3.0)
    # Nothing is held against what MLflow has.
    assert deployed.deploy("d5").state is State.COMMITTED


def test_a_deploy_hashes_no_model_a_second_time(deployed: World, hashed: list[Path]) -> None:
    deployed.deploy("d4")
    assert {path.name for path in hashed} == {"smoke.json", "manifest.json"}


def test_a_process_that_hashes_keeps_its_lease(deployed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is as good as over all the time, so every block renews it; who finds it lost loads nothing."""
    blocks = 0
    keep = Deployments.keep_lease

    def lose_it_at_the_third(self: Deployments, deploy_id: str) -> None:
        nonlocal blocks
        blocks += 1
        if blocks == 3:
            self.folder.lease.release(deploy_id)
        keep(self, deploy_id)

    monkeypatch.setattr(versions, "BLOCK_BYTES", 64)
    monkeypatch.setattr(Deployments, "keep_lease", lose_it_at_the_third)
    request = RevertRequest(model=MODEL, deploy_id="r1", version=1, actor="me")
    with pytest.raises(Superseded):
        deployed.deployer(lease_s=0).revert(request)
    assert blocks == 3
    assert deployed.ask() == (3, 3.0)


# Repositories of earlier code


def test_what_earlier_code_released_is_compared_as_far_as_it_can_be(deployed: World) -> None:
    as_earlier_code_left_it(deployed)
    assert reconcile(deployed, deep=True).problems == ()
    record = revert(deployed, 1)
    assert deployed.ask() == (1, 1.0)
    data = of_version(deployed, 1, "manifest.json").read_bytes()
    assert record.manifest_digest == hashlib.sha256(data).hexdigest(), "from now on it is covered"


def test_its_release_tells_that_the_files_are_others(deployed: World) -> None:
    as_earlier_code_left_it(deployed)
    swap_with_manifest(deployed, 1)
    with pytest.raises(Damaged, match=r"manifest\.json lists other files than were released"):
        revert(deployed, 1)
    assert deployed.ask() == (3, 3.0)


# A version whose content is here already


@pytest.fixture
def twin(world: World) -> World:
    """Version 1 is live, and the alias names version 2, which has the same files."""
    world.register_times(1)
    digest = world.deploy("d1").digest
    world.register(2, files(times(1.0), triton__golden_json=golden(1.0)), digest=digest)
    return world


def make_a_symlink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [swap, Path.unlink, make_a_symlink, lambda path: os.truncate(path, 3)])
def test_a_damaged_twin_is_not_linked(
    twin: World, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    damage(of_version(twin, 1, "model.onnx"))
    reads = len(twin.store.reads)
    twin.deploy("d2")
    assert len(twin.store.reads) == reads + 1, "the golden inputs are linked, the model is not"
    assert twin.ask() == (2, 1.0)
    assert of_version(twin, 2, "model.onnx").read_bytes() == times(1.0).SerializeToString()
    assert of_version(twin, 2, "model.onnx").stat().st_nlink == 1
    assert "version 1 has the same files, but its model.onnx is damaged" in caplog.text
    assert [line for line in reconcile(twin, deep=True).problems if "version 1: model.onnx" in line] or (
        damage is make_a_symlink
    )


def test_a_twin_on_a_bad_block_is_not_linked(twin: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, progress: Callable[[int], object]) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(incoming, "sha256_of", fail)
    twin.deploy("d2")
    assert twin.ask() == (2, 1.0)
    assert of_version(twin, 2, "model.onnx").stat().st_nlink == 1


def test_a_whole_twin_is_hashed_and_linked(twin: World, hashed: list[Path]) -> None:
    reads = len(twin.store.reads)
    twin.deploy("d2")
    assert len(twin.store.reads) == reads
    assert os.path.samefile(of_version(twin, 1, "model.onnx"), of_version(twin, 2, "model.onnx"))
    assert "model.onnx" in {path.name for path in hashed}


def test_a_manifest_that_cant_be_read_keeps_no_other_version_from_being_deployed(twin: World) -> None:
    twin.deploy("d2")
    twin.register(3, files(times(1.0), triton__golden_json=golden(1.0)), digest="0" * 64)
    of_version(twin, 1, "manifest.json").write_text("{")
    with pytest.raises(DeployError, match="training recorded 0000"):
        twin.deploy("d3")


# In an emergency


def test_an_emergency_goes_back_without_a_look_and_says_so_for_ever(
    deployed: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = of_version(deployed, 1, "manifest.json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(Damaged):
        revert(deployed, 1)
    request = RevertRequest(
        model=MODEL, deploy_id="r2", version=1, actor="me", reason="fire", unverified=True
    )
    assert "not looked at" in deployed.deployer().plan_revert(request).does[0]
    record = deployed.deployer().revert(request)
    assert deployed.ask() == (1, 1.0)
    assert (record.unverified, record.hashed_utc) == (True, "")
    current = json.loads(deployed.current or "")
    assert current["reason"] == "not verified: fire"
    # What it should be stays known.
    assert current["manifest_digest"] == digest
    assert "version 1: manifest.json has other bytes than were deployed" in reconcile(deployed).problems[0]
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(deployed.root))
    monkeypatch.setenv("TRITON_DEPLOY_GRPC_URLS", "127.0.0.1:1")
    cli.main(["history", MODEL])
    assert "not verified: fire" in capsys.readouterr().out
    cli.main(["status", MODEL])
    assert ", not verified: fire\n" in capsys.readouterr().out


@pytest.mark.parametrize("reason", ["", "  "])
def test_an_emergency_has_a_reason(deployed: World, reason: str) -> None:
    request = RevertRequest(
        model=MODEL, deploy_id="r1", version=1, actor="me", reason=reason, unverified=True
    )
    assert deployed.deployer().plan_revert(request).exit_code == 3
    with pytest.raises(InvalidInput, match="needs a reason"):
        deployed.deployer().revert(request)
    assert deployed.folder.journal.find("r1") is None
    assert revert(deployed, deploy_id="r2").state is State.COMMITTED, "it keeps nobody waiting"


def test_the_command_line_asks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[RevertRequest] = []

    def note(self: Deployer, request: RevertRequest) -> Deployment:
        asked.append(request)
        raise InvalidInput("", hint="")

    monkeypatch.setattr(Deployer, "revert", note)
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(tmp_path))
    cli.main(["revert", MODEL])
    cli.main(["revert", MODEL, "--unverified", "--reason", "fire"])
    assert [(request.unverified, request.reason) for request in asked] == [(False, ""), (True, "fire")]


# What reconcile tells


def test_reconcile_tells_of_a_manifest_that_is_not_the_released_one(deployed: World) -> None:
    path = of_version(deployed, 3, "manifest.json")
    path.write_bytes(path.read_bytes() + b"\n")
    (problem,) = reconcile(deployed).problems
    assert problem.startswith("version 3: manifest.json has other bytes than were deployed")
    assert deployed.ask() == (3, 3.0)


def test_reconcile_tells_of_a_manifest_that_cant_be_read(deployed: World) -> None:
    of_version(deployed, 3, "manifest.json").write_text("{")
    assert str(of_version(deployed, 3, "manifest.json")) in reconcile(deployed).problems[0]
    assert deployed.ask() == (3, 3.0)


def test_a_deep_reconcile_tells_of_a_smoke_case_that_is_not_the_deployed_one(deployed: World) -> None:
    swap(of_version(deployed, 3, "smoke.json"))
    (problem,) = reconcile(deployed, deep=True).problems
    assert problem.startswith("version 3: smoke.json has other bytes than were deployed")


def test_the_last_release_of_a_version_counts(deployed: World) -> None:
    revert(deployed, 1)
    assert integrity.last_release_of(deployed.folder, 1) == deployed.folder.releases.latest()
    assert integrity.last_release_of(deployed.folder, 9) is None


# A digest is demanded


def test_a_version_without_a_recorded_digest_is_refused_where_one_is_demanded(world: World) -> None:
    world.register_times(1)
    request = world.request()
    plan = world.deployer(transfer__require_digest="yes").plan_deploy(request)
    with pytest.raises(DigestMissing, match="TRITON_DEPLOY_REQUIRE_DIGEST demands it") as refused:
        world.deployer(transfer__require_digest="yes").deploy(request)
    assert [(error.kind, error.message) for error in plan.obstacles] == [
        ("digest_missing", refused.value.message)
    ]
    assert plan.exit_code == refused.value.exit_code == 4
    assert world.store.reads == []
    assert list(world.folder.quarantine.failures()) == []
    # Nothing is held against its files.
    digest = world.deploy("d2").digest
    world.register(2, files(times(1.0), triton__golden_json=golden(1.0)), digest=digest)
    assert world.deployer(transfer__require_digest="yes").deploy(world.request("d3")).state is State.COMMITTED
