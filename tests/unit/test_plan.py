"""What a command would do, and that asking changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.dry_run import Plan
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import DeployError, InvalidInput, LeaseHeld
from ml_code.triton_deploy.rules.deployment import State, advance
from tests.support.fakes import unavailable
from tests.support.findings import STEPS, snapshot_of
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.world import MODEL, World, deployed


@pytest.fixture(name="deployed")
def three_deployed(world: World) -> World:
    """Versions 1, 2 and 3 were deployed; 3 is live, 2 is warm; the alias names 4."""
    return deployed(world)


@pytest.fixture(autouse=True)
def nothing_is_touched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plan of a test leaves the repository and every Triton as they were."""

    def watched(name: str) -> Any:
        plan = getattr(Deployer, name)

        def call(self: Deployer, *args: Any) -> Plan:
            before, calls = snapshot_of(world.root), len(world.triton.calls)
            try:
                found: Plan = plan(self, *args)
            finally:
                assert snapshot_of(world.root) == before
                assert {call.split()[0] for call in world.triton.calls[calls:]} <= {
                    "ready_versions",
                    "loaded",
                }
            json.dumps(found.to_dict())
            return found

        return call

    for name in ("plan_deploy", "plan_revert", "plan_rollback"):
        monkeypatch.setattr(Deployer, name, watched(name))


def plan_deploy(world: World, deploy_id: str = "d4", **changes: Any) -> Plan:
    return world.deployer().plan_deploy(world.request(deploy_id, **changes))


def plan_revert(world: World, version: int | None = None, deploy_id: str = "r1") -> Plan:
    return world.deployer().plan_revert(
        RevertRequest(model=MODEL, deploy_id=deploy_id, version=version, actor="me")
    )


def exit_code_of_deploy(world: World, deploy_id: str = "d4", **changes: Any) -> int:
    try:
        world.deploy(deploy_id, **changes)
    except DeployError as error:
        return error.exit_code
    return 0


# Deploy


def test_a_deploy_that_would_go_well(deployed: World) -> None:
    plan = plan_deploy(deployed)
    size = sum(
        len(data) for path, data in deployed.store.objects.items() if path.startswith("fake://artifacts/4/")
    )
    assert plan.obstacles == ()
    assert plan.facts["version"] == 4
    assert plan.facts["run_id"] == "run4"
    assert plan.facts["bytes"] == size
    assert {file["path"] for file in plan.facts["files"]} == {"model.onnx", "triton/golden.json"}
    assert plan.facts["free_bytes"] > 0
    assert (plan.facts["is_live"], plan.facts["quarantined"], plan.facts["under_way"]) == (False, False, None)
    assert plan.does == (
        f"copy 2 files, {size} bytes; load and check version 4 beside what serves",
        "make it live as release 4",
    )
    assert plan.serves == "version 3 of best_model is live (generation 3)."
    assert deployed.deploy("d4").state is State.COMMITTED


def test_a_first_deploy_creates_nothing_when_it_is_only_planned(world: World) -> None:
    world.register_times(1)
    plan = plan_deploy(world)
    assert plan.does[-1] == "make it live as release 1"
    assert plan.serves == "no version of best_model is live."
    assert list(world.root.iterdir()) == []


def test_the_alias_is_resolved_once(deployed: World) -> None:
    calls = deployed.registry.calls
    plan_deploy(deployed)
    assert deployed.registry.calls == calls + 1


def test_what_is_live_already_is_said(deployed: World) -> None:
    deployed.register_times(3)
    plan = plan_deploy(deployed)
    assert (plan.facts["is_live"], plan.does) == (True, ("nothing: version 3 is live already",))
    assert plan.exit_code == 0


def test_files_that_are_here_are_not_copied(deployed: World) -> None:
    deployed.register_times(1)
    assert plan_deploy(deployed).does[0].startswith("copy nothing")


def refused_by_the_alias(world: World) -> dict[str, Any]:
    return {"alias": "unset"}


def refused_by_mlflow(world: World) -> dict[str, Any]:
    world.registry.models.clear()
    return {}


