"""``python -m tests.planted``: plant each known bug in a copy of the tree, and see that the tests it names notice it.

The bugs are rows of the TOML files beside this file. A bug is found when every test that its row names passes without the bug and
fails with it. The checkout itself is never changed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
COPIES = 2
"""Copies of the tree, and so bugs that are tried at once."""
OPTIONS = ("-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit2")
FOUND = "found"
UNUSABLE = re.compile(
    r"\A(ImportError|ModuleNotFoundError|NameError|UnboundLocalError):|^(SyntaxError|IndentationError):",
    re.MULTILINE,
)
"""Texts of a failed test whose code could not run at all; a syntax error comes after its place."""


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One row: the harm to a user, the text of a file that is replaced, and the node ids of the tests that notice."""

    id: str
    what: str
    file: str
    text: str
    replacement: str
    tests: Sequence[str]
    source: Path

    def problem(self, root: Path) -> str:
        """Return why the bug can't be planted in the tree at ``root``, or an empty text."""
        count = _text(root / self.file).count(self.text)
        if count != 1:
            return (
                f"{self.file} has the text {count} times, not once: bring the row in {self.source} up to date"
            )
        for test in self.tests:
            path, _, name = test.partition("[")[0].partition("::")
            if not re.search(rf"def {re.escape(name.rpartition('::')[2])}\(", _text(root / path)):
                return f"there is no test {test}: correct the row in {self.source}"
        return "" if self.tests else f"it names no test: add one to the row in {self.source}"


@dataclass(frozen=True)
class Run:
    """A run of pytest: its exit code, its report, and the last line that it printed."""

    exit_code: int
    cases: Sequence[ElementTree.Element]
    last_line: str

    def ends(self, test: str) -> dict[str, str]:
        """Return the ends of a test's cases: ``passed``, ``failure``, ``error`` (in a fixture) or ``skipped``."""
        path, bracket, parameters = test.partition("[")
        file, *names = path.split("::")
        module = ".".join([file.removesuffix(".py").replace("/", "."), *names[:-1]])
        ends = {}
        for case in self.cases:
            name = case.get("name", "")
            wanted = names[-1] + bracket + parameters in (name, name.partition("[")[0])
            if wanted and case.get("classname") == module:
                told = {child.tag: child.get("message", "") for child in case}
                end = next((tag for tag in ("failure", "error", "skipped") if tag in told), "passed")
                ends[end] = told.get(end, "")
        return ends


