"""A doctor that never hangs, leaves nothing behind, and says of each thing what is the matter."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_code.triton_deploy.clients.triton import Index, ServerInfo
from ml_code.triton_deploy.doctor import DoctorVerdict, Finding, examine
from ml_code.triton_deploy.doctor.clocks import ClocksCheck
from ml_code.triton_deploy.doctor.examination import run_all
from ml_code.triton_deploy.doctor.probe import FORGOTTEN_S, PREFIX
from ml_code.triton_deploy.doctor.repository import RepositoryCheck
from ml_code.triton_deploy.doctor.staging import StagingCheck
from ml_code.triton_deploy.doctor.triton import NEEDED, TritonCheck
from ml_code.triton_deploy.errors import Misconfigured, Unavailable
from ml_code.triton_deploy.repository import models_in
from ml_code.triton_deploy.repository.lease import CLOCK_SKEW_S, Lease
from ml_code.triton_deploy.repository.lease import STAGING as LEASE
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from tests.support.fakes import FakeTriton, state_of, unavailable
from tests.support.settings import changed
from tests.support.world import MODEL, World

# The examination


class Looking:
    """A check that does what it is told, and remembers that it was cleaned up after."""

    needs: tuple[str, ...] = ()

    def __init__(self, name: str, look: Callable[[], Iterator[Finding]], deadline_s: float = 20.0) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self.cleaned = False
        self.look = look

    def clean_up(self) -> None:
        self.cleaned = True


def fine(name: str) -> Iterator[Finding]:
    yield Finding(check=name, verdict=DoctorVerdict.OK, what="fine")


def test_a_check_that_hangs_is_left_and_the_others_are_heard() -> None:
    forever = threading.Event()

    def hang() -> Iterator[Finding]:
        yield from fine("first")
        forever.wait(60)

    checks = [Looking("first", hang, 0.3), Looking("second", lambda: fine("second"))]
    started = time.monotonic()
    found = run_all(checks, {})
    forever.set()
    assert time.monotonic() - started < 15
    assert [(one.check, one.verdict) for one in found] == [
        ("first", DoctorVerdict.OK),
        ("first", DoctorVerdict.FAILED),
        ("second", DoctorVerdict.OK),
    ]
    assert "did not end within 0.3 s" in found[1].what
    assert all(check.cleaned for check in checks)


def test_what_a_check_raises_is_what_it_found() -> None:
    def refused() -> Iterator[Finding]:
        yield from fine("first")
        raise Misconfigured("It is wrong.", hint="Set it right.")

    def broken() -> Iterator[Finding]:
        raise KeyError("x")
        yield

    checks = [Looking("first", refused), Looking("second", broken), Looking("third", lambda: fine("third"))]
    found = run_all(checks, {})
    assert found[1] == Finding(
        check="first", verdict=DoctorVerdict.FAILED, what="It is wrong.", fix="Set it right."
    )
    assert (found[2].verdict, "KeyError" in found[2].what) == (DoctorVerdict.UNKNOWN, True)
    assert found[3].verdict is DoctorVerdict.OK


def test_a_check_is_not_run_on_a_setting_that_cant_be_used() -> None:
    asked = []
    check = Looking("S3", lambda: asked.append(1) or fine("S3"))  # type: ignore[func-returns-value]
    check.needs = ("MLFLOW_S3_ENDPOINT_URL",)
    (found,) = run_all([check], {"MLFLOW_S3_ENDPOINT_URL": Misconfigured("No scheme.", hint="x")})
    assert not asked
    assert (found.verdict, "MLFLOW_S3_ENDPOINT_URL" in found.what) == (DoctorVerdict.UNKNOWN, True)


def test_an_interrupt_still_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    check = Looking("first", lambda: fine("first"))
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all([check], {})
    assert check.cleaned


# Settings


def test_each_setting_that_cant_be_used_is_named_and_the_others_count() -> None:
    settings, wrong = Settings.usable(
        {
            "MLFLOW_S3_ENDPOINT_URL": "minio:9000",
            "TRITON_DEPLOY_LEASE_S": "soon",
            "TRITON_DEPLOY_GRPC_URLS": "triton:8001",
        }
    )
    assert set(wrong) == {"MLFLOW_S3_ENDPOINT_URL", "TRITON_DEPLOY_LEASE_S"}
    assert "http://minio:9000" in wrong["MLFLOW_S3_ENDPOINT_URL"].hint
    assert settings == changed(Settings(), triton__grpc_urls=("triton:8001",))


def test_with_nothing_set_up_every_check_still_says_something(tmp_path: Path) -> None:
    found = examine({"TRITON_DEPLOY_GRPC_URLS": "127.0.0.1:1", "MLFLOW_S3_ENDPOINT_URL": "minio:9000"})
    verdicts = {one.check: one.verdict for one in found}
    assert verdicts["settings"] is DoctorVerdict.FAILED
    assert verdicts["S3"] is DoctorVerdict.UNKNOWN
    assert {"MLflow", "artifacts", "repository", "Triton", "staging Triton", "clocks"} <= verdicts.keys()
    text = " ".join(one.what for one in found)
    assert "MLFLOW_TRACKING_URI is not set" in text
    assert "TRITON_DEPLOY_REPOSITORY is not set" in text
    assert all(one.fix for one in found if one.verdict is DoctorVerdict.FAILED)


# The repository


def look_at(settings: Settings) -> list[Finding]:
    return run_all([RepositoryCheck(settings)], {})


def complaints(found: Sequence[Finding]) -> list[Finding]:
    return [one for one in found if one.verdict in (DoctorVerdict.WARNING, DoctorVerdict.FAILED)]


def test_a_healthy_repository_is_left_as_it_was(world: World) -> None:
    world.register_times(1)
    world.deploy()
    before = {str(path) for path in world.root.rglob("*")}
    assert complaints(look_at(world.settings)) == []
    assert {str(path) for path in world.root.rglob("*")} == before


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    """Root may write everywhere: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """One that every user can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="doctor-"))
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)


def test_a_repository_that_this_user_cant_write_is_named(shared_folder: Path) -> None:
    shared_folder.chmod(0o555)
    with somebody_else():
        (found,) = complaints(look_at(Settings(repository=shared_folder)))
    assert found.verdict is DoctorVerdict.FAILED
    assert "Permission denied" in found.what
    assert str(shared_folder) in found.what
    assert "Let the deployer's user write" in found.fix


def test_a_file_system_where_two_links_win_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.link", shutil.copy)
    (found,) = complaints(look_at(world.settings))
    assert "not exactly one" in found.what
    assert "link(2)" in found.fix


def test_files_that_triton_cant_read_are_named(world: World) -> None:
    for version in (1, 2, 3):
        world.register_times(version)
        world.deploy(f"d{version}")
    (world.root / MODEL / "3/model.onnx").chmod(0o600)
    (world.root / "best_model.v2").chmod(0o754)
    (world.root / MODEL / "1/model.onnx").chmod(0o600)
    (found,) = complaints(look_at(world.settings))
    assert found.verdict is DoctorVerdict.WARNING
    assert str(world.root / MODEL / "3/model.onnx") in found.what
    assert str(world.root / "best_model.v2") in found.what
    assert str(world.root / MODEL / "1/model.onnx") not in found.what, "version 1 is not loaded any more"
    assert "chmod a+rX" in found.fix


def test_a_folder_that_would_end_triton_is_named_whosever_model_it_is_in(world: World) -> None:
    world.register_times(1)
    world.deploy()
    for place in (MODEL, "best_model.v1", "somebody_elses"):
        (world.root / place / f"{'9' * 21}.bak").mkdir(parents=True)
    (world.root / MODEL / ("9" * 22)).write_text("a file harms nothing")
    found = [one for one in complaints(look_at(world.settings)) if "ends Triton" in one.what]
    assert [one.verdict for one in found] == [DoctorVerdict.FAILED] * 3
    for place, one in zip((MODEL, "best_model.v1", "somebody_elses"), found, strict=True):
        assert str(world.root / place / f"{'9' * 21}.bak") in one.what
        assert "Move it" in one.fix


def test_a_repository_without_room_is_named(world: World) -> None:
    (found,) = complaints(look_at(changed(world.settings, transfer__min_free_bytes=1 << 62)))
    assert "bytes free" in found.what
    assert "TRITON_DEPLOY_MIN_FREE_BYTES" in found.fix


def test_a_probe_of_a_doctor_that_was_killed_is_in_nobodys_way_and_is_removed_later(world: World) -> None:
    world.register_times(1)
    old, young = world.root / f"{PREFIX}old", world.root / f"{PREFIX}young"
    for probe in (old, young):
        (probe / "one").mkdir(parents=True)
    long_ago = time.time() - FORGOTTEN_S - 60
    os.utime(old, (long_ago, long_ago))
    world.deploy()
    assert models_in(world.root) == [MODEL]
    reconciled = Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL)
    assert (reconciled.done, reconciled.problems) == ((), ())
    found = look_at(world.settings)
    assert complaints(found) == []
    assert old.name in found[-1].what
    assert not old.exists()
    assert young.exists(), "it may be another doctor's, at work"


# The Tritons


class FakeServer(FakeTriton):
    """A fake that also says what a doctor asks."""

    version = "2.51.0"
    extensions: tuple[str, ...] = NEEDED
    ready = True
    stuck: Mapping[str, str] = {}

    def is_ready(self) -> bool:
        self._called("is_ready", "")
        return self.ready

    def index(self) -> Index:
        index = super().index()
        return replace(
            index, states={**index.states, **{name: state_of(text) for name, text in self.stuck.items()}}
        )

    def about(self) -> ServerInfo:
        self._called("about", "")
        return ServerInfo(self.version, self.extensions)

    def folders(self) -> frozenset[str]:
        self._called("folders", "")
        return frozenset(path.name for path in self._repository.iterdir() if path.is_dir())


def ask(world: World, *servers: FakeServer, **changes: int) -> list[Finding]:
    settings = changed(world.settings, triton__max_opset=21, triton__max_ir_version=10, **changes)  # type: ignore[arg-type]
    found = run_all([TritonCheck(settings, lambda: servers)], {})
    assert not list(world.root.glob(f"{PREFIX}*"))
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_code.triton_deploy.doctor.triton.SEEN_WITHIN_S", 0.3)


def test_a_triton_on_the_same_repository_is_fine(world: World) -> None:
    assert complaints(ask(world, FakeServer(world.root, "one:1"), FakeServer(world.root, "two:1"))) == []


def test_a_triton_on_another_repository_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (found,) = complaints(
        ask(world, FakeServer(world.root, "one:1"), FakeServer(tmp_path / "other", "two:1"))
    )
    assert found.verdict is DoctorVerdict.FAILED
    assert "Triton at two:1 does not see" in found.what
    assert "1 of 2 Tritons do" in found.what
    assert "TRITON_DEPLOY_REPOSITORY" in found.fix
    assert "--model-repository" in found.fix


def test_a_triton_that_is_away_does_not_stop_the_others(world: World) -> None:
    away = FakeServer(world.root, "one:1")
    away.fail["about"] = unavailable()
    found = ask(world, away, FakeServer(world.root, "two:1"))
    assert [one.what for one in complaints(found)] == ["The fake does not answer."]
    assert any("two:1 sees the folder" in one.what for one in found)


def test_a_triton_that_refuses_model_control_is_named(world: World) -> None:
    triton = FakeServer(world.root, "one:1")
    triton.fail["unload"] = Misconfigured("It refused.", hint="--model-control-mode=explicit")
    (found,) = complaints(ask(world, triton))
    assert "--model-control-mode=explicit" in found.fix


def test_no_triton_at_all_leaves_the_rest_unknown(world: World) -> None:
    away = FakeServer(world.root, "one:1")
    away.fail["about"] = Unavailable("It is away.", hint="Start it.")
    assert [one.verdict for one in ask(world, away)] == [DoctorVerdict.FAILED, DoctorVerdict.UNKNOWN]


def test_a_triton_without_an_extension_is_named(world: World) -> None:
    triton = FakeServer(world.root, "one:1")
    triton.extensions = NEEDED[1:]
    (found,) = complaints(ask(world, triton))
    assert "lacks the extensions model_repository" in found.what


@pytest.mark.parametrize(
    ("version", "opset", "verdict"),
    [
        ("2.51.0", 21, DoctorVerdict.OK),
        ("2.51.0", 22, DoctorVerdict.WARNING),
        ("2.58.0", 22, DoctorVerdict.OK),
        ("2.99.0", 21, DoctorVerdict.UNKNOWN),
        ("custom", 21, DoctorVerdict.UNKNOWN),
    ],
)
def test_what_a_tritons_onnx_runtime_takes_is_compared_with_the_settings(
    world: World, version: str, opset: int, verdict: DoctorVerdict
) -> None:
    triton = FakeServer(world.root, "one:1")
    triton.version = version
    settings = changed(world.settings, triton__max_opset=opset, triton__max_ir_version=10)
    found = run_all([TritonCheck(settings, lambda: [triton])], {})
    (limits,) = [one for one in found if "ONNX" in one.what and "deployer" not in one.what]
    assert limits.verdict is verdict
    if verdict is DoctorVerdict.WARNING:
        assert "TRITON_DEPLOY_MAX_OPSET=21" in limits.fix


LOST = {"best_model.v2": "UNAVAILABLE: no such tensor", "best_model.v1": "UNAVAILABLE: unloaded"}


def test_a_triton_that_serves_and_says_that_it_is_not_ready_is_named(world: World) -> None:
    world.register_times(1)
    strict = FakeServer(world.root, "one:1")
    world.triton = strict
    world.deploy()
    strict.ready, strict.stuck = False, LOST
    (found,) = complaints(ask(world, strict, FakeServer(world.root, "two:1")))
    assert found.verdict is DoctorVerdict.WARNING
    assert "Triton at one:1 serves best_model, best_model.v1" in found.what
    assert "because of best_model.v2: " in found.what, "what was unloaded counts nothing"
    assert "--strict-readiness=false" in found.fix


def test_a_triton_that_serves_nothing_yet_need_not_be_ready(world: World) -> None:
    starting = FakeServer(world.root, "one:1")
    starting.ready = False
    assert complaints(ask(world, starting)) == []


def test_what_a_triton_does_at_its_start_can_only_be_looked_up(world: World) -> None:
    found = ask(world, FakeServer(world.root, "one:1"), FakeServer(world.root, "two:1"))
    (unknown,) = [one for one in found if "--exit-on-error" in one.what]
    assert unknown.verdict is DoctorVerdict.UNKNOWN
    assert "--exit-on-error=false --strict-readiness=false" in unknown.fix


# The staging Triton


STAGING_URL = "192.0.2.7:8001"


def compare(world: World, server: FakeServer, *serving: FakeServer, **changes: str) -> list[Finding]:
    settings = changed(world.settings, **{"triton__staging_grpc_url": STAGING_URL, **changes})  # type: ignore[arg-type]
    asked = []

    def at(url: str) -> FakeServer:
        asked.append(url)
        return server

    found = run_all([StagingCheck(settings, at, lambda: serving)], {})
    assert asked == [settings.triton.staging_grpc_url]
    assert not list(world.root.glob(f"{PREFIX}*"))
    return found


@pytest.fixture
def staging(world: World) -> FakeServer:
    return FakeServer(world.root, STAGING_URL)


@pytest.fixture
def serving(world: World) -> FakeServer:
    return FakeServer(world.root, "192.0.2.1:8001")


def test_a_staging_triton_like_the_others_is_fine_and_what_cant_be_shown_is_said(
    world: World, staging: FakeServer, serving: FakeServer
) -> None:
    found = compare(world, staging, serving)
    assert complaints(found) == []
    (unknown,) = [one for one in found if one.verdict is DoctorVerdict.UNKNOWN]
    assert all(word in unknown.what for word in ("GPU", "memory", "driver", "backends", "command line"))
    assert "by hand" in unknown.fix


def test_without_a_staging_triton_it_is_said_what_that_means(world: World) -> None:
    (found,) = run_all([StagingCheck(world.settings)], {})
    assert found.verdict is DoctorVerdict.UNKNOWN
    assert "on a Triton that serves" in found.what
    assert "--load-model" in found.fix


@pytest.mark.parametrize(
    ("setting", "verdict", "words"),
    [
        ("required", DoctorVerdict.FAILED, "Every deploy fails"),
        ("optional", DoctorVerdict.WARNING, "go on without it"),
    ],
)
def test_a_staging_triton_that_is_away_counts_as_it_is_needed(
    world: World, staging: FakeServer, serving: FakeServer, setting: str, verdict: DoctorVerdict, words: str
) -> None:
    staging.fail["about"] = unavailable()
    (found,) = compare(world, staging, serving, triton__staging=setting)
    assert found.verdict is verdict
    assert words in found.what
    assert "TRITON_DEPLOY_STAGING_GRPC_URL" in found.fix


def test_a_staging_triton_under_the_address_of_one_that_serves_is_named(
    world: World, staging: FakeServer
) -> None:
    serving = FakeServer(world.root, "127.0.0.1:8001")
    found = compare(world, staging, serving, triton__staging_grpc_url="localhost:8001")
    assert [one.verdict for one in found] == [DoctorVerdict.FAILED]
    assert "localhost:8001 is the Triton at 127.0.0.1:8001, which serves" in found[0].what
    assert staging.calls == [], "nothing is unloaded there"


def test_what_a_staging_triton_has_loaded_is_named(
    world: World, staging: FakeServer, serving: FakeServer
) -> None:
    staging.stuck = {"best_model.v9": "LOADING", **LOST}
    (found,) = complaints(compare(world, staging, serving))
    assert found.verdict is DoctorVerdict.WARNING
    assert "best_model.v9 (LOADING)" in found.what
    assert "best_model.v1" not in found.what, "what was unloaded is not there"
    assert "--load-model" in found.fix


def test_a_staging_triton_that_a_deploy_uses_need_not_be_empty(
    world: World, staging: FakeServer, serving: FakeServer
) -> None:
    staging.stuck = {"best_model.v9": "LOADING"}
    lease = Lease(world.root, "the staging Triton", LEASE)
    lease.acquire("best_model:d9", datetime.now(UTC), 60)
    found = compare(world, staging, serving)
    assert complaints(found) == []
    assert any("best_model:d9 tries its candidate there" in one.what for one in found)
    lease.release("best_model:d9")
    assert len(complaints(compare(world, staging, serving))) == 1


def test_a_staging_triton_that_refuses_model_control_is_named(
    world: World, staging: FakeServer, serving: FakeServer
) -> None:
    staging.fail["unload"] = Misconfigured("It refused.", hint="--model-control-mode=explicit")
    (found,) = complaints(compare(world, staging, serving))
    assert "--model-control-mode=explicit" in found.fix


def test_a_staging_triton_on_another_repository_is_named(
    world: World, serving: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (found,) = complaints(compare(world, FakeServer(tmp_path / "other", STAGING_URL), serving))
    assert found.verdict is DoctorVerdict.FAILED
    assert "another repository" in found.what
    assert "--model-repository" in found.fix


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("version", "2.44.0", "Triton at 192.0.2.1:8001 is 2.44.0"),
        ("extensions", (*NEEDED, "sequence"), "differs in the extensions sequence"),
        ("extensions", NEEDED[:-1], f"differs in the extensions {NEEDED[-1]}"),
    ],
)
def test_a_staging_triton_unlike_one_that_serves_is_named(
    world: World, staging: FakeServer, serving: FakeServer, attribute: str, value: object, words: str
) -> None:
    setattr(serving, attribute, value)
    alike = FakeServer(world.root, "192.0.2.2:8001")
    (found,) = complaints(compare(world, staging, alike, serving))
    assert words in found.what
    assert "192.0.2.2" not in found.what


def test_a_staging_triton_is_compared_with_those_that_answer(
    world: World, staging: FakeServer, serving: FakeServer
) -> None:
    serving.fail["about"] = unavailable()
    found = compare(world, staging, serving)
    assert any("could not be compared" in one.what for one in found)
    found = compare(world, staging, serving, FakeServer(world.root, "192.0.2.2:8001"))
    assert any("of the 1 that serve" in one.what for one in found if one.verdict is DoctorVerdict.OK)


# Clocks


@pytest.mark.parametrize(
    ("off_s", "verdict", "words"),
    [
        (0.0, DoctorVerdict.OK, "agrees"),
        (CLOCK_SKEW_S / 2, DoctorVerdict.WARNING, "behind this machine's"),
        (CLOCK_SKEW_S * 2, DoctorVerdict.FAILED, "behind this machine's, more than the 60 s"),
        (-CLOCK_SKEW_S * 2, DoctorVerdict.FAILED, "ahead of this machine's, more than the 60 s"),
    ],
)
def test_a_file_system_whose_clock_is_off_is_named(
    world: World, off_s: float, verdict: DoctorVerdict, words: str
) -> None:
    found = run_all([ClocksCheck(world.settings, lambda: time.time() + off_s)], {})
    (files,) = [one for one in found if "file system" in one.what]
    assert files.verdict is verdict
    assert words in files.what
    assert ("NTP" in files.fix) == (verdict is not DoctorVerdict.OK)
    assert not list(world.root.glob(f"{PREFIX}*"))
