"""Runs a hostile case: a command against an MLflow and S3 that misbehave as the case says; then checks the rules.

``python -m tests.support.faults.hostile_cases --seed … --case …`` plays one alone and shows all that was
said.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.repository.versions import sha256_of
from ml_code.triton_deploy.rules.version_files import FileEntry, tree_digest
from tests.support.fakes import FakeRegistry, FakeTriton, fake_store
from tests.support.faults.hostile_child import Commands, Job, Ran
from tests.support.faults.hostility import LIMIT_S, MODEL_BYTES, SLOWEST_BYTES_PER_S, Hostility
from tests.support.models import files, golden, times
from tests.support.servers.hostile_messages import SECRETS, USER
from tests.support.servers.hostile_site import Contents, HostileSite
from tests.support.servers.twisted_content import FILLER, other_object
from tests.support.world import MODEL, SETTINGS, World

SLACK_S = 5.0
MOST_MIB = 200
TRIES = 3
PLAYERS = 4
"""Cases at a time: most of a case is waiting."""
MIB = 1 << 20
SIGNATURE = re.compile(r"Signature=[0-9A-Fa-f]{64}")
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that change the text of a terminal."""

OF_A_FAILURE = re.compile(r"(^|/)(deployments|leases|journal)(/|$)|\.failed_|/reconcile\.json$|^\.doctor-")
"""Paths that a command may write that changes nothing else."""

UNAVAILABLE, KILLED = 5, -9
"""Exit codes: of a server that does not answer, and of a command that had not ended long after its deadline."""

LIVE, NEXT = 1, 2
"""The version that serves before, and the one that MLflow has."""