class Copy:
    """A copy of the files of the checkout ``root``, in an empty folder, with the same environments."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder, self._tree = folder, folder / "tree"
        listing = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
        for name in subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0"):
            # Git goes on listing a file that was removed.
            if name and (root / name).is_file():
                (self._tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self._tree / name)
        for environment in (".venv", ".venv-triton"):
            (self._tree / environment).symlink_to(root / environment)

    def run(self, tests: Sequence[str], bug: Bug | None = None) -> Run:
        """Run tests, with a bug if one is given."""
        if bug is None:
            return self._pytest(tests)
        path = self._tree / bug.file
        original = _text(path)
        path.write_text(original.replace(bug.text, bug.replacement), encoding="utf-8")
        try:
            return self._pytest(tests)
        finally:
            path.write_text(original, encoding="utf-8")

    def _pytest(self, tests: Sequence[str]) -> Run:
        report = self._folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", *OPTIONS, "--junitxml", str(report)]
        # The other processor has the other copy.
        command += ["-n0"] if importlib.util.find_spec("xdist") else []
        # The copy comes before the checkout, which the editable install names. Without bytecode: a bug that is put back within
        # the second would live on in it.
        own = {"PYTHONPATH": str(self._tree), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}
        ended = subprocess.run(
            [*command, "--basetemp", str(self._folder / "tmp"), *tests],
            cwd=self._tree,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
        return Run(ended.returncode, cases, (ended.stdout + ended.stderr).strip().rpartition("\n")[2])


def verdict(bug: Bug, clean: Run, planted: Run) -> str:
    """Return ``FOUND``, or why a bug is not found, of a run without it and one with it."""
    for test in bug.tests:
        ends = clean.ends(test)
        if "passed" not in ends or {"failure", "error"} & ends.keys():
            return f"broken: {test} does not pass without the bug ({clean.last_line}): mend the test"
    if planted.exit_code not in (0, 1):
        return f"broken: pytest ended with {planted.exit_code} ({planted.last_line}): correct the replacement"
    blind = []
    for test in bug.tests:
        ends = planted.ends(test)
        if "error" in ends or UNUSABLE.search(ends.get("failure", "")):
            said = " ".join(ends.get("error", ends.get("failure", "")).split())
            return f"broken: {test} could not run ({said}): correct the replacement"
        blind += [] if "failure" in ends else [test]
    return f"MISSED by {', '.join(blind)}: make the test see it, or name another" if blind else FOUND


def bugs_in(root: Path) -> list[Bug]:
    """Return every row; raises ValueError when a file is not one of rows, or two rows have one id."""
    bugs: dict[str, Bug] = {}
    for path in sorted(root.glob("tests/planted/*.toml")):
        source = path.relative_to(root)
        try:
            rows = [Bug(**row, source=source) for row in tomllib.loads(_text(path))["bug"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{source} is no list of bugs: {error}") from error
        for bug in rows:
            if bugs.setdefault(bug.id, bug) is not bug:
                raise ValueError(f"{source} has a second bug {bug.id}: rename it")
    return list(bugs.values())


def tried(bugs: Sequence[Bug], root: Path) -> Iterator[tuple[Bug, str, float]]:
    """Yield each bug with its verdict, and how long its tests ran, seconds; those first that can't be planted."""
    sound = []
    for bug in bugs:
        if problem := bug.problem(root):
            yield bug, f"broken: {problem}", 0.0
        else:
            sound.append(bug)
    if not sound:
        return
    with tempfile.TemporaryDirectory(prefix="planted-") as folder, ThreadPoolExecutor(COPIES) as pool:
        free: SimpleQueue[Copy] = SimpleQueue()
        for number in range(COPIES):
            free.put(Copy(root, Path(folder, str(number))))

        def run(tests: Sequence[str], bug: Bug | None = None) -> tuple[Run, float]:
            copy, began = free.get(), time.monotonic()
            try:
                return copy.run(tests, bug), time.monotonic() - began
            finally:
                free.put(copy)

        clean = pool.submit(run, sorted({test for bug in sound for test in bug.tests}))
        runs = [pool.submit(run, bug.tests, bug) for bug in sound]
        for bug, ended in zip(sound, runs, strict=True):
            planted, spent_s = ended.result()
            yield bug, verdict(bug, clean.result()[0], planted), spent_s


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line on the checkout at ``root``; returns the exit status, 0 when every bug was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="bugs to plant (default: all)")
    parser.add_argument("--list", action="store_true", help="print the bugs and plant none")
    arguments = parser.parse_args(argv)
    bugs = [bug for bug in bugs_in(root) if bug.id in arguments.ids or not arguments.ids]
    if unknown := {*arguments.ids} - {bug.id for bug in bugs}:
        parser.error(f"there is no bug {', '.join(sorted(unknown))}; --list prints all")
    if arguments.list:
        print(*(f"{bug.id:36} {bug.file}: {bug.what}" for bug in bugs), sep="\n")
        return 0
    began, found = time.monotonic(), 0
    for bug, told, spent_s in tried(bugs, root):
        found += told == FOUND
        print(f"{bug.source.stem:10} {bug.id:36} {spent_s:5.1f} s  {told}", flush=True)
    print(f"{found} of {len(bugs)} found in {time.monotonic() - began:.0f} s")
    return 0 if bugs and found == len(bugs) else 1


def _text(path: Path) -> str:
    """Return the content of a file; empty if there is no such file."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
