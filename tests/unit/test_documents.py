"""What the documents say of the code is what the code says."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from markdown_it import MarkdownIt

from bench.plots import PICTURES, Picture
from tests.support.documents import ways_out

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize(
    "document", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda path: path.name
)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize(
    "document", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda path: path.name
)
def test_a_paragraph_is_one_line(document: Path) -> None:
    """A changed word is one changed line then, not a paragraph that was wrapped again."""
    for block in MarkdownIt("gfm-like", {"linkify": False}).parse(document.read_text()):
        breaks = [part for part in block.children or () if part.type == "softbreak"]
        assert not breaks, f"{document.name}:{block.map and block.map[0] + 1}: {block.content[:60]}"


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", (ROOT / "README.md").read_text()))
    assert named
    assert named <= targets


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
