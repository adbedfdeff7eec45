"""The runner of tests/planted finds what tests notice, and nothing else; and its rows fit the code as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.planted.__main__ import FOUND, ROOT, Bug, bugs_in, main

PROJECT = {
    # Plugins that take a second to import.
    "pytest.ini": "[pytest]\naddopts = -p no:schemathesis -p no:hypothesispytest\n",
    # A package that the environment has installed from elsewhere: the copy has to come first.
    "ml_code/__init__.py": "",
    "ml_code/shop.py": "def total(prices):\n    return sum(prices)\n\n\ndef name():\n    return 'shop'\n",
    "tests/test_shop.py": """
import pytest


@pytest.mark.parametrize("prices", [[], [1, 2]])
def test_a_total_is_a_sum(prices):
    from ml_code.shop import total

    assert total(prices) == sum(prices)


def test_a_name_is_a_text():
    from ml_code.shop import name

    assert isinstance(name(), str)


def test_what_is_red_anyway():
    raise AssertionError
""",
}
ROWS = {
    "caught": ("sum(prices)", "len(prices)", "test_a_total_is_a_sum"),
    "unseen": ("'shop'", "'ship'", "test_a_name_is_a_text"),
    "gone": ("max(prices)", "min(prices)", "test_a_total_is_a_sum"),
    "twice": ("return", "yield", "test_a_total_is_a_sum"),
    "red": ("'shop'", "None", "test_what_is_red_anyway"),
    "no-test": ("'shop'", "None", "test_that_nobody_wrote"),
    "half-seen": ("sum(prices)", "len(prices)", "test_a_total_is_a_sum", "test_a_name_is_a_text"),
    "not-importable": ("def name():", "from ml_code import shelf\n\n\ndef name():", "test_a_name_is_a_text"),
    "not-python": ("sum(prices)", "sum(prices", "test_a_total_is_a_sum"),
}


def row(name: str, text: str, replacement: str, *tests: str) -> str:
    nodes = [f"tests/test_shop.py::{test}" for test in tests]
    return (
        f'[[bug]]\nid = "{name}"\nwhat = "x"\nfile = "ml_code/shop.py"\ntext = """{text}"""\n'
        f'replacement = """{replacement}"""\ntests = {nodes}\n'
    )


def project(root: Path, *names: str) -> Path:
    """A checkout with these rows."""
    rows = "\n".join(row(name, *ROWS[name]) for name in names)
    for path, content in {**PROJECT, "tests/planted/shop.toml": rows}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def test_only_a_bug_that_all_its_tests_notice_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], project(tmp_path, *ROWS)) == 1

    *lines, last = capsys.readouterr().out.splitlines()
    told = {name: said for _, name, _, _, said in (line.split(maxsplit=4) for line in lines)}
    assert told.keys() == ROWS.keys()
    assert told["caught"] == FOUND
    assert told["unseen"].startswith("MISSED by tests/test_shop.py::test_a_name_is_a_text:")
    assert told["gone"].startswith("broken: ml_code/shop.py has the text 0 times")
    assert told["gone"].endswith("bring the row in tests/planted/shop.toml up to date")
    assert told["twice"].startswith("broken: ml_code/shop.py has the text 2 times")
    assert "test_what_is_red_anyway does not pass without the bug" in told["red"]
    assert "there is no test tests/test_shop.py::test_that_nobody_wrote" in told["no-test"]
    assert told["half-seen"].startswith("MISSED by tests/test_shop.py::test_a_name_is_a_text:")
    assert "could not run (ImportError" in told["not-importable"]
    assert "could not run (" in told["not-python"]
    assert "SyntaxError: " in told["not-python"]
    assert last.startswith("1 of 9 found in ")
    assert (tmp_path / "ml_code/shop.py").read_text() == PROJECT["ml_code/shop.py"]


def test_a_run_that_finds_every_bug_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caught"], project(tmp_path, *ROWS)) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 of 1 found in ")


def test_the_list_plants_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"], project(tmp_path, "caught", "gone")) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["caught", "gone"]


def test_a_bug_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["other"], project(tmp_path, "caught"))
    assert "there is no bug other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[[bug]]\nid = 1", "missing"),
        ("bug", "no list of bugs"),
        (row("a", "x", "y", "t") * 2, "second bug a"),
    ],
)
def test_a_file_that_is_no_list_of_bugs_is_named(tmp_path: Path, content: str, why: str) -> None:
    path = project(tmp_path) / "tests/planted/shop.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"tests/planted/shop.toml .*{why}"):
        bugs_in(tmp_path)


# The rows of this project

BUGS = bugs_in(ROOT)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.id)
def test_a_row_fits_the_code(bug: Bug) -> None:
    assert not bug.problem(ROOT)
    assert bug.what.endswith(".")
    assert bug.text != bug.replacement


def test_every_component_has_bugs() -> None:
    components = [bug.source.stem for bug in BUGS]
    assert len(components) >= 20
    for name in ("deployer", "repository", "gateway", "bake", "events", "gate", "stack"):
        assert components.count(name) >= 2, name