def artifact() -> dict[str, bytes]:
    """Return a version of a few ranges: its model has much filler, which means nothing."""
    model = times(float(NEXT))
    model.doc_string = (FILLER * (MODEL_BYTES // len(FILLER))).decode()
    return files(model, triton__golden_json=golden(float(NEXT)))


def digest_of(artifact: Mapping[str, bytes]) -> str:
    """Return the digest that training records."""
    return tree_digest(
        tuple(
            FileEntry(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in artifact.items()
        )
    )


@dataclass
class Seen:
    """The outcome of a case.

    Attributes:
        said: its whole output.
        wrong: violated rules.
        late: what was, and may be because this machine was busy: all limits are a second.
    """

    case: Hostility
    ran: Ran
    said: str
    wrong: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    @property
    def red(self) -> list[str]:
        """Return all that was wrong."""
        return self.wrong + self.late

    @property
    def deployed(self) -> bool:
        """Whether another version is live than before."""
        return (
            self.case.command == ("deploy",) and self.ran.code == 0 and self.ran.serves != (LIVE, float(LIVE))
        )

    def __str__(self) -> str:
        wrong = "".join(f"\n    {line}" for line in self.red)
        return f"  {self.case}\n    exit code {self.ran.code} after {self.ran.took_s:.1f} s, {self.ran.grew_mib:.0f} MiB{wrong}\n{_indented(self.said)}"


class Players:
    """Plays cases, some at a time.

    Args:
        folder: where the repositories are.
        count: how many at a time.

    Attributes:
        repeated: how many were played again.
    """

    def __init__(self, folder: Path, count: int = PLAYERS) -> None:
        self._folder = folder
        self._artifact = artifact()
        self._commands = Commands(folder / "commands.log")
        self._pool = ThreadPoolExecutor(count)
        self.repeated = 0

    def __enter__(self) -> Players:
        self._template = template(self._folder / "template")
        self._commands.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._commands.__exit__(None, None, None)

    def play_all(self, cases: Sequence[Hostility]) -> Iterator[Seen]:
        """Yield the outcomes of the cases, in their order; late cases run again at the end."""
        return map(self.judged, list(self._pool.map(self._once, cases)))

    def begin(self, case: Hostility) -> Future[Seen]:
        """Play a case while others are played; see ``judged``."""
        return self._pool.submit(self._once, case)

    def judged(self, seen: Seen) -> Seen:
        """Return the outcome of a case; a case that is only late runs again, because a busy machine is not late each time."""
        for _ in range(TRIES - 1):
            if seen.wrong or not seen.late:
                break
            self.repeated += 1
            seen = self._once(seen.case)
        return seen

    def _once(self, case: Hostility) -> Seen:
        """Play a case in a repository of its own, which is removed."""
        root = Path(tempfile.mkdtemp(prefix=f"case-{case.number}-", dir=self._folder))
        try:
            shutil.copytree(self._template, root / "repository", symlinks=True)
            return self._play(case, root)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _play(self, case: Hostility, root: Path) -> Seen:
        repository = root / "repository"
        before = _kept(repository)
        contents = Contents(
            MODEL,
            NEXT,
            self._artifact,
            direct=case.site == "direct",
            presigns=case.site == "presigned",
            digest=digest_of(self._artifact) if case.digest else "",
        )
        with HostileSite(contents, case) as site:
            job = Job(
                argv=_argv(case),
                environment=environment(site, case, repository),
                repository=str(repository),
                folder=str(root),
                limit_s=case.deadline_s + 3 * SLACK_S,
            )
            ran = self._commands.run(job)
            said = "\n".join(_text(root / name) for name in ("stdout", "stderr"))
            seen = Seen(case, ran, said)
            seen.wrong += _of_any_command(seen, _text(root / "records"), repository)
            seen.wrong += _of_redirects(site)
            seen.wrong += _of_the_end(seen, before, repository, self._wholes())
            seen.late += _of_its_time(seen)
            if not seen.red and case.command == ("deploy",) and ran.code != 0:
                site.hostile = None
                self._go_on(seen, replace(job, argv=("deploy", MODEL)), root)
            seen.wrong += [f"the test's own server: {line}" for line in site.defects]
        return seen

    def _go_on(self, seen: Seen, job: Job, root: Path) -> None:
        """Deploy once more, from servers that are well: it goes through, unless the server's bytes were taken for the artifact's and found bad."""
        ran = self._commands.run(job)
        if ran.code == 0 and ran.serves == (NEXT, float(NEXT)):
            return
        if ran.code == 4 and ModelFolder.at(Path(job.repository), MODEL).quarantine.failures():
            return
        end = f"the next deploy, of healthy servers, ended with {ran.code}, {ran.serves}: {_text(root / 'stderr')[-600:]}"
        (seen.late if ran.code == UNAVAILABLE else seen.wrong).append(end)

    def _wholes(self) -> set[str]:
        """Return the digests of the model's bytes that were ever one object."""
        data = self._artifact["model.onnx"]
        return {hashlib.sha256(whole).hexdigest() for whole in (data, other_object(data))}


def environment(site: HostileSite, case: Hostility, repository: Path) -> dict[str, str]:
    """Return the variables of a case: every limit is a second."""
    second = f"{LIMIT_S:g}"
    user = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": SECRETS.password}
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(repository.parent),
        "LANG": "C.UTF-8",
        "TRITON_DEPLOY_REPOSITORY": str(repository),
        "TRITON_DEPLOY_GRPC_URLS": "127.0.0.1:1",
        "TRITON_DEPLOY_ARTIFACT_ROOTS": "s3://mlflow/artifacts",
        "TRITON_DEPLOY_ALIAS_WAIT_S": "0",
        "TRITON_DEPLOY_SETTLE_S": "0",
        "TRITON_DEPLOY_MIN_FREE_BYTES": "0",
        "TRITON_DEPLOY_TRANSFER_RANGE_BYTES": str(MIB),
        "TRITON_DEPLOY_TRANSFER_MIN_BYTES_PER_S": str(SLOWEST_BYTES_PER_S),
        "TRITON_DEPLOY_MLFLOW_TIMEOUT_S": second,
        "TRITON_DEPLOY_FEEDBACK_TIMEOUT_S": second,
        "TRITON_DEPLOY_TRANSFER_TIMEOUT_S": second,
        "TRITON_DEPLOY_PROBE_TIMEOUT_S": second,
        "TRITON_DEPLOY_PROMETHEUS_URL": f"http://prom:{SECRETS.prometheus}@127.0.0.1:1",
        "TRITON_DEPLOY_NOTIFY_URL": f"http://127.0.0.1:1/{SECRETS.notify}",
        "MLFLOW_TRACKING_URI": site.url("mlflow"),
        "MLFLOW_S3_ENDPOINT_URL": site.url("s3"),
        **({"MLFLOW_TRACKING_TOKEN": SECRETS.token} if case.token else user),
        "AWS_ACCESS_KEY_ID": "WORKERKEY",
        "AWS_SECRET_ACCESS_KEY": SECRETS.s3_secret,
        "AWS_SESSION_TOKEN": SECRETS.session,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _argv(case: Hostility) -> tuple[str, ...]:
    first, *rest = case.command
    return (first, *([] if first == "doctor" else [MODEL]), *rest)


def template(folder: Path) -> Path:
    """Return a repository in which one version is live."""
    folder.mkdir(parents=True)
    with fake_store() as store:
        world = World(folder, replace(SETTINGS, repository=folder), FakeRegistry(), store, FakeTriton(folder))
        world.register_times(LIVE)
        world.deploy("template")
    return folder


# What must be true


def _of_any_command(seen: Seen, records: str, repository: Path) -> list[str]:
    """Return the violations of rules that hold for every command and outcome."""
    ran, said = seen.ran, seen.said
    wrong = []
    if ran.code in (1, 2, 99):
        wrong.append(f"exit code {ran.code}")
    if ran.grew_mib > MOST_MIB:
        wrong.append(f"it took {ran.grew_mib:.0f} MiB")
    if "Traceback" in said or "defect" in said:
        wrong.append("a traceback, or a defect is told")
    if found := UNSEEN.search(said.replace("\n", "")):
        wrong.append(f"{found[0]!r} reaches the terminal")
    written = {
        str(path.relative_to(repository)): _text(path)
        for path in _files(repository)
        if path.suffix in (".json", ".pbtxt")
    }
    for place, text in {"output": said, "log records": records, **written}.items():
        wrong += [f"{name} in {place}: {line}" for name, line in secrets_in(text)]
    return wrong


def secrets_in(text: str) -> list[tuple[str, str]]:
    """Return which secrets a text has, each with the line."""
    found = [(name, _line(text, secret)) for secret, name in SECRETS.texts().items() if secret in text]
    signature = SIGNATURE.search(text)
    return [*found, *([("a signature", _line(text, signature[0]))] if signature else [])]


def _of_its_time(seen: Seen) -> list[str]:
    """The command ended by its deadline, and a possible deploy had enough time."""
    case, ran = seen.case, seen.ran
    late = []
    if ran.took_s > case.deadline_s + SLACK_S:
        late.append(f"it took {ran.took_s:.1f} s, its deadline is {case.deadline_s:g} s")
    if case.must_deploy and ran.code == UNAVAILABLE:
        late.append("it did not deploy, and nothing was in its way")
    return late


def _of_redirects(site: HostileSite) -> list[str]:
    """The target of a redirect gets no credentials."""
    strangers = [asked for asked in site.asked if asked.server == "elsewhere"]
    return [
        f"credentials went elsewhere: {asked.method} {asked.target}"
        for asked in strangers
        if "authorization" in asked.headers
    ]


def _of_the_end(seen: Seen, before: Mapping[str, str], repository: Path, wholes: set[str]) -> list[str]:
    """What serves is the next version, as a whole, and was asked for; or all is as it was."""
    case, ran = seen.case, seen.ran
    deployed = case.command == ("deploy",) and ran.code == 0
    if ran.code == KILLED:
        return []
    if case.must_deploy and not deployed and ran.code != UNAVAILABLE:
        return ["it did not deploy, and nothing was in its way"]
    if deployed:
        model = repository / MODEL / str(ran.serves[0]) / "model.onnx"
        wrong = [] if ran.serves[-1] in (float(NEXT), float(LIVE)) else [f"clients get {ran.serves}"]
        if ran.serves[-1] == float(NEXT):
            digest = sha256_of(model)
            wrong += [] if digest in wholes else ["the model is of no one object"]
        if case.must_deploy and ran.serves != (NEXT, float(NEXT)):
            wrong.append(f"clients get {ran.serves}")
        return wrong
    wrong = [] if ran.serves == (LIVE, float(LIVE)) else [f"clients get {ran.serves} after a failure"]
    after = _kept(repository)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return wrong + [f"{name} is not as it was" for name in changed]


def _kept(repository: Path) -> dict[str, str]:
    """Return the files that a failure must not change: all but the journal, leases, quarantine and begun removals."""
    found = {}
    for path in sorted(repository.rglob("*")):
        name = str(path.relative_to(repository))
        if _is_of_a_failure(name):
            continue
        kind = (
            f"link to {path.readlink()}"
            if path.is_symlink()
            else "folder"
            if path.is_dir()
            else sha256_of(path)
        )
        found[name] = kind
    return found


def _is_of_a_failure(name: str) -> bool:
    return OF_A_FAILURE.search(name) is not None


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _line(text: str, part: str) -> str:
    at = text.index(part)
    return ascii(text[max(0, at - 120) : at + len(part) + 20])


def _indented(text: str) -> str:
    lines = [line[:300] for line in text.splitlines() if line.strip()]
    return "\n".join(f"      | {ascii(line)[1:-1]}" for line in lines[-20:])


def report(red: Sequence[Seen], count: int, seed: int) -> str:
    """Return a text with the red outcomes of ``count`` cases."""
    return "\n".join([f"{len(red)} of {count} cases are red, seed {seed}:", *map(str, red)])


def numbered(seed: int, numbers: Sequence[int]) -> list[Hostility]:
    return [Hostility.of(number, seed) for number in numbers]


def main(argv: Sequence[str] | None = None, tell: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--case", type=int, nargs="*", default=[])
    parser.add_argument("--first", type=int, default=0, help="play so many cases from this one on")
    parser.add_argument("--count", type=int, default=0)
    options = parser.parse_args(argv)
    numbers = options.case or range(options.first, options.first + options.count)
    red = 0
    with (
        tempfile.TemporaryDirectory(
            prefix="hostile-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
        ) as folder,
        Players(Path(folder)) as players,
    ):
        for seen in players.play_all(numbered(options.seed, numbers)):
            red += bool(seen.red)
            if seen.red or options.case:
                tell(str(seen))
    tell(f"{red} of {len(numbers)} are red")
    return 1 if red else 0


if __name__ == "__main__":
    raise SystemExit(main())
