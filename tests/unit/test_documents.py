"""What the documents say of the code is what the code says."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from markdown_it import MarkdownIt

from bench.plots import PICTURES, Picture
from docs import reference_tables
from ml_code.triton_deploy.cli import build_parser
from ml_code.triton_deploy.settings.environment import FromEnvironment
from tests.support.documents import anchors, prose, ways_out

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path for path in ROOT.glob("docs/**/*.md") if path.parent.name != "adr"]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
COMMANDS = reference_tables.subcommands(build_parser())
OPTIONS = {name: {*parser._option_string_actions} for name, parser in COMMANDS.items()}
METRICS = {
    name
    for table in (reference_tables.gateway_metrics(), reference_tables.deployer_metrics())
    for name in re.findall(r"^\| `(\w+)` ", table, re.MULTILINE)
}
for module in ("alias_events.settings", "gate.settings", "gate.rules"):
    importlib.import_module(f"ml_code.{module}")
VARIABLES = {f.metadata["variable"] for kind in FromEnvironment.__subclasses__() for f in kind.declared()}
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(generator().PARTS))
def test_generated_parts_are_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == generator().rendered(name), "run: make docs"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_pictures_are_of_the_current_figures(picture: Picture) -> None:
    svg = (ROOT / picture.path).read_text()
    assert picture.is_drawn_from(svg, generator().benches()), "run: make docs"
    assert len(svg) < 60_000
    assert f"](images/{picture.name}.svg)" in (ROOT / "docs/performance.md").read_text()


@pytest.mark.parametrize("light", generator().LIGHT, ids=lambda path: path.stem)
def test_a_drawing_has_a_dark_version_and_a_page(light: Path) -> None:
    made = generator()
    assert made.dark(light).read_text() == made.dark_picture(light), "run: make docs"
    page = next(path for path in DOCUMENTS if f"images/{light.name}" in path.read_text())
    assert f"images/{made.dark(light).name}" in page.read_text()
    assert set(re.findall("#[0-9a-f]{6}", light.read_text())) <= made.DARK_COLOURS.keys()


def test_the_glossary_is_in_order_and_says_each_term_once() -> None:
    terms = re.findall(r"^\| ([a-z ]+) \| [A-Z`]", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 40
    assert terms == sorted(set(terms))


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", prose(document)):
        if not target.startswith("http"):
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{document.name}: {target}#{anchor}"


@each_document
def test_a_paragraph_is_one_line(document: Path) -> None:
    """A changed word is one changed line then, not a paragraph that was wrapped again."""
    for block in MarkdownIt("gfm-like", {"linkify": False}).parse(document.read_text()):
        breaks = [part for part in block.children or () if part.type == "softbreak"]
        assert not breaks, f"{document.name}:{block.map and block.map[0] + 1}: {block.content[:60]}"


@each_document
def test_every_block_of_commands_is_run_by_a_test_or_says_why_not(document: Path) -> None:
    lines = document.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("```") and line[3:] in ("sh", "bash", "console"):
            mark = lines[number - 1]
            assert re.fullmatch(r"<!-- (test|not run): .+ -->", mark), f"{document.name}:{number + 1}: {mark}"


def test_every_block_has_a_language() -> None:
    """A block without one would be a way past the test before."""
    for document in DOCUMENTS:
        fences = re.findall(r"^```(.*)$", document.read_text(), re.MULTILINE)
        assert all(fences[::2]), f"{document.name}: {fences}"


def test_every_block_that_a_test_runs_is_run_by_one() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"(?m)^<!-- test: ([^,>]+?)(?:,.*)? -->", document.read_text())
    }
    assert {"tutorial", "ci: dag"} <= named
    for name in named:
        first, _, part = name.partition(": ")
        assert f'"{part or first}"' in tests, f"no test names {name}"


def test_every_page_says_first_whom_it_is_for() -> None:
    for page in PAGES:
        _, first, *_ = page.read_text().split("\n\n")
        assert re.match(r"This (page|is the documentation) (is )?for ", first), f"{page.name}: {first[:60]}"
        assert first.count(". ") <= 1, f"{page.name}: the first paragraph has more than two sentences"


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    assert "\n|" not in text, "its one table is the demo's"


def test_every_page_is_in_the_sites_navigation() -> None:
    def files(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        parts = part.values() if isinstance(part, dict) else part
        return [file for each in parts for file in files(each)]

    nav = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md"))


@each_document
def test_what_a_document_names_exists(document: Path) -> None:
    """Commands, options, settings, metrics and targets of make."""
    text = document.read_text()
    if document.name == "CHANGELOG.md" or document.parent.name == "adr":
        return  # they tell of other times
    code = "\n".join(
        [
            *re.findall(r"`([^`\n]+)`", text),
            *re.findall(r"^```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE),
        ]
    )
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", code)) <= TARGETS | {"a"}, document.name
    for command, rest in re.findall(r"\btriton-deploy ([a-z]+)([^\n|;#]*)", code):
        assert command in COMMANDS, f"{document.name}: triton-deploy {command}"
        options = set(re.findall(r"(?<=[\s\[])--[a-z-]+", rest))
        assert options <= OPTIONS[command], f"{document.name}: {command} {options - OPTIONS[command]}"
    unknown = (
        set(
            re.findall(
                r"\b(?:TRITON_DEPLOY|TRITON_EVENTS|GATEWAY|RETRAIN|GATE)_[A-Z][A-Z0-9_]*[A-Z0-9]\b(?![_…*])",
                code,
            )
        )
        - VARIABLES
    )
    assert not unknown, f"{document.name}: {sorted(unknown)}"
    metrics = set(re.findall(r"(?<!:)\b(?:gateway|triton_deploy)_[a-z][a-z0-9_]*[a-z0-9]\b(?![_…*.])", code))
    unknown = {name for name in metrics if re.sub(r"_(bucket|sum|count)$", "", name) not in METRICS}
    assert not unknown, f"{document.name}: {sorted(unknown)}"


def test_every_way_out_of_airflow_that_is_documented_is_shown_by_a_test_that_is_not_left_to_the_soak() -> (
    None
):
    """And those tests hold their rows to what they see: see tests/integration/airflow/test_ways_out.py."""
    shown = set()
    for path in (ROOT / "tests/integration/airflow").glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", ())]
            if "pytest.mark.soak" not in marks:
                shown |= {found for mark in marks for found in re.findall(r"way_out\('([^']+)'\)", mark)}
    assert len(ways_out()) > 10
    assert shown == set(ways_out())
