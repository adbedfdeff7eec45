"""The pictures of the figures."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bench.plots import Picture, clusters, is_logarithmic, plot
from bench.series import Series

OURS = Series(name="ours, 1 KB", unit="s", values=(1.0, 2.0, 3.0), baseline="naive, 1 KB")
NAIVE = Series(name="naive, 1 KB", unit="s", values=(10.0, 12.0, 11.0))
AGAIN = Series(name="<again> & $again$", unit="s", values=(0.1, 0.2))
MEMORY = Series(name="ours, memory", unit="MiB", values=(40.0,))
ALL = [OURS, AGAIN, NAIVE, MEMORY]
PICTURE = Picture(bench="deploy", name="performance-deploy", unit="s", title="Deploy", only="1 KB")


def texts(svg: str) -> list[str]:
    return [text for element in ET.fromstring(svg).iter() if (text := (element.text or "").strip())]


def test_the_same_values_give_the_same_bytes() -> None:
    assert plot("Deploy", ALL, "s") == plot("Deploy", ALL, "s")


def test_no_time_and_no_version_is_in_a_picture() -> None:
    assert not re.search(r"dc:date|dc:creator|20\d\d-\d\d-\d\d", plot("Deploy", ALL, "s"))


def test_a_picture_names_every_series_of_its_unit_and_its_median() -> None:
    shown = texts(plot("Deploy", ALL, "s"))
    assert {"Deploy", "ours, 1 KB", "naive, 1 KB", "<again> & $again$", "2 s", "11 s", "0.15 s"} <= set(shown)
    assert "ours, memory" not in shown


def test_the_legend_tells_ours_from_the_others_where_there_are_others() -> None:
    assert {"ours", "other ways, and limits"} <= set(texts(plot("Deploy", ALL, "s")))
    assert "other ways, and limits" not in texts(plot("Memory", ALL, "MiB"))


def test_what_is_not_ours_can_be_said_for_each_picture() -> None:
    assert "other ways, and limits" in texts(plot("Memory", ALL, "MiB", others="memory"))


def test_a_unit_that_nothing_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="no series is in km"):
        plot("Deploy", ALL, "km")


def test_a_series_stands_with_what_it_is_compared_with() -> None:
    assert clusters(ALL) == [[OURS, NAIVE], [AGAIN], [MEMORY]]


def test_series_that_are_compared_with_the_same_stand_together_without_it() -> None:
    more = replace(OURS, name="ours again, 1 KB")
    assert clusters([OURS, AGAIN, more]) == [[OURS, more], [AGAIN]]


@pytest.mark.parametrize(
    ("values", "logarithmic"), [((1, 30), False), ((1, 31), True), ((0, 1000), False), ((5,), False)]
)
def test_a_wide_range_is_drawn_on_a_logarithmic_scale(values: tuple[float, ...], logarithmic: bool) -> None:
    assert is_logarithmic(values) is logarithmic


def test_the_axis_says_that_it_is_logarithmic() -> None:
    assert any(text.startswith("s, logarithmic") for text in texts(plot("Deploy", ALL, "s")))
    assert not any("logarithmic" in text for text in texts(plot("Deploy", [OURS, NAIVE], "s")))


def test_a_picture_knows_the_values_that_it_was_drawn_from() -> None:
    benches = {"deploy": ALL}
    svg = PICTURE.drawn(benches)
    assert PICTURE.is_drawn_from(svg, benches)
    assert PICTURE.is_drawn_from(svg, {"deploy": [*ALL, replace(MEMORY, name="more", values=(1.0,))]})
    assert not PICTURE.is_drawn_from(svg, {"deploy": [replace(OURS, values=(1.0, 2.0, 3.1)), NAIVE]})
    assert not replace(PICTURE, title="Another").is_drawn_from(svg, benches)


def test_a_picture_shows_only_what_it_is_to_show() -> None:
    assert [one.name for one in PICTURE.shown({"deploy": ALL})] == ["ours, 1 KB", "naive, 1 KB"]