def refused_by_a_missing_file(world: World) -> dict[str, Any]:
    world.register(4, {"README.md": b"x"}, uri="fake://elsewhere")
    return {}


def refused_by_quarantine(world: World) -> dict[str, Any]:
    world.register_times(4, expected=7.0)
    assert exit_code_of_deploy(world, "failed") == 4
    return {}


def refused_by_another_deploy(world: World) -> dict[str, Any]:
    world.deployer().snapshot(world.request("other"))
    return {}


def refused_by_both(world: World) -> dict[str, Any]:
    world.deployer().snapshot(world.request("other"))
    return {"alias": "unset"}


def refused_by_changed_content(world: World) -> dict[str, Any]:
    world.register(2, files(times(9.0), triton__golden_json=golden(9.0)), uri="fake://changed")
    return {}


def refused_by_what_became_of_it(world: World) -> dict[str, Any]:
    world.register_times(4, expected=7.0)
    assert exit_code_of_deploy(world, "failed") == 4
    return {"deploy_id": "failed"}


@pytest.mark.parametrize(
    "prepare",
    [
        refused_by_the_alias,
        refused_by_mlflow,
        refused_by_a_missing_file,
        refused_by_quarantine,
        refused_by_another_deploy,
        refused_by_both,
        refused_by_changed_content,
        refused_by_what_became_of_it,
    ],
)
def test_a_plan_ends_as_the_deploy_would(deployed: World, prepare: Any) -> None:
    changes = {"deploy_id": "d4"} | prepare(deployed)
    plan = plan_deploy(deployed, **changes)
    assert plan.exit_code != 0
    with pytest.raises(DeployError) as refused:
        deployed.deploy(**changes)
    assert (plan.obstacles[0].kind, plan.obstacles[0].message) == (refused.value.kind, refused.value.message)


def test_a_full_disk_is_foreseen(deployed: World) -> None:
    deployed.settings = changed(deployed.settings, transfer__min_free_bytes=1 << 60)
    plan = plan_deploy(deployed)
    assert (plan.exit_code, plan.obstacles[0].kind) == (5, "storage")
    assert exit_code_of_deploy(deployed) == 5


def test_an_artifact_that_is_too_large_is_foreseen(deployed: World) -> None:
    deployed.settings = changed(deployed.settings, transfer__max_artifact_bytes=10)
    assert plan_deploy(deployed).exit_code == 4
    assert exit_code_of_deploy(deployed) == 4


def test_a_version_without_golden_inputs_is_foreseen_where_they_are_demanded(deployed: World) -> None:
    deployed.settings = changed(deployed.settings, smoke__require_golden="yes")
    assert plan_deploy(deployed).obstacles == ()
    deployed.register(4, files(times(4.0)), uri="fake://without")
    plan = plan_deploy(deployed)
    assert (plan.exit_code, plan.obstacles[0].kind) == (4, "golden_missing")
    assert "TRITON_DEPLOY_REQUIRE_GOLDEN" in plan.obstacles[0].message
    assert "Log triton/golden.json beside model.onnx" in plan.obstacles[0].hint
    assert exit_code_of_deploy(deployed) == 4
    # Nothing is held against its files: where they are not demanded any more, it is deployed.
    deployed.settings = changed(deployed.settings, smoke__require_golden="no")
    assert deployed.deploy("d5").state is State.COMMITTED


def test_force_accepts_what_is_in_quarantine_and_the_plan_says_that_it_is(deployed: World) -> None:
    refused_by_quarantine(deployed)
    plan = plan_deploy(deployed, force=True)
    assert (plan.facts["quarantined"], plan.obstacles) == (True, ())


def test_another_deploy_does_not_hide_what_else_is_known(deployed: World) -> None:
    refused_by_another_deploy(deployed)
    plan = plan_deploy(deployed)
    assert (plan.facts["under_way"], plan.facts["version"]) == ("other", 4)
    assert plan.exit_code == 6


def test_an_abandoned_deploy_would_be_settled_first(deployed: World) -> None:
    refused_by_another_deploy(deployed)
    deployed.later(10_000)
    plan = plan_deploy(deployed)
    assert (plan.does[0], plan.exit_code) == ("settle the abandoned deployment other", 0)


