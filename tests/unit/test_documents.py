"""What the documents say of the code is what the code says."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from bench.plots import PICTURES, Picture
from tests.documents import ways_out

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


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", (ROOT / "README.md").read_text()))
    assert named
    assert named <= targets


def test_every_way_out_of_airflow_that_is_documented_is_shown_by_a_test() -> None:
    """And those tests hold their rows to what they see: see tests/integration/test_airflow_ways_out.py."""
    sources = (path.read_text() for path in (ROOT / "tests/integration").glob("test_airflow_*.py"))
    tests = [name for text in sources for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)]
    assert len(ways_out()) > 10
    missing = [way.what for way in ways_out() if not any(name.startswith(way.test_name) for name in tests)]
    assert missing == []
