"""A model that was deleted in MLflow and made anew begins at version 1 again: told apart from what serves, with one way forward."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.clients import mlflow_board
from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import (
    AliasNotFound,
    AnotherVersion,
    ArtifactRejected,
    NotFound,
    Superseded,
)
from ml_code.triton_deploy.report.mlflow_tags import MlflowTags
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.identity import Origin, is_another
from ml_code.triton_deploy.rules.standing import ALIAS_DRIFT, Notice, Registered
from ml_code.triton_deploy.rules.version_files import DIGEST_TAG, source_fingerprint
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from ml_code.triton_deploy.upkeep.renumber import MOST, STOPGAP, Renumbering
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.fakes import FakeBoard, FakeRegistry
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.world import MODEL, World

FORMER, ANEW = "a" * 32, "b" * 32
"""Runs of the former model and of the new one."""


class OneMlflow(FakeRegistry):
    """The registry that has what the board shows."""

    def __init__(self, board: FakeBoard) -> None:
        super().__init__()
        self._board = board

    def resolve(self, model: str, alias: str) -> RegisteredVersion:
        named = self._board.named(model, alias)
        if named is None:
            raise AliasNotFound(f"Registered model alias {alias} not found.", hint="Set it.")
        return RegisteredVersion(
            version=named.version,
            run_id=named.origin.run_id,
            artifact_uris=(named.origin.place,),
            expected_digest=named.origin.digest,
        )


@dataclass
class Site(World):
    """A world whose MLflow is one thing: what it shows is what it resolves."""

    board: FakeBoard = field(default_factory=FakeBoard)

    def publish(self, run_id: str, factor: float, place: str = "", **tags: str) -> int:
        """Log ``y = x * factor`` to a run and register it; the alias names it."""
        place = place or f"fake://artifacts/{run_id}/artifacts/model"
        artifact = files(times(factor), triton__golden_json=golden(factor))
        self.store.objects.update({f"{place}/{path}": data for path, data in artifact.items()})
        origin = Origin(run_id=run_id, place=place)
        version = self.board.register(
            MODEL, Registered(version=0, origin=origin, tags=tags), {"mine": "kept", **tags}
        )
        self.board.set_alias(MODEL, "A", version)
        return version

    @property
    def feedback(self) -> MlflowTags:
        return MlflowTags(changed(self.settings, mlflow__feedback_timeout_s=60), lambda: self.board)

    def deploy_told(self, deploy_id: str) -> State:
        record = self.deployer(self.feedback).deploy(self.request(deploy_id))
        self.later(60)
        return record.state

    def reconcile(self) -> Reconciled:
        settings = changed(self.settings, mlflow__feedback_timeout_s=60)
        reconciler = Reconciler(
            settings, tritons=[self.triton], clock=lambda: self.now, feedback=self.feedback
        )
        return reconciler.run(MODEL)

    def renumbering(self) -> Renumbering:
        return Renumbering(self.folder, self.board, "triton")

    @property
    def drift(self) -> str:
        (notice,) = self.feedback.drift(self.folder)
        assert notice.kind == ALIAS_DRIFT
        return notice.text


@pytest.fixture
def site(world: World) -> Site:
    """Version 1 of the former model is live; the model was deleted and made anew, and has version 1 again."""
    site = Site(**vars(world))
    site.registry = OneMlflow(site.board)
    site.publish(FORMER, 2.0)
    site.deploy_told("former")
    site.board.make_anew(MODEL)
    site.publish(ANEW, 5.0)
    return site


# Which version a number means


@pytest.mark.parametrize(
    ("here", "there", "another"),
    [
        (("r", "s3://b/1/r/artifacts/model"), ("r", "runs:/r/model"), False),
        (("r", "s3://b/1/r/artifacts/model"), ("q", "runs:/q/model"), True),
        (("r", "s3://b/1/r/artifacts/model"), ("r", "runs:/r/other"), True),
        (("r", "s3://b/1/r/artifacts/onnx"), ("r", "runs:/r/sklearn"), False),
        (("r", "mlflow-artifacts:/1/r/artifacts/model"), ("r", "s3://moved/1/r/artifacts/model"), False),
        (("r", "s3://b/1/models/m-1/artifacts"), ("r", "models:/m-1"), False),
        (("r", "s3://b/1/models/m-1/artifacts"), ("r", "models:/m-2"), True),
        (("r", "s3://b/1/models/m-1/artifacts"), ("r", "runs:/r/model"), False),
        (("", "s3://b/fixed"), ("", "s3://b/fixed/"), False),
        (("", "s3://b/fixed"), ("", "s3://b/other"), True),
        (("", "s3://b/fixed"), ("r", "s3://b/fixed"), True),
        (("r", ""), ("r", "runs:/r/model"), False),
        (("r", "s3://b/1/r/artifacts/model"), ("r", "models:/ /"), False),
    ],
)
def test_versions_are_told_apart_by_run_and_source(
    here: tuple[str, str], there: tuple[str, str], another: bool
) -> None:
    one, other = (Origin(run_id=run_id, place=place) for run_id, place in (here, there))
    assert is_another(one, other) is another
    assert is_another(other, one) is another


def test_equal_digests_of_one_run_are_one_version_wherever_it_is() -> None:
    one = Origin(run_id="r", place="s3://a/1/r/artifacts/x", digest="d")
    assert not is_another(one, replace(one, place="s3://a/1/r/artifacts/y"))
    assert is_another(one, replace(one, place="s3://a/1/r/artifacts/y", digest="e"))


# Tags and drift


def test_a_version_that_was_never_deployed_does_not_get_the_tags_of_the_former_one(site: Site) -> None:
    found = site.reconcile()
    assert site.board.shelves[MODEL][1] == {"mine": "kept"}
    assert (found.done, found.problems) == ((), ())


def test_tags_that_earlier_code_wrote_onto_the_new_version_are_taken_off(site: Site) -> None:
    site.board.shelves[MODEL][1] |= {
        "triton.status": "live",
        "triton.generation": "1",
        "other.status": "live",
    }
    assert site.reconcile().done == (
        f"tell MLflow that version 1 of run {ANEW} is another one than was deployed",
    )
    assert site.board.shelves[MODEL][1] == {"mine": "kept", "other.status": "live"}
    assert site.reconcile().done == ()


def test_the_same_run_with_another_logged_model_is_told_apart(world: World) -> None:
    site = Site(**vars(world))
    site.registry = OneMlflow(site.board)
    place = "fake://artifacts/models/m-{}/artifacts"
    site.publish(FORMER, 2.0, place.format("one"))
    site.deploy_told("former")
    site.board.make_anew(MODEL)
    site.publish(FORMER, 5.0, place.format("two"))
    site.reconcile()
    assert "triton.status" not in site.board.shelves[MODEL][1]
    assert f"names version 1 of run {FORMER} in MLflow, which is another version 1" in site.drift


def test_drift_and_status_say_that_it_is_another_version_1(site: Site) -> None:
    assert site.drift == (
        f"Alias A of {MODEL} names version 1 of run {ANEW} in MLflow, which is another version 1 than the one that serves "
        f"(run {FORMER}): the model was deleted in MLflow and made anew. Give the new version a number that is free: "
        f"triton-deploy renumber {MODEL} --alias A. It registers the version again in MLflow, above every number that the repository "
        "knows, and moves the alias to it. What serves is not touched. Then deploy."
    )
    settings = changed(site.settings, triton__grpc_urls=("127.0.0.1:1",), triton__switch_timeout_s=0.5)
    assert model_status(settings, MODEL, site.feedback).notices == (Notice(ALIAS_DRIFT, site.drift),)


def test_drift_tells_a_number_apart_that_serves_no_more(site: Site) -> None:
    site.renumbering().run("A")
    site.deploy_told("anew")
    site.board.set_alias(MODEL, "A", 1)
    text = site.drift
    assert f"names version 1 in MLflow, and version 2 serves. Version 1 of run {ANEW} is another one" in text
    assert f"(run {FORMER})" in text
    assert "triton-deploy renumber" in text


def test_a_failure_of_the_former_version_is_not_held_against_the_new_one(world: World) -> None:
    site = Site(**vars(world))
    site.registry = OneMlflow(site.board)
    site.publish(FORMER, 2.0)
    site.deploy_told("first")
    bad = site.publish("c" * 32, 3.0)
    site.triton.fail[f"load {MODEL}.v{bad}"] = ArtifactRejected("broken", hint="x")
    with pytest.raises(ArtifactRejected):
        site.deploy_told("bad")
    assert "is in quarantine" in site.drift
    assert site.board.shelves[MODEL][bad]["triton.status"] == "failed"
    site.board.make_anew(MODEL)
    site.publish(FORMER, 2.0)
    assert site.publish(ANEW, 5.0) == bad
    assert "is in quarantine" not in site.drift
    site.reconcile()
    assert "triton.status" not in site.board.shelves[MODEL][bad]
    assert site.board.shelves[MODEL][1]["triton.status"] == "live", "it is the same one, registered again"


# Deploy and its dry run


def test_a_deploy_of_it_is_refused_before_anything_is_done(site: Site) -> None:
    plan = site.deployer().plan_deploy(site.request("anew"))
    with pytest.raises(AnotherVersion) as refused:
        site.deploy_told("anew")
    error = refused.value
    assert (error.kind, error.exit_code, error.blames_artifact) == ("another_version", 3, False)
    assert f"Version 1 of {MODEL} in MLflow (run {ANEW}, " in error.message
    assert f"is another one than version 1 in the model repository (run {FORMER}, " in error.message
    assert f"triton-deploy renumber {MODEL} --alias A" in error.hint
    assert (plan.does, plan.exit_code) == ((), 3)
    assert (plan.obstacles[0].message, plan.obstacles[0].hint) == (error.message, error.hint)
    assert site.folder.journal.ids() == ["former"]
    assert site.folder.lease.last(site.now) == (None, False)
    assert list(site.folder.quarantine.failures()) == []
    assert site.ask() == (1, 2.0)


def test_force_does_not_put_other_files_under_a_number_that_clients_know(site: Site) -> None:
    with pytest.raises(AnotherVersion):
        site.deploy("anew", force=True)
    assert site.ask() == (1, 2.0)


def test_other_files_of_the_same_sizes_in_a_fixed_place_are_not_taken_for_what_serves(world: World) -> None:
    site = Site(**vars(world))
    site.registry = OneMlflow(site.board)
    site.publish(FORMER, 2.0, "fake://fixed/place")
    site.deploy_told("former")
    site.board.make_anew(MODEL)
    site.publish(ANEW, 3.0, "fake://fixed/place")
    pinned = site.folder.versions.require(1).fingerprint
    assert source_fingerprint("fake://fixed/place", site.store.list_files("fake://fixed/place")) == pinned
    with pytest.raises(AnotherVersion):
        site.deploy_told("anew")
    assert site.ask() == (1, 2.0)


def test_the_race_between_snapshot_and_copying_is_lost_without_blame(site: Site) -> None:
    site.board.make_anew(MODEL)
    site.publish(FORMER, 2.0)
    site.publish(ANEW, 5.0)
    site.deployer().snapshot(site.request("anew"))
    installed = site.folder.versions.require(1)
    target = site.root / MODEL / "2"
    target.mkdir()
    manifest = json.loads((site.root / MODEL / "1/manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps(manifest | {"version": 2, "deploy_id": "anew"}))
    with pytest.raises(AnotherVersion, match=installed.run_id):
        site.deployer().materialize(MODEL, "anew")


def test_the_same_files_under_a_new_run_are_deployed(site: Site) -> None:
    digest = site.folder.versions.require(1).digest
    site.board.make_anew(MODEL)
    site.publish(ANEW, 2.0, **{DIGEST_TAG: digest})
    assert "Its files are the same: deploy it" in site.drift
    assert site.deploy_told("anew") is State.COMMITTED
    assert site.feedback.drift(site.folder) == ()
    assert site.board.shelves[MODEL][1]["triton.status"] == "live"
    assert site.deploy_told("again") is State.UNCHANGED
    assert site.ask() == (1, 2.0)


def test_a_number_that_was_never_live_is_taken_again(world: World) -> None:
    site = Site(**vars(world))
    site.registry = OneMlflow(site.board)
    site.publish(FORMER, 2.0)
    site.deployer().snapshot(site.request("left"))
    site.deployer().materialize(MODEL, "left")
    site.deployer().rollback(MODEL, "left")
    site.board.make_anew(MODEL)
    site.publish(ANEW, 5.0)
    assert site.deploy_told("anew") is State.COMMITTED
    assert site.ask() == (1, 5.0)


# The way forward


def test_renumbering_is_the_one_way_forward(site: Site) -> None:
    done = site.renumbering().run("A")
    assert (done.was, done.now, done.above, done.needed) == (1, 2, 1, True)
    assert site.ask() == (1, 2.0)
    assert site.deploy_told("anew") is State.COMMITTED
    assert site.ask() == (2, 5.0)
    assert site.feedback.drift(site.folder) == ()
    assert "triton.status" not in site.board.shelves[MODEL][1]
    assert site.board.shelves[MODEL][2]["triton.status"] == "live"
    site.deployer().revert(RevertRequest(model=MODEL, deploy_id="back", actor="test"))
    assert site.ask() == (1, 2.0)


def test_it_goes_above_every_number_at_once_and_leaves_nothing_behind(site: Site) -> None:
    (site.root / MODEL / "7.failed_20260101T000000").mkdir()
    digest = "d" * 64
    site.board.shelves[MODEL][1] |= {"triton.status": "live", DIGEST_TAG: digest}
    done = site.renumbering().run("A")
    assert (done.now, done.above) == (8, 7)
    assert set(site.board.shelves[MODEL]) == {1, 8}
    assert site.board.shelves[MODEL][8] == {"mine": "kept", DIGEST_TAG: digest}
    assert site.board.pointing[MODEL] == {"A": 8}
    assert site.board.versions(MODEL)[8].origin == site.board.versions(MODEL)[1].origin


def test_it_is_safe_to_repeat(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (site.root / MODEL / "4.failed_20260101T000000").mkdir()
    register, left = FakeBoard.register, [2]

    def breaks_off(board: FakeBoard, *arguments: object) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise ConnectionError
        return register(board, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(FakeBoard, "register", breaks_off)
        with pytest.raises(ConnectionError):
            site.renumbering().run("A")
    assert site.board.pointing[MODEL] == {"A": 1}
    assert site.renumbering().run("A").now == 5
    assert set(site.board.shelves[MODEL]) == {1, 5}, "what the first try left is gone too"
    again = site.renumbering().run("A")
    assert (again.was, again.now, again.needed) == (5, 5, False)


def test_a_dry_run_changes_nothing(site: Site) -> None:
    done = site.renumbering().run("A", dry_run=True)
    assert (done.was, done.now, done.needed) == (1, 0, True)
    assert set(site.board.shelves[MODEL]) == {1}


def test_a_version_with_a_number_of_its_own_keeps_it(world: World) -> None:
    site = Site(**vars(world))
    site.registry = OneMlflow(site.board)
    site.publish(FORMER, 2.0)
    assert not site.renumbering().run("A").needed
    site.deploy_told("former")
    assert not site.renumbering().run("A").needed, "it is the one that serves"
    assert set(site.board.shelves[MODEL]) == {1}


def test_an_alias_that_moves_meanwhile_stays_where_it_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    register = FakeBoard.register

    def moved(board: FakeBoard, model: str, like: Registered, tags: dict[str, str]) -> int:
        number = register(board, model, like, tags)
        if STOPGAP not in tags:
            board.shelves[model][99] = {}
            board.set_alias(model, "A", 99)
        return number

    monkeypatch.setattr(FakeBoard, "register", moved)
    with pytest.raises(Superseded, match="was moved"):
        site.renumbering().run("A")
    assert site.board.pointing[MODEL] == {"A": 99}
    assert set(site.board.shelves[MODEL]) == {1, 99}


def test_too_many_numbers_and_an_alias_that_is_not_set_are_refused(site: Site) -> None:
    (site.root / MODEL / f"{MOST + 2}.failed_20260101T000000").mkdir()
    with pytest.raises(AnotherVersion, match=f"more than {MOST} numbers"):
        site.renumbering().run("A")
    assert set(site.board.shelves[MODEL]) == {1}
    with pytest.raises(AliasNotFound, match="Alias B"):
        site.renumbering().run("B")


@pytest.fixture
def command(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line on the site; returns exit code, output and what was said on stderr."""
    real = Deployer.__init__

    def init(deployer: Deployer, settings: object, **options: object) -> None:
        real(
            deployer,
            site.settings,
            registry=site.registry,
            stores=lambda uri: site.store,
            tritons=[site.triton],
            clock=lambda: site.now,
        )

    monkeypatch.setattr(Deployer, "__init__", init)
    monkeypatch.setattr(mlflow_board, "MlflowBoard", lambda settings: site.board)
    monkeypatch.setattr(Settings, "from_env", classmethod(lambda cls: site.settings))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main([*arguments, "--quiet"])
        return code, *capsys.readouterr()

    return run


