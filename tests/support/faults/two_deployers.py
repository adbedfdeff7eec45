"""Two people deploy one model, in every order and with every accident that hypothesis can think of.

The library is the real one, on a real file system; Triton, MLflow and S3 are fakes. After every step, also
while a process is stopped in the middle of one, the promises are looked at; clients ask after every load
and unload; ``all_settles`` lets all leases run out, reconciles once, and wants everything as the last
release has it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import DeployError, IllegalTransition
from ml_code.triton_deploy.rules.deployment import STEP_AFTER, TRANSITIONS, Deployment, State
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.upkeep.gc import Collected, GarbageCollector
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from tests.support.fakes import FakeRegistry, FakeStore, FakeTriton, ones, unavailable
from tests.support.faults.killed_process import Killed, Killer, Stopper
from tests.support.models import files, golden, times, unknown_operator
from tests.support.settings import changed
from tests.support.world import MODEL, SETTINGS, World

BEYOND_LEASES_S = 10_000.0
KEEP_RELEASES = 3

ACTORS = st.sampled_from(["anna", "bert"])
A_DAY_S = 86_400.0
DELAYS_S = st.sampled_from([0.0, 5.0, 300.0, 1_000.0, BEYOND_LEASES_S, 2 * A_DAY_S])
VERSIONS = st.integers(1, 12)

FIRST_STATES = {State.PINNED, State.MATERIALIZED, State.UNCHANGED}


@functools.cache
def artifact(version: int, kind: str) -> dict[str, bytes]:
    """Files of a version. A good one multiplies by its number, so that an answer tells which version gave it."""
    right = golden(float(version))
    match kind:
        case "good":
            return files(times(float(version)), triton__golden_json=right)
        case "good without golden inputs":
            return files(times(float(version)))
        case "wrong":
            return files(times(version + 0.5), triton__golden_json=right)
        case "not a number":
            return files(times(float("nan")))
        case "not loadable":
            return files(unknown_operator(), triton__golden_json=right)
        case _:
            return files(b"not a model", triton__golden_json=right)


KINDS = st.sampled_from(
    ["good", "good", "good", "good without golden inputs", "wrong", "wrong", "not a number", "not loadable", "junk"]
)  # fmt: skip


@dataclass(frozen=True)
class Fate:
    """The fate of the process of an operation.

    Attributes:
        end: ``well``; ``killed`` at a call that has effects; or ``stopped`` there, to go on later.
        at: number of that call.
        delay_s: how long it is stopped.
        meanwhile: the operations of others in that time.
    """

    end: str = "well"
    at: int = 1
    delay_s: float = 0.0
    meanwhile: str = ""


WELL = Fate()
MEANWHILE = (
    "deploy",
    "revert",
    "rollback",
    "reconcile",
    "gc",
    "Triton restarts empty",
    "Triton restarts",
    "Triton refuses",
)


def accidents(first: int, last: int) -> st.SearchStrategy[Fate]:
    """Fates that are met somewhere from the ``first`` to the ``last`` call."""
    at = st.integers(first, last)
    delay_s = st.sampled_from([0.0, 1_000.0, BEYOND_LEASES_S])
    meanwhile = st.sampled_from(MEANWHILE)
    return st.builds(Fate, end=st.just("killed"), at=at) | st.builds(
        Fate, end=st.just("stopped"), at=at, delay_s=delay_s, meanwhile=meanwhile
    )


def fates(calls: int) -> st.SearchStrategy[Fate]:
    """Fates of an operation that makes about so many calls; half of them end well."""
    return st.booleans().flatmap(lambda well: st.just(WELL) if well else accidents(1, calls))


CALLS_FOR_A_LEASE = 7

STOPPED_BEFORE_A_REVERT = st.builds(
    Fate,
    end=st.just("stopped"),
    at=st.integers(1, 25),
    delay_s=st.just(BEYOND_LEASES_S),
    meanwhile=st.just("revert far back"),
)
"""A version that a gc has chosen to remove is live when the gc goes on."""


class ClientsTriton(FakeTriton):
    """A Triton whose clients ask the public name after everything that is done to it."""

    def __init__(self, repository: Path, seen: Callable[[tuple[int, float] | None], None]) -> None:
        super().__init__(repository)
        self._seen = seen

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        try:
            super().load(model, timeout_s, config)
        finally:
            self._seen(self.public())

    def unload(self, model: str, timeout_s: float) -> None:
        try:
            super().unload(model, timeout_s)
        finally:
            self._seen(self.public())

    def public(self) -> tuple[int, float] | None:
        """A client's answer: the version and its answer to 1, or None for an error."""
        refusals, self.fail = self.fail, {}
        try:
            answer = FakeTriton.infer(self, MODEL, ones(), 1.0)
        except DeployError:
            return None
        finally:
            self.fail = refusals
        return answer.version, float(answer.outputs["y"][0, 0])