def test_a_triton_that_is_away_is_foreseen_where_it_is_asked(deployed: World) -> None:
    deployed.register_times(3)
    deployed.triton.fail["ready_versions"] = unavailable()
    assert plan_deploy(deployed).exit_code == 5
    assert exit_code_of_deploy(deployed) == 5


def test_a_deployment_that_was_begun_would_go_on(deployed: World) -> None:
    deployed.deployer().snapshot(deployed.request("d4"))
    assert plan_deploy(deployed).does == ("go on with deployment d4 at materialize",)
    assert plan_deploy(deployed, "d3").does == ("nothing: deployment d3 is committed",)


def test_a_bad_name_is_refused(deployed: World) -> None:
    with pytest.raises(InvalidInput):
        deployed.deployer().plan_deploy(deployed.request("../x"))


# Revert


@pytest.mark.parametrize(("version", "warm"), [(None, True), (2, True), (1, False)])
def test_a_revert_that_would_go_well(deployed: World, version: int | None, warm: bool) -> None:
    plan = plan_revert(deployed, version)
    assert (plan.facts["version"], plan.facts["warm"], plan.facts["damage"]) == (version or 2, warm, [])
    assert plan.does[0].startswith(f"make version {version or 2} live as release 4")
    assert plan.exit_code == 0


def test_damaged_files_are_foreseen(deployed: World) -> None:
    path = deployed.root / "best_model/1/model.onnx"
    path.write_bytes(path.read_bytes()[::-1])
    plan = plan_revert(deployed, 1)
    assert plan.facts["damage"] == ["model.onnx has other bytes than were deployed"]
    request = RevertRequest(model=MODEL, deploy_id="r1", version=1, actor="me")
    with pytest.raises(DeployError) as refused:
        deployed.deployer().revert(request)
    assert plan.exit_code == refused.value.exit_code


def test_a_revert_to_what_is_live_would_do_nothing(deployed: World) -> None:
    assert plan_revert(deployed, 3).does == ("nothing: version 3 is live already",)


def test_a_revert_that_would_be_refused(deployed: World) -> None:
    assert (plan_revert(deployed, 9).exit_code, plan_revert(deployed, 9).obstacles[0].kind) == (
        3,
        "not_found",
    )
    refused_by_another_deploy(deployed)
    assert plan_revert(deployed).exit_code == 6


# Rollback


@pytest.mark.parametrize("reached", range(len(STEPS)))
def test_a_rollback_would_undo_what_was_done(deployed: World, reached: int) -> None:
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d4"))
    for step in STEPS[:reached]:
        getattr(deployer, step)(MODEL, "d4")
    plan = deployer.plan_rollback(MODEL, "d4")
    assert plan.does[0].startswith("undo deployment d4 of version 4")
    assert ("put the files of version 4 into quarantine" in plan.does) == (reached > 0)
    assert plan.exit_code == 0


def test_a_rollback_would_put_the_switch_back_or_finish_a_commit(deployed: World) -> None:
    deployer = deployed.deployer()
    record = deployer.snapshot(deployed.request("d4"))
    for step in STEPS[:-1]:
        record = getattr(deployer, step)(MODEL, "d4")
    for state in (State.SWITCHING, State.COMMITTING):
        record = deployed.folder.journal.append(advance(record, state, deployed.now), record)
        plan = deployer.plan_rollback(MODEL, "d4")
        said = "point the public name" if state is State.SWITCHING else "finish the commit of version 4"
        assert any(line.startswith(said) for line in plan.does)


def test_a_rollback_that_would_do_nothing_or_be_refused(deployed: World) -> None:
    deployer = deployed.deployer()
    assert deployer.plan_rollback(MODEL, "never").does == ("nothing: deployment never had not begun",)
    assert deployer.plan_rollback(MODEL, "d3").does == ("nothing: deployment d3 is committed",)
    deployer.snapshot(deployed.request("d4"))
    deployed.folder.lease.release("d4")
    refused_by_another_deploy(deployed)
    assert deployer.plan_rollback(MODEL, "d4").exit_code == 6
    with pytest.raises(LeaseHeld):
        deployer.rollback(MODEL, "d4")