def test_the_commands_say_it_all(site: Site, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("deploy", MODEL, "--dry-run")
    assert code == 3
    assert "would be refused: Version 1" in out
    assert "copy nothing" not in out
    code, _, err = command("deploy", MODEL)
    assert code == 3
    assert f"What to do: Give the new version a number that is free: triton-deploy renumber {MODEL}" in err
    assert "Still true: version 1 of best_model is live" in err
    code, out, _ = command("renumber", MODEL, "--dry-run")
    assert (code, out) == (
        0,
        f"would register version 1 of {MODEL} again, above version 1, and move alias A to it\n",
    )
    code, out, _ = command("renumber", MODEL)
    assert (code, out) == (
        0,
        f"Version 1 of {MODEL} is registered again as version 2, and alias A names that one. "
        f"Deploy it: triton-deploy deploy {MODEL} --alias A\n",
    )
    assert command("renumber", MODEL)[1].startswith("Nothing to do: version 2")
    assert json.loads(command("renumber", MODEL, "--json")[1])["now"] == 2
    assert command("deploy", MODEL)[0] == 0
    assert site.ask() == (2, 5.0)


# A run that is gone


def test_a_version_whose_run_and_files_are_gone_from_mlflow_is_deployed_from_the_repository(
    world: World,
) -> None:
    site = Site(**vars(world))
    site.registry = OneMlflow(site.board)
    site.publish(FORMER, 2.0)
    site.deploy_told("first")
    site.publish(ANEW, 5.0)
    site.deploy_told("second")
    site.store.objects.clear()
    site.board.set_alias(MODEL, "A", 1)
    plan = site.deployer().plan_deploy(site.request("third"))
    assert (plan.obstacles, plan.does[0].partition(";")[0]) == ((), "copy nothing: its files are here")
    assert site.deploy_told("third") is State.COMMITTED
    assert site.ask() == (1, 2.0)


def test_another_version_is_not_taken_from_the_repository_for_one_that_is_gone(site: Site) -> None:
    site.store.objects.clear()
    with pytest.raises(ArtifactRejected, match=r"no model\.onnx"):
        site.deploy_told("anew")
    site.registry.resolve = lambda model, alias: RegisteredVersion(  # type: ignore[method-assign]
        version=3, run_id=ANEW, artifact_uris=(), expected_digest=""
    )
    with pytest.raises(NotFound, match="its run, or the logged model"):
        site.deploy_told("gone")
    assert site.ask() == (1, 2.0)


def test_what_failed_says_of_which_run_it_was(site: Site) -> None:
    site.renumbering().run("A")
    site.triton.fail[f"load {MODEL}.v2"] = ArtifactRejected("broken", hint="x")
    with pytest.raises(ArtifactRejected):
        site.deploy_told("bad")
    ((path, failure),) = site.folder.quarantine.failures()
    assert failure["run_id"] == ANEW
    assert Path(path, "failure.json").is_file()
