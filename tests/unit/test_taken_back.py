"""A version that a bake found bad does not come again by itself, and everybody can see how releases were judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from ml_code.gateway.front.deploy_metrics import DeployMetrics
from ml_code.gateway.triton.deploy_history import DeployHistory
from ml_code.triton_deploy import cli
from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import BakeFailed, NotFound, StorageFailed, TakenBack
from ml_code.triton_deploy.report.mlflow_tags import _refused as refused_versions
from ml_code.triton_deploy.repository.verdicts import bad_versions, judged
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.bake_rules import Limits
from ml_code.triton_deploy.rules.canary import canary_of
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.standing import drift, standings
from ml_code.triton_deploy.upkeep.bake import Baking
from ml_code.triton_deploy.upkeep.status import model_status
from ml_code.triton_deploy.watch.policy import BakePolicy
from tests.support.models import files, golden, times
from tests.support.world import MODEL, World

POLICY = BakePolicy(duration_s=600, interval_s=60, window_s=120, bad_looks=2, limits=Limits())
WHY = "10 % of 1000 requests fail"


def live(world: World) -> Release:
    release = world.folder.releases.latest()
    assert release is not None
    return release


def bake(world: World, verdict: BakeVerdict, why: str = WHY) -> None:
    """Record how the bake of what is live ended, and do what follows."""
    release = live(world)
    found = Bake(
        model=MODEL,
        generation=release.generation,
        version=release.active_version,
        deploy_id=release.deploy_id,
        verdict=verdict,
        reasons=(why,),
        looks=2,
        judged=2,
        figures={},
        began_at_utc=utc_text(world.now),
        ended_at_utc=utc_text(world.now),
    )
    Baking(world.settings, MODEL, POLICY, deployer=world.deployer(), actor="bake").conclude(found)


def take_back(world: World) -> None:
    with pytest.raises(BakeFailed, match="is live again"):
        bake(world, BakeVerdict.FAILED)


@pytest.fixture
def site(world: World) -> World:
    """Version 2 replaced version 1, and its bake took it back. The alias still names it."""
    for version in (1, 2):
        world.register_times(version)
        world.deploy(f"d{version}")
        world.later(60)
    take_back(world)
    world.later(60)
    return world


def test_a_version_that_a_bake_took_back_is_not_deployed_again(site: World) -> None:
    with pytest.raises(TakenBack) as raised:
        site.deploy("nightly")
    assert raised.value.exit_code == 4
    assert WHY in raised.value.message
    assert "release 2" in raised.value.message
    assert "--force" in raised.value.hint
    assert site.ask() == (1, 1.0)
    assert site.folder.journal.find("nightly") is None, "a refused snapshot leaves nothing"


def test_somebody_who_forces_it_gets_it(site: World) -> None:
    assert site.deploy("forced", force=True).state is State.COMMITTED
    assert site.ask() == (2, 2.0)


def test_what_serves_is_refused_to_nobody(site: World) -> None:
    site.deploy("forced", force=True)
    assert site.deploy("nightly").state is State.UNCHANGED


def test_the_dry_run_says_the_same(site: World) -> None:
    plan = site.deployer().plan_deploy(site.request("dry"))
    assert [type(error) for error in plan.obstacles] == [TakenBack]
    assert plan.facts["taken_back"] is True
    forced = site.deployer().plan_deploy(site.request("dry", force=True))
    assert not forced.obstacles
    assert forced.facts["taken_back"] is True


@pytest.mark.parametrize("recorded", [True, False])
def test_the_same_files_under_another_number_are_refused(site: World, recorded: bool) -> None:
    digest = next(one for one in site.folder.releases.history() if one.active_version == 2).digest
    site.register(3, files(times(2.0), triton__golden_json=golden(2.0)), digest=digest if recorded else "")
    with pytest.raises(TakenBack, match="has the files of version 2"):
        site.deploy("again")
    assert site.ask() == (1, 1.0)


def test_a_repaired_version_is_deployed(site: World) -> None:
    site.register_times(3)
    assert site.deploy("d3").state is State.COMMITTED


def test_another_version_of_the_same_number_is_not_meant(site: World) -> None:
    """The model was deleted and made anew: that is refused for another reason, and a renumbered one is not."""
    found = site.registry.models[MODEL]["A"]
    site.register_times(5)
    named = site.registry.models[MODEL]["A"]
    assert isinstance(found, RegisteredVersion)
    site.registry.models[MODEL]["A"] = replace(named, run_id="another")
    assert site.deploy("d5").state is State.COMMITTED


def test_a_later_bake_that_passes_forgives_it(site: World) -> None:
    site.deploy("forced", force=True)
    assert [bad.version for bad in bad_versions(site.folder)] == [2]
    bake(site, BakeVerdict.NO_DATA)
    assert [bad.version for bad in bad_versions(site.folder)] == [2], "nothing was learned"
    site.register_times(3)
    site.deploy("d3")
    site.register_times(2)
    site.deploy("forced-again", force=True)
    bake(site, BakeVerdict.PASSED)
    assert not bad_versions(site.folder)


def test_a_revert_does_not_go_back_to_a_version_that_a_bake_found_bad(site: World) -> None:
    """Version 1 replaced version 2, which is bad."""
    with pytest.raises(NotFound, match="which a bake found bad") as raised:
        site.deployer().revert(RevertRequest(model=MODEL, deploy_id="r1"))
    assert "--to 2" in raised.value.hint
    assert site.ask() == (1, 1.0)
    site.register_times(3)
    site.deploy("d3")
    take_back(site)
    site.register_times(4)
    site.deploy("d4")
    site.deployer().revert(RevertRequest(model=MODEL, deploy_id="r2"))
    assert site.ask() == (1, 1.0)
    site.deployer().revert(RevertRequest(model=MODEL, deploy_id="r3", version=2))
    assert site.ask() == (2, 2.0), "a person may name it"


# Where it can be seen


def cli_says(
    site: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *argv: str
) -> str:
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(site.root))
    monkeypatch.setenv("TRITON_DEPLOY_GRPC_URLS", "127.0.0.1:9")
    monkeypatch.setenv("TRITON_DEPLOY_SWITCH_TIMEOUT_S", "0.1")
    cli.main([*argv, "--quiet"])
    return capsys.readouterr().out


def test_status_and_history_say_it(
    site: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = cli_says(site, capsys, monkeypatch, "status", MODEL)
    assert f"taken back: version 2, not deployed again without --force: {WHY}" in said
    said = cli_says(site, capsys, monkeypatch, "history", MODEL)
    assert f"[failed its bake: {WHY}]" in next(line for line in said.splitlines() if "version 2 " in line)
    told = json.loads(cli_says(site, capsys, monkeypatch, "history", MODEL, "--json"))
    assert [one["verdict"] for one in told] == ["", f"failed its bake: {WHY}", ""]


def test_the_page_says_it(site: World) -> None:
    history = DeployHistory(site.root, MODEL)
    history.look(3)
    assert [one["verdict"] for one in history.to_dict()["releases"]] == ["", f"failed its bake: {WHY}", ""]
    bake(site, BakeVerdict.PASSED, "gateway saw 100 requests")
    history.look(3)
    assert history.to_dict()["releases"][0]["verdict"] == "passed its bake: gateway saw 100 requests"


def test_the_alias_that_still_names_it_is_told_of(site: World) -> None:
    from ml_code.triton_deploy.rules.identity import Origin
    from ml_code.triton_deploy.rules.standing import Registered

    named = Registered(version=2, origin=Origin(run_id="run2", place="fake://artifacts/2"))
    text = drift(live(site), named, refused_versions(site.folder))
    assert f"Version 2 failed (failed its bake: {WHY}) and is not deployed again without --force." in text


def test_mlflow_is_told_why_and_how(site: World) -> None:
    releases = list(site.folder.releases.history())
    shown = standings(releases, [], {2: "failed its bake: so", 3: "passed its bake: so"})
    assert shown[2].tags()["verdict"] == "failed its bake: so"
    assert shown[2].tags()["reason"] == f"failed its bake: {WHY}"
    assert shown[1].tags()["verdict"] == "passed its bake: so"
    assert "reason" not in shown[1].tags()


def test_mlflow_is_told_why_a_person_took_a_version_back(site: World) -> None:
    site.register_times(3)
    site.deploy("d3")
    site.deployer().revert(RevertRequest(model=MODEL, deploy_id="r1", reason="too many refunds"))
    shown = standings(list(site.folder.releases.history()), [])
    assert shown[3].tags()["reason"] == "too many refunds"


Unjudged = Callable[[World], None]


def unjudged_canary(world: World) -> None:
    record = world.folder.journal.get(live(world).deploy_id)
    canary = canary_of("5", 0, 1)
    assert canary is not None
    noted = replace(record, canary=replace(canary, unjudged=("5 % were seen by nobody",)))
    world.folder.journal.append(noted, record)


def unjudged_bake(world: World) -> None:
    bake(world, BakeVerdict.NO_DATA, "no source saw a request")


@pytest.mark.parametrize(
    ("leave", "judge", "text"),
    [
        (unjudged_canary, "canary", "its canary could not be judged: 5 % were seen by nobody"),
        (unjudged_bake, "bake", "could not be judged: no source saw a request"),
    ],
)
def test_what_was_committed_without_a_verdict_is_seen(
    site: World, leave: Unjudged, judge: str, text: str
) -> None:
    site.register_times(3)
    site.deploy("d3")
    before = DeployMetrics(site.root).text().decode()
    assert f'release_without_verdict{{judge="{judge}",model="{MODEL}"}} 0.0' in before
    leave(site)
    how = judged(site.folder, live(site))
    assert (how.without_verdict, str(how)) == ((judge,), text)
    state = model_status(site.settings, MODEL)
    assert (state.verdict, state.without_verdict) == (text, (judge,))
    metrics = DeployMetrics(site.root).text().decode()
    assert f'triton_deploy_release_without_verdict{{judge="{judge}",model="{MODEL}"}} 1.0' in metrics
    assert f'triton_deploy_taken_back{{model="{MODEL}",version="2"}} 1.0' in metrics


def test_a_journal_that_can_not_be_read_hides_no_release(
    site: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = live(site)
    last = max((site.root / MODEL / "deployments" / release.deploy_id).glob("*.json"))
    last.write_text("{")
    said = cli_says(site, capsys, monkeypatch, "history", MODEL)
    assert len(said.splitlines()) == 3
    assert said.count("[how it was judged can't be read]") == 1
    assert len(model_status(site.settings, MODEL).problems) == 1


def test_a_bake_that_can_not_be_read_hides_no_release_and_lets_nothing_through(
    site: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.root / MODEL / "bakes" / "000002.json").write_text("{")
    said = cli_says(site, capsys, monkeypatch, "history", MODEL)
    assert len(said.splitlines()) == 3
    assert "[how it was judged can't be read]" in said
    history = DeployHistory(site.root, MODEL)
    history.look(3)
    assert history.to_dict()["releases"][1]["verdict"] == "how it was judged can't be read"
    assert model_status(site.settings, MODEL).problems
    with pytest.raises(StorageFailed):
        site.deploy("nightly")