# The command line


@pytest.fixture
def command(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on the world; returns the exit code and what it printed."""
    made = Deployer.__init__

    def init(self: Deployer, settings: Any, **options: Any) -> None:
        given = {
            "registry": world.registry,
            "stores": lambda uri: world.store,
            "tritons": [world.triton],
            "clock": lambda: world.now,
        }
        made(self, settings, **options | given)

    monkeypatch.setattr(Deployer, "__init__", init)
    monkeypatch.setattr(cli.Settings, "from_env", classmethod(lambda cls: world.settings))

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([*argv, "--quiet"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["deploy", MODEL], 0, "would copy 2 files"),
        (["deploy", MODEL, "--alias", "unset"], 3, "would be refused: "),
        (["revert", MODEL], 0, "would make version 2 live as release 4, which is warm"),
        (["revert", MODEL, "--to", "9"], 3, "never live"),
        (["rollback", MODEL, "--deploy-id", "never"], 0, "would do nothing: "),
    ],
)
def test_a_dry_run_says_what_would_be_done_and_what_serves(
    deployed: World, command: Any, argv: list[str], code: int, says: str
) -> None:
    before = snapshot_of(deployed.root)
    ended, out, _ = command(*argv, "--dry-run")
    assert ended == code
    assert says in out
    assert out.splitlines()[-1] == "Nothing was changed: version 3 of best_model is live (generation 3)."
    ended, out, _ = command(*argv, "--dry-run", "--json")
    assert ended == code
    said = json.loads(out)
    assert (said["dry_run"], said["serves"]) == (True, "version 3 of best_model is live (generation 3).")
    assert bool(said["obstacles"]) == (code != 0)
    assert snapshot_of(deployed.root) == before


def test_facts_of_version_1_are_numbers(deployed: World, command: Any) -> None:
    assert "\n  version: 1\n" in command("revert", MODEL, "--to", "1", "--dry-run")[1]


@pytest.mark.parametrize(
    ("argv", "serves"),
    [
        (["deploy", MODEL], 4),
        (["revert", MODEL], 2),
        (["rollback", MODEL, "--deploy-id", "d3"], 3),
        (["rollback", MODEL, "--deploy-id", "never"], 3),
        (["status", MODEL, "--deploy-id", "d3"], 3),
        (["revert", MODEL, "--to", "9"], 3),
        (["deploy", MODEL, "--alias", "unset"], 3),
    ],
)
def test_every_output_says_what_serves(deployed: World, command: Any, argv: list[str], serves: int) -> None:
    _, out, _ = command(*argv, "--json")
    assert f"version {serves} of best_model is live" in str(json.loads(out)["serves"])


def test_gc_tells_what_goes_and_what_stays(deployed: World, command: Any) -> None:
    deployed.settings = changed(deployed.settings, retention__keep_releases=1)
    code, out, _ = command("gc", "--dry-run")
    assert code == 0
    assert out.startswith("best_model: version 3 is live\n  to remove: version 1 (")
    assert "kept: version 2: warm, replaced by the live version\n" in out
    (said,) = json.loads(command("gc", MODEL, "--json")[1])
    assert (said["live"], [it["name"] for it in said["removed"]]) == (3, ["1", "d1"])
    assert said["freed_bytes"] == sum(it["size_bytes"] for it in said["removed"]) > 0
    assert "1" not in deployed.names
    assert "freed: 0 bytes" in command("gc")[1]


@pytest.mark.parametrize(("limit", "shown"), [("0", 0), ("2", 2), ("-1", 0)])
def test_history_reads_no_more_than_it_shows(deployed: World, command: Any, limit: str, shown: int) -> None:
    (deployed.root / MODEL / "releases/000001.json").write_text("{")
    code, out, _ = command("history", MODEL, f"--limit={limit}", "--json")
    assert code == 0
    assert [release["generation"] for release in json.loads(out)] == [3, 2][:shown]