def identities(folder: Path) -> dict[str, tuple[int, int, int]]:
    """The attributes that change with a write or a replacement: inode, time of change and size."""
    return {
        str(path): (status.st_ino, status.st_mtime_ns, status.st_size)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
        for status in [path.stat()]
    }


class TwoDeployers(RuleBasedStateMachine):
    store: ClassVar[FakeStore]
    steps: ClassVar[int] = 0
    outcomes: ClassVar[dict[str, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        root = Path(tempfile.mkdtemp(prefix="repository-"))
        self.world = World(
            root,
            changed(
                SETTINGS,
                repository=root,
                triton__ready_timeout_s=0.0,
                retention__keep_releases=KEEP_RELEASES,
                retention__keep_quarantined=1,
                retention__quarantine_days=0.0,
            ),
            FakeRegistry(),
            self.store,
            ClientsTriton(root, self._client_saw),
        )
        self.triton = self.world.triton
        self.model = root / MODEL
        self.kinds: dict[int, str] = {}
        self.ids = {"anna": "", "bert": ""}
        self.begun = 0
        self.reported: set[str] = set()
        """Deployments that were reported as committed."""
        self.doubtful: set[str] = set()
        """Deployments of which an operation ended without a report."""
        self.stopped: set[str] = set()
        """Deployments of which a process was stopped for a while."""
        self.verified: set[int] = set()
        self.journal: dict[str, tuple[int, int, int]] = {}
        self.released: dict[str, tuple[int, int, int]] = {}
        self.versions: dict[int, dict[str, tuple[int, int, int]]] = {}
        """Files of the versions that were released: these never change, and go as a whole if at all."""
        self.seen = 0
        """Releases when all promises were looked at last."""
        self.collecting = False
        """A gc was at work since all promises were looked at."""
        self.last: dict[str, Deployment] = {}
        """Deployments as last recorded."""
        self.disturbed = False
        """Something happened for which a client's error is no wonder."""
        self.violations: list[str] = []
        self._register("good")

    def teardown(self) -> None:
        try:
            if not self.violations:
                self._settle()
        finally:
            shutil.rmtree(self.world.root)

    # What MLflow, Triton and time do

    @rule(kind=KINDS)
    def a_version_is_registered(self, kind: str) -> None:
        self._register(kind)

    @rule(version=VERSIONS)
    def the_alias_moves(self, version: int) -> None:
        self._point_alias_at(1 + version % len(self.kinds))

    @rule(seconds=DELAYS_S)
    def time_passes(self, seconds: float) -> None:
        self.world.later(seconds)

    @rule(what=st.sampled_from(["nothing", "the public name", "everything"]))
    def triton_restarts(self, what: str) -> None:
        self._restart(what)

    @rule(operation=st.sampled_from(["load", "unload", "ready_versions", "infer", "loaded", f"load {MODEL}"]))
    def triton_refuses(self, operation: str) -> None:
        self.disturbed = True
        self.triton.fail[operation] = unavailable()

    @rule()
    @precondition(lambda self: self.triton.fail)
    def triton_recovers(self) -> None:
        self.triton.fail.clear()

    @rule(operation=st.sampled_from(["load", "unload"]), version=st.integers(0, 12))
    def somebody_uses_triton_by_hand(self, operation: str, version: int) -> None:
        self.disturbed = True
        with contextlib.suppress(DeployError):
            getattr(self.triton, operation)(f"{MODEL}.v{version}" if version else MODEL, 1.0)

    # What people and Airflow do

    @rule(actor=ACTORS, force=st.booleans(), fate=fates(20))
    def a_deploy_begins(self, actor: str, force: bool, fate: Fate) -> None:
        self._new_id(actor)
        request = self.world.request(self.ids[actor], force=force)
        self._attempt(actor, lambda deployer: deployer.snapshot(request), fate)

    @rule(actor=ACTORS, count=st.integers(1, 5), fate=fates(45))
    @precondition(lambda self: self._due("anna") or self._due("bert"))
    def its_next_steps_run(self, actor: str, count: int, fate: Fate) -> None:
        """The last of them meets its fate."""
        actor = actor if self._due(actor) else other_than(actor)
        for left in reversed(range(count)):
            name, deploy_id = self._due(actor), self.ids[actor]
            if name:
                self._attempt(
                    actor,
                    lambda deployer, name=name, deploy_id=deploy_id: getattr(deployer, name)(
                        MODEL, deploy_id
                    ),
                    WELL if left else fate,
                )

    @rule(actor=ACTORS, fate=accidents(14, 45))
    def a_commit_has_an_accident(self, actor: str, fate: Fate) -> None:
        """Around its decision and its release, of a good version, long after whatever else went on."""
        self.world.later(BEYOND_LEASES_S)
        self.triton.fail.clear()
        self._register("good")
        self._new_id(actor)
        request = self.world.request(self.ids[actor])
        self._attempt(actor, lambda deployer: deployer.snapshot(request), WELL)
        for name in ("materialize", "load", "ready", "smoke", "commit"):
            if self._due(actor) == name:
                self._attempt(
                    actor,
                    lambda deployer, name=name: getattr(deployer, name)(MODEL, request.deploy_id),
                    fate if name == "commit" else WELL,
                )

    @rule(actor=ACTORS, name=st.sampled_from(["materialize", "load", "ready", "smoke", "commit"]))
    def any_step_runs(self, actor: str, name: str) -> None:
        if self.ids[actor]:
            with contextlib.suppress(IllegalTransition):
                self._attempt(actor, lambda deployer: getattr(deployer, name)(MODEL, self.ids[actor]), WELL)

    @rule(actor=ACTORS, fate=fates(35))
    def a_deploy_is_rolled_back(self, actor: str, fate: Fate) -> None:
        self._attempt(actor, lambda deployer: deployer.rollback(MODEL, self.ids[actor]), fate)

    @rule(actor=ACTORS, kind=st.none() | KINDS, force=st.booleans(), fate=fates(185))
    def a_version_is_deployed(self, actor: str, kind: str | None, force: bool, fate: Fate) -> None:
        if kind:
            self._register(kind)
        self._deploy(actor, force, fate)

    @rule(actor=ACTORS, generation=st.none() | st.integers(0, 99), fate=fates(145))
    def a_release_is_reverted(self, actor: str, generation: int | None, fate: Fate) -> None:
        releases = self._releases()
        known = releases and generation is not None
        self._revert(actor, releases[generation % len(releases)].active_version if known else None, fate)

    @rule(deep=st.booleans(), dry_run=st.booleans(), fate=fates(45))
    def it_is_reconciled(self, deep: bool, dry_run: bool, fate: Fate) -> None:
        self._attempt("", lambda _: self._reconcile(deep=deep, dry_run=dry_run), fate)

    @rule(dry_run=st.booleans(), fate=fates(35))
    def the_past_is_collected(self, dry_run: bool, fate: Fate) -> None:
        self._attempt("", lambda _: self._gc(dry_run=dry_run), fate)

    @rule(fate=STOPPED_BEFORE_A_REVERT | accidents(1, 40))
    def a_gc_has_an_accident(self, fate: Fate) -> None:
        """Where it takes something away, which comes after it took the lease."""
        self.world.later(BEYOND_LEASES_S)
        self.triton.fail.clear()
        self._attempt("", lambda _: self._gc(), replace(fate, at=CALLS_FOR_A_LEASE + fate.at))

    @rule()
    @precondition(lambda self: self.disturbed)
    def all_settles(self) -> None:
        self._settle()

    # What has to be true after each

    @invariant()
    def all_promises_hold(self) -> None:
        type(self).steps += 1
        self._all_promises_hold()
        self.collecting = False

    def _all_promises_hold(self) -> None:
        self.nobody_saw_anything_wrong()
        self.history_is_append_only_dense_and_whole()
        self.every_release_is_of_one_deployment_that_said_so()
        self.current_json_is_whole_and_lags_only_after_an_accident()
        self.journals_are_append_only_dense_and_legal()

    def nobody_saw_anything_wrong(self) -> None:
        self._client_saw(self.triton.public())
        assert not self.violations

    def history_is_append_only_dense_and_whole(self) -> None:
        releases = self._releases()
        assert [release.generation for release in releases] == list(range(1, len(releases) + 1))
        files = identities(self.model / "releases")
        assert len(files) == len(releases)
        assert files | self.released == files, "a release was changed or removed"
        self.released = files
        for version in {release.active_version for release in releases}:
            assert self.kinds[version].startswith("good")
            self._is_whole_or_was_not_needed(version, releases)
        assert needed(releases) <= self.versions.keys(), "a version that is needed is gone"
        self.seen = len(releases)

    def every_release_is_of_one_deployment_that_said_so(self) -> None:
        released = [release.deploy_id for release in self._releases()]
        assert len(released) == len(set(released))
        assert self.reported <= set(released) <= self.reported | self.doubtful
        for record in self.world.folder.journal.all():
            if record.state is State.COMMITTED:
                assert record.deploy_id in released
            elif record.state is not State.COMMITTING:
                assert record.deploy_id not in released

    def current_json_is_whole_and_lags_only_after_an_accident(self) -> None:
        releases = [to_json(release) for release in self._releases()]
        current = self.world.current
        if self.disturbed:
            assert current in [None, *releases]
        else:
            assert current == (releases[-1] if releases else None)

    def journals_are_append_only_dense_and_legal(self) -> None:
        now = identities(self.model / "deployments")
        for folder in folders(self.journal) - folders(now):
            gone = self.last.pop(folder.name)
            assert self.collecting
            assert gone.finished, "a gc removed what was under way"
            assert (self.world.now - gone.last_time).total_seconds() > A_DAY_S
            self.journal = {name: it for name, it in self.journal.items() if Path(name).parent != folder}
        assert now | self.journal == now, "an entry was changed or removed"
        for folder in folders(now.keys() - self.journal.keys()):
            last = check_journal(folder, self.verified)
            assert last is not None
            self.last[folder.name] = last
        self.journal = now

    # How

    def _is_whole_or_was_not_needed(self, version: int, releases: list[Release]) -> None:
        found = identities(self.model / str(version))
        known = self.versions.pop(version, found)
        if found != known:
            assert self.collecting or self._put_aside(version, known), "a released version was changed"
            assert any(
                version not in needed(releases[:count]) for count in range(self.seen, len(releases) + 1)
            ), "a gc removed a version that is needed"
            assert not found or not [*self.world.folder.versions.damage(version, deep=False)], "it is torn"
        if found:
            self.versions[version] = found

    def _put_aside(self, version: int, files: dict[str, tuple[int, int, int]]) -> bool:
        """Whether a version's files are in quarantine, each as it was.

        A gc may remove a version that was released once; a deployment that brings it again and is rolled
        back takes it along.
        """
        return any(
            set(files.values()) <= set(identities(path).values())
            for path in self.model.glob(f"{version}.failed_*")
        )

    def _register(self, kind: str) -> None:
        version = len(self.kinds) + 1
        self.kinds[version] = kind
        self._point_alias_at(version)

    def _point_alias_at(self, version: int) -> None:
        self.world.register(version, artifact(version, self.kinds[version]))

    def _new_id(self, actor: str) -> None:
        self.begun += 1
        self.ids[actor] = f"{actor}-{self.begun}"

    def _deploy(self, actor: str, force: bool, fate: Fate) -> None:
        self._new_id(actor)
        request = self.world.request(self.ids[actor], force=force)
        self._attempt(actor, lambda deployer: deployer.deploy(request), fate)

    def _revert(self, actor: str, version: int | None, fate: Fate) -> None:
        self._new_id(actor)
        request = RevertRequest(model=MODEL, deploy_id=self.ids[actor], version=version, actor=actor)
        self._attempt(actor, lambda deployer: deployer.revert(request), fate)

    def _reconcile(self, **options: bool) -> Reconciled:
        return Reconciler(self.world.settings, tritons=[self.triton], clock=lambda: self.world.now).run(
            MODEL, **options
        )

    def _gc(self, **options: bool) -> Collected:
        self.collecting = True
        return GarbageCollector(self.world.settings, tritons=[self.triton], clock=lambda: self.world.now).run(
            MODEL, **options
        )

    def _restart(self, what: str) -> None:
        self.disturbed = True
        self.triton.restart()
        # As Triton with --exit-on-error=false: skip models that can't be loaded.
        for model in {"nothing": (), "the public name": (MODEL,)}.get(what) or sorted(
            os.listdir(self.world.root)
        ):
            if what != "nothing":
                with contextlib.suppress(DeployError):
                    self.triton.load(model, 1.0)

    def _attempt(self, actor: str, operate: Callable[[Deployer], Any], fate: Fate) -> None:
        """Run an operation as a process of its own that meets its fate."""
        deploy_id = self.ids.get(actor, "")
        if actor and not deploy_id:
            return
        # An operation that acts for another does not report for it.
        self.doubtful |= {
            record.deploy_id for record in self.world.folder.journal.all() if not record.finished
        }
        if fate.end != "well":
            self.disturbed = True
            self.doubtful.add(deploy_id)
        if fate.end == "stopped":
            self.stopped.add(deploy_id)
        try:
            with self._fated(actor, fate):
                result = operate(self.world.deployer())
        except (Killed, DeployError) as error:
            self.doubtful.add(deploy_id)
            if isinstance(error, IllegalTransition) and fate.end != "stopped":
                raise
            self._count(getattr(error, "kind", "killed"))
            return
        if isinstance(result, Deployment):
            self._count(result.state)
            if result.state is State.COMMITTED:
                self.reported.add(result.deploy_id)

    @contextlib.contextmanager
    def _fated(self, actor: str, fate: Fate) -> Iterator[None]:
        if fate.end == "well":
            yield
            return
        if fate.end == "killed":
            watched: Killer | Stopper = Killer(self.triton, fate.at)
        else:
            watched = Stopper(self.triton, fate.at, lambda: self._meanwhile(actor, fate))
        with watched.at_work():
            yield

    def _meanwhile(self, actor: str, fate: Fate) -> None:
        self.world.later(fate.delay_s)
        self._happens(actor, fate)
        self._all_promises_hold()

    def _happens(self, actor: str, fate: Fate) -> None:
        other = other_than(actor)
        match fate.meanwhile:
            case "deploy":
                self._deploy(other, True, WELL)
            case "revert":
                self._revert(other, None, WELL)
            case "revert far back":
                releases = self._releases()
                old = self.versions.keys() - needed(releases)
                self._revert(other, max(old, default=None), WELL)
            case "rollback":
                who = actor or other
                self._attempt(who, lambda deployer: deployer.rollback(MODEL, self.ids[who]), WELL)
            case "reconcile":
                self._attempt("", lambda _: self._reconcile(), WELL)
            case "gc":
                self._attempt("", lambda _: self._gc(), WELL)
            case "Triton restarts empty":
                self._restart("nothing")
            case "Triton restarts":
                self._restart("everything")
            case _:
                self.triton_refuses("load")

    def _settle(self) -> None:
        """After a pause longer than any lease, with a healthy Triton, one reconcile repairs everything."""
        self.world.later(BEYOND_LEASES_S)
        self.triton.fail.clear()
        found = self._reconcile()
        assert found.problems == ()
        self._all_is_well()
        assert self._reconcile().done == ()
        self.disturbed = False
        kept = self._gc()
        assert (kept.problems, kept.under_way, kept.still_open) == ((), "", ())
        assert self._gc().kept == kept.kept, "what one gc keeps, the next one keeps"
        self._restart("everything")
        self._all_is_well()
        self.disturbed = False
        self._register("good")
        self._deploy("anna", False, WELL)
        version = len(self.kinds)
        assert self.triton.public() == (version, float(version)), "the next deploy works"
        self._all_is_well()

    def _all_is_well(self) -> None:
        world = self.world
        live = world.folder.releases.latest()
        loaded = live.loaded_versions if live else ()
        assert world.current == (to_json(live) if live else None)
        assert self.triton.public() == ((live.active_version, float(live.active_version)) if live else None)
        engines = {f"{MODEL}.v{version}": (version,) for version in loaded}
        assert world.engines - {f".{MODEL}"} == engines.keys()
        assert self.triton.loaded() == engines | ({MODEL: (live.active_version,)} if live else {})
        # Unfinished files beside the records of a finished deployment and in quarantine do no harm.
        left = [
            path
            for path in world.root.rglob(".*")
            if path.parent.parent.name != "deployments" and ".failed_" not in path.parent.name
        ]
        assert left == [], f"nothing is left over: {left}"
        for record in world.folder.journal.all():
            if not record.finished:
                # It began after its lease had run out: the fence stops each of its steps, and a rollback is
                # still due.
                assert len(record.times_utc) == 1
                assert record.deploy_id in self.stopped
        released = {str(release.active_version) for release in self._releases()}
        for name in world.names - released if self.model.is_dir() else ():
            if name.isdigit():
                manifest = world.folder.versions.require(int(name))
                assert manifest.deploy_id in self.stopped, "only a process that woke up late leaves a version"

    def _due(self, actor: str) -> str | None:
        record = self.world.folder.journal.find(self.ids[actor]) if self.ids[actor] else None
        return STEP_AFTER.get(record.state) if record else None

    def _releases(self) -> list[Release]:
        return sorted(self.world.folder.releases.history(), key=lambda release: release.generation)

    def _client_saw(self, answer: tuple[int, float] | None) -> None:
        if answer is None:
            if not self.disturbed and self._releases():
                self.violations.append("a client got an error for no reason")
            return
        version, value = answer
        if value != float(version):
            self.violations.append(f"a client got {value} from version {version}")
        if version not in self.verified:
            for folder in (self.model / "deployments").iterdir():
                check_journal(folder, self.verified)
            if version not in self.verified:
                self.violations.append(f"a client got version {version}, which was not verified")

    def _count(self, outcome: str) -> None:
        self.outcomes[str(outcome)] = self.outcomes.get(str(outcome), 0) + 1


def other_than(actor: str) -> str:
    return "bert" if actor == "anna" else "anna"


def needed(releases: list[Release]) -> set[int]:
    """Versions that have to stay: what serves, what a revert goes to, the last releases."""
    versions = {release.active_version for release in releases[-KEEP_RELEASES:]}
    for live in releases[-1:]:
        versions |= {*live.loaded_versions} | ({live.previous_version} if live.previous_version else set())
    return versions


def folders(files: Iterable[str]) -> set[Path]:
    return {Path(name).parent for name in files}


def check_journal(folder: Path, verified: set[int]) -> Deployment | None:
    """Every entry is whole, the numbers are dense, and each step is an edge of the table; adds what was verified."""
    paths = sorted(folder.glob("[0-9]*.json"))
    assert [path.name for path in paths] == [f"{number:04d}.json" for number in range(1, len(paths) + 1)]
    entries = [Deployment.from_json(path.read_text()) for path in paths]
    for before, after in itertools.pairwise(entries):
        assert after.state in TRANSITIONS[before.state] or (
            after
            == replace(
                before,
                failure=after.failure,
                given=after.given,
                hashed_utc=after.hashed_utc,
                ended=after.ended,
                unanswered=after.unanswered,
            )
            and not before.finished
        ), f"from {before} to {after}"
    assert not entries or entries[0].state in FIRST_STATES
    verified |= {entry.version for entry in entries if State.VERIFIED in entry.times_utc}
    return entries[-1] if entries else None
