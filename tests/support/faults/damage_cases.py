"""A damaged repository, the commands that people run on it, and the rules that must hold.

Run as a program it prints the cases that are not well, by what was damaged::

    python -m tests.support.faults.damage_cases --seed 7 --cases 1000
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import random
import shutil
import signal
import tempfile
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.clients.triton import GrpcTriton, Inference
from ml_code.triton_deploy.deploy import collaborators
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.errors import DeployError, Misconfigured, VerificationFailed
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.upkeep import reconcile, status
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from stack import Stack, StackError
from tests.support.fakes import FakeRegistry, FakeTriton, fake_store, ones, unavailable
from tests.support.faults.damages import (
    ELSEWHERE,
    KEPT,
    NOTES,
    Damage,
    Original,
    Snapshot,
    choose,
    class_of,
    remove,
    snapshot,
)
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.world import MODEL, SETTINGS, World, deployed

OTHER = "other"
"""A second model of the repository, to which nothing happens."""
CONTROLS = 10
"""One case of this many has no damage."""
BEGUN = 0.3
"""This share of the cases has an abandoned deployment."""
REFUSALS = range(3, 8)
"""Exit codes by which a command says that it did not do all."""
CALL_S = 60.0
COMMAND_S = 30.0
"""A command that is not done by then has no end: on a real Triton one takes a second."""
_LONGEST = 2**63 - 1


class StrictTriton(FakeTriton):
    """A Triton in memory that minds names and texts as the real one does: it ends at a folder whose number no machine word holds, and does not see a model with a
    link that leads nowhere."""

    def __init__(self, repository: Path, url: str = "fake:1") -> None:
        super().__init__(repository, url)
        self._ended = False

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        if self._has_deadly_folder(model):
            super().restart()
            self._ended = True
        super().load(model, timeout_s, config)

    def restart(self, *models: str) -> None:
        self._ended = False
        super().restart(*models)

    def _has_deadly_folder(self, model: str) -> bool:
        folder = self._repository / model
        names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        digits = (name[: len(name) - len(name.lstrip("0123456789"))] for name in names)
        return any(int(number or 0) > _LONGEST for number in digits)

    def _config_of(self, model: str, config: str | None) -> Any:
        try:
            for path in (self._repository / model).iterdir():
                path.stat()
            message = super()._config_of(model, config)
            named = message.name in ("", model) and message.version_policy.specific.versions[0]
        except (OSError, ValueError, IndexError):
            named = False
        if not named:
            raise Misconfigured(f"failed to poll {model} from the model repository", hint="")
        return message

    def _called(self, operation: str, model: str) -> None:
        super()._called(operation, model)
        if self._ended:
            raise unavailable()


@dataclass(frozen=True, kw_only=True)
class Ran:
    """The outcome of a command.

    Attributes:
        command: its words.
        code: its exit code; -1 when an exception came out.
        out: standard output.
        err: standard error, without log lines.
        tracebacks: each that was logged or came out, by its exception.
    """

    command: str
    code: int
    out: str
    err: str
    tracebacks: tuple[BaseException, ...]

    @property
    def problems(self) -> str:
        """The problems that it reported."""
        if self.code not in REFUSALS:
            return ""
        dull = (
            "  done:",
            "  quarantined:",
            "  Triton ",
            "  under way:",
            "  left alone:",
            "  reason:",
            "  judged:",
            "  without a verdict:",
            "  taken back:",
        )
        lines = [
            line for line in self.out.splitlines() if line.startswith("  ") and not line.startswith(dull)
        ]
        return "\n".join(
            [*lines, *(line for line in self.err.splitlines() if not line.startswith("  Still true:"))]
        )


class _Caught(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


@contextlib.contextmanager
def command_line(world: World) -> Iterator[Callable[..., Ran]]:
    """Yield a function that runs a ``triton-deploy`` command in this process on a world."""
    made = Deployer.__init__

    def init(self: Deployer, settings: Any, **options: Any) -> None:
        made(self, settings, **options | {"registry": world.registry, "stores": lambda uri: world.store})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Deployer, "__init__", init)
        patch.setattr(cli.Settings, "from_env", classmethod(lambda cls, *_: world.settings))
        for module in (collaborators, reconcile, status):
            patch.setattr(module, "tritons_of", lambda settings: [world.triton])
        yield _run


class Endless(BaseException):
    """A command did not end in time."""


def _endless(*_: object) -> None:
    raise Endless


def _run(*argv: str) -> Ran:
    out, err, caught = io.StringIO(), io.StringIO(), _Caught()
    root, terminated = logging.getLogger(), signal.getsignal(signal.SIGTERM)
    # No other handlers: a thousand cases log much.
    others, root.handlers = root.handlers, [caught]
    alarmed = signal.signal(signal.SIGALRM, _endless)
    signal.setitimer(signal.ITIMER_REAL, COMMAND_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main([*argv, "--quiet"])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        caught.found.append(error)
        code = -1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarmed)
        root.handlers = others
        signal.signal(signal.SIGTERM, terminated)
    return Ran(
        command=" ".join(argv[:2]) if argv[0] == "reconcile" else argv[0],
        code=code,
        out=out.getvalue(),
        err=err.getvalue(),
        tracebacks=tuple(caught.found),
    )


# The repository before any damage


def furnished(world: World) -> World:
    """Versions 1 to 3 are deployed, 5 failed and is in quarantine, release 3 has baked; another model is deployed. Next is version 4."""
    deployed(world)
    world.register(5, files(times(5.0), triton__golden_json=golden(7.0)))
    with contextlib.suppress(VerificationFailed):
        world.deploy("failed")
    live = world.folder.releases.latest()
    assert live is not None
    world.folder.bakes.add(
        Bake(
            model=MODEL,
            generation=live.generation,
            version=live.active_version,
            deploy_id=live.deploy_id,
            verdict=BakeVerdict.PASSED,
            reasons=(),
            looks=3,
            judged=3,
            figures={"prometheus": {"requests": 100}},
            began_at_utc=live.updated_at_utc,
            ended_at_utc=live.updated_at_utc,
        )
    )
    world.register_times(1)
    world.registry.models[OTHER] = dict(world.registry.models[MODEL])
    world.deploy("other-1", model=OTHER)
    Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run_all()
    world.register_times(4)
    return world


def begun(world: World) -> World:
    """Besides, a deployment of version 6 had come as far as its load when its process was killed, long ago."""
    world.register_times(6)
    deployer = world.deployer()
    deployer.snapshot(world.request("begun"))
    for step in (deployer.materialize, deployer.load):
        step(MODEL, "begun")
    world.register_times(4)
    return world


def somebody_elses(beside: Path) -> None:
    """Make a folder with foreign files in ``beside``, next to the repository."""
    (beside / ELSEWHERE / "folder").mkdir(parents=True, exist_ok=True)
    (beside / ELSEWHERE / "folder/notes.txt").write_bytes(NOTES)
    (beside / ELSEWHERE / "notes.txt").write_bytes(NOTES)


# A case


@dataclass(frozen=True)
class Site:
    """A world to damage, and how its Triton is started anew with all that it finds.

    Attributes:
        world: the repository, with a Triton that serves all of it.
        restart: ends that Triton and starts it; returns when it answers, or does not.
    """

    world: World
    restart: Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """The damages to one copy of the repository.

    Attributes:
        number: decides, with the seed, the random choices.
        damages: the damages; empty for a control.
        restart_after: the command after which Triton is started anew, besides the end.
        begun: whether an abandoned deployment is in the repository: see ``begun``.
    """

    number: int
    damages: tuple[Damage, ...]
    restart_after: str
    begun: bool = False

    @classmethod
    def of(cls, number: int, seed: int, originals: Mapping[bool, Original]) -> Case:
        """Choose the case of a number, from 1; ``originals`` has what can be damaged, with and without an abandoned deployment."""
        rng = random.Random(f"{seed} damages {number}")
        after, begun = rng.choice(["", "reconcile", "deploy"]), rng.random() < BEGUN
        damages = [] if number % CONTROLS == 0 else choose(originals[begun], rng)
        return cls(number=number, damages=tuple(damages), restart_after=after, begun=begun)


@dataclass
class Seen:
    """The observations of one case.

    Attributes:
        red: violations, each as ``(what, detail)``.
        ran: the commands, in order.
        restarts: how often Triton was started anew.
    """

    red: list[tuple[str, str]] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    restarts: int = 0

    def problem(self, what: str, detail: object = "") -> None:
        self.red.append((what, str(detail)))


def play(case: Case, site: Site) -> Seen:
    """Damage a repository, run ``status``, ``reconcile``, a deploy and a revert on it, and look after each."""
    return _Playing(case, site).play()


class _Playing:
    def __init__(self, case: Case, site: Site) -> None:
        self._case = case
        self._site = site
        self._world = site.world
        self._seen = Seen()
        self._version = 3

    def play(self) -> Seen:
        for damage in self._case.damages:
            damage.apply(self._world.root)
            if damage.loads:
                self._world.triton.load(damage.loads, CALL_S)
        foreign, kept = self._foreign(), self._kept()
        self._look("the damage")
        with command_line(self._world) as run:
            self._command(run, "status")
            self._command(run, "reconcile")
            self._restart_between(run, "reconcile")
            if self._command(run, "deploy", MODEL).code == 0:
                self._version = 4
            self._look("deploy")
            self._restart_between(run, "deploy")
            before = 3 if self._version == 4 else 2
            if self._command(run, "revert", MODEL).code == 0:
                self._version = before
            self._look("revert")
            self._restart_between(run, self._case.restart_after, last=True)
        self._unchanged("foreign changed", foreign, self._foreign())
        self._unchanged("newer fields lost", kept, self._kept())
        self._named_where_it_must_be()
        return self._seen

    def _command(self, run: Callable[..., Ran], *argv: str) -> Ran:
        ran = run(*argv)
        self._seen.ran.append(ran)
        for error in ran.tracebacks:
            what = "traceback of a clear error" if isinstance(error, DeployError) else "defect"
            self._seen.problem(f"{what} in {ran.command}", _where(error))
        if ran.code not in (0, *REFUSALS):
            self._seen.problem(f"{ran.command} exits {ran.code}", ran.err)
        elif ran.code and self._undamaged:
            self._seen.problem(f"{ran.command} exits {ran.code} without a harm", ran.out + ran.err)
        elif ran.code and not self._named:
            self._seen.problem(f"{ran.command} exits {ran.code} without naming it", ran.out + ran.err)
        elif ran.code and self._all_derived:
            self._seen.problem(f"{ran.command} exits {ran.code} and rebuilds nothing", ran.out + ran.err)
        if ran.command.startswith(("status", "reconcile")) and f"{OTHER}: version 1" not in ran.out:
            self._seen.problem(f"{ran.command} does not go on with other models", ran.out + ran.err)
        if argv[0] in ("status", "reconcile"):
            self._look(ran.command)
        return ran

    def _restart_between(self, run: Callable[..., Ran], after: str, *, last: bool = False) -> None:
        """Start Triton anew when nothing is known to be wrong: then it has to serve the same.

        Only ``reconcile --deep`` reads the bytes of the weights, so it comes first.
        """
        if not last and after != self._case.restart_after:
            return
        self._command(run, "reconcile", "--deep")
        if self._named:
            return
        self._site.restart()
        self._seen.restarts += 1
        self._look(f"a restart after {'revert' if last else after}")

    def _look(self, after: str) -> None:
        """Ask as clients do."""
        wanted = {MODEL: (self._version, float(self._version)), OTHER: (1, 1.0)}
        for model, right in wanted.items():
            got = _answer(self._world, model)
            if got != right:
                self._seen.problem(
                    f"{'the model' if model == MODEL else 'another model'} answers wrongly after {after}",
                    f"{got}, not {right}",
                )
        loaded = {damage.loads for damage in self._case.damages if damage.loads}
        with contextlib.suppress(DeployError):
            for name in loaded - self._world.triton.loaded().keys():
                self._seen.problem(f"somebody's model is not loaded after {after}", name)

    # What there is to see

    @property
    def _undamaged(self) -> bool:
        return all(damage.harmless for damage in self._case.damages)

    @property
    def _all_derived(self) -> bool:
        return all(damage.harmless or damage.derived for damage in self._case.damages)

    @property
    def _named(self) -> bool:
        return bool(self._naming(range(len(self._seen.ran))))

    def _naming(self, commands: Sequence[int]) -> list[Damage]:
        """Return the harmful damages that one of the commands has named as a problem."""
        said = "\n".join(self._seen.ran[at].problems for at in commands)
        harmful = [damage for damage in self._case.damages if not damage.harmless]
        return [damage for damage in harmful if _names(said, damage, self._world.root)]

    def _named_where_it_must_be(self) -> None:
        """Both commands name what Triton can't bear; one that can't read a record of the model may say that alone."""
        for at, ran in enumerate(self._seen.ran[:2]):
            named = self._naming([at])
            for damage in self._case.damages:
                if damage.deadly and not named:
                    self._seen.problem(
                        f"{ran.command} does not name what Triton can't bear", ran.out + ran.err
                    )

    def _foreign(self) -> Snapshot:
        paths = [self._world.root / damage.path for damage in self._case.damages if damage.foreign]
        return snapshot(*paths, self._world.root.parent / ELSEWHERE)

    def _kept(self) -> Snapshot:
        """Return the write-once files to which newer fields were added."""
        newer = [damage.path for damage in self._case.damages if damage.kind == "newer"]
        return snapshot(*(self._world.root / path for path in newer if class_of(path) in KEPT))

    def _unchanged(self, what: str, before: Snapshot, after: Snapshot) -> None:
        for path in sorted(before.keys() | after.keys()):
            if before.get(path) != after.get(path):
                change = [(one or ("nothing",))[0] for one in (before.get(path), after.get(path))]
                self._seen.problem(what, f"{path}: {change[0]}, now {change[1]}")


def _answer(world: World, model: str) -> tuple[int, float] | str:
    try:
        answer: Inference = world.triton.infer(model, ones(), CALL_S)
    except DeployError as error:
        return error.kind
    return answer.version, float(answer.outputs["y"][0, 0])


def _names(said: str, damage: Damage, root: Path) -> bool:
    return any(token in said for path in damage.paths for token in _tokens(path, root))


def _tokens(path: str, root: Path) -> Iterator[str]:
    """Yield what names a path to a person: itself, its name if that is more than a number or a word, or what it is of."""
    yield str(root / path)
    folder, _, name = path.rpartition("/")
    if "." in name:
        yield name
    if folder not in ("", MODEL):
        # Of a file deep in a journal, a version or an engine, these are named.
        yield str(root / folder)
    parts = path.split("/")
    if len(parts) > 1 and parts[1].isdigit():
        yield from (f"version {parts[1]}: ", f"ersion {parts[1]} of {MODEL} is not in")
    if len(parts) > 2 and parts[1] in ("deployments", "engines"):
        yield from (f"deployment {parts[2]} ", f"engine of version {parts[2]}")


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ml_code" in frame.filename]
    at = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
    return f"{type(error).__name__} in {at}: {str(error)[:200]}"


# Copies


class Copies(ABC):
    """Copies of one furnished repository, one for each case.

    Args:
        folder: where they are made.

    Attributes:
        originals: the parts that can be damaged, with and without an abandoned deployment.
        ready_timeout_s: see settings.py.
    """

    ready_timeout_s = SETTINGS.triton.ready_timeout_s

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._open:
            root = self._folder / "repository"
            root.mkdir(parents=True)
            store = self._open.enter_context(fake_store())
            settings = changed(SETTINGS, repository=root, triton__ready_timeout_s=self.ready_timeout_s)
            self._world = World(root, settings, FakeRegistry(), store, self._triton(root))
            furnished(self._world)
            self.originals = {False: self._keep(begun=False)}
            begun(self._world)
            self.originals[True] = self._keep(begun=True)
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @abstractmethod
    def play(self, case: Case) -> Seen:
        """Play a case on a copy of its own."""

    @abstractmethod
    def _triton(self, root: Path) -> Any:
        """Start a Triton on an empty repository."""

    def _keep(self, *, begun: bool) -> Original:
        """Keep the repository as it is now."""
        shutil.copytree(self._world.root, self._kept(begun), symlinks=True)
        return Original.of(self._world.root)

    def _kept(self, begun: bool) -> Path:
        return self._folder / ("begun" if begun else "idle")


class InMemory(Copies):
    """Each copy has a Triton in memory."""

    def play(self, case: Case) -> Seen:
        """See Copies.play."""
        folder = self._folder / f"case-{case.number}"
        root = folder / "repository"
        shutil.copytree(self._kept(case.begun), root, symlinks=True)
        somebody_elses(folder)
        triton = StrictTriton(root)
        triton.restart_with_all()
        settings = replace(self._world.settings, repository=root)
        world = replace(self._world, root=root, settings=settings, triton=triton)
        try:
            return play(case, Site(world, triton.restart_with_all))
        finally:
            shutil.rmtree(folder)

    def _triton(self, root: Path) -> Any:
        # Nothing here loses power.
        self._open.enter_context(pytest.MonkeyPatch.context()).setattr(os, "fsync", lambda fd: None)
        return StrictTriton(root)


class OnTriton(Copies):
    """All copies are made in one place, one after the other, with a real Triton that is started anew for each."""

    ready_timeout_s = CALL_S

    def play(self, case: Case) -> Seen:
        """See Copies.play."""
        root = self._world.root
        for path in (*root.iterdir(), *(root.parent / ELSEWHERE).glob("*")):
            remove(path)
        shutil.copytree(self._kept(case.begun), root, symlinks=True, dirs_exist_ok=True)
        somebody_elses(root.parent)
        self._restart()
        return play(case, Site(self._world, self._restart))

    def _triton(self, root: Path) -> Any:
        self._stack = Stack(self._folder / "stack", ["triton"], model_repository=root)
        self._open.enter_context(self._stack)
        return GrpcTriton(self._stack.url("triton-grpc"), CALL_S)

    def _restart(self) -> None:
        # One that is ended by what it finds does not become ready, and does not answer.
        with contextlib.suppress(StackError):
            self._stack.restart("triton", CALL_S)


# The report


def told(case: Case, seen: Seen) -> str:
    """Tell of a case that is not well, for a person."""
    lines = [
        f"case {case.number}: {'; '.join(map(str, case.damages)) or 'control'}{', a deployment abandoned' * case.begun}"
    ]
    lines += [f"    {what}: {_short(detail)}" for what, detail in seen.red]
    return "\n".join(lines)


def _short(text: str) -> str:
    return " | ".join(text.split("\n"))[:400]


def blamed(case: Case, play: Callable[[Case], Seen]) -> Case:
    """Return the case with the one damage that is enough to make it red; with all of them if it takes more than one."""
    for damage in case.damages if len(case.damages) > 1 else ():
        alone = replace(case, damages=(damage,))
        if play(alone).red:
            return alone
    return case


def report(red: Sequence[tuple[Case, Seen]], cases: int, seed: int) -> str:
    """Group red cases by damaged part and kind of damage, the most frequent first."""
    groups: dict[str, list[tuple[Case, Seen]]] = {}
    for case, seen in red:
        name = " + ".join("{} ({}) of {}".format(*damage.group) for damage in case.damages) or "control"
        groups.setdefault(name, []).append((case, seen))
    lines = [f"seed {seed}: {len(red)} of {cases} cases are red, {len(groups)} groups"]
    for name, found in sorted(groups.items(), key=lambda group: -len(group[1])):
        lines += ["", f"== {len(found)} times: {name}"]
        lines += [f"   {what}" for what in dict.fromkeys(what for _, seen in found for what, _ in seen.red)]
        lines += ["   for example " + told(*found[0])]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Damage copies of a repository, and tell which are not well."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--case", type=int, help="this one only, with all that the commands said")
    parser.add_argument("--output", type=Path, help="file for the report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, InMemory(Path(folder)) as copies:
        logging.getLogger().addHandler(logging.NullHandler())
        numbers = [options.case] if options.case else range(1, options.cases + 1)
        red = []
        for number in numbers:
            case = Case.of(number, options.seed, copies.originals)
            seen = copies.play(case)
            if options.case:
                for ran in seen.ran:
                    print(f"$ {ran.command}: {ran.code}\n{ran.out}{ran.err}")
                    for error in ran.tracebacks:
                        traceback.print_exception(error)
                print(told(case, seen))
            if seen.red:
                case = blamed(case, copies.play)
                red.append((case, copies.play(case)))
        text = report(red, len(numbers), options.seed)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)
    return int(bool(red))


if __name__ == "__main__":
    raise SystemExit(main())
