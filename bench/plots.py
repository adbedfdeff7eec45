"""Pictures of the figures: medians with their spread, as SVG files; equal values give equal bytes."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from .series import Series, quantile, to_json, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OTHERS = r"\b(naive|plugin|Triton|nginx|mlflow models serve|bare|limit|cp|nothing happens|an empty task)\b"
"""Regular expression that finds the names of series of other ways than ours."""
LOG_FROM = 30
"""Values whose largest is more than this many times the smallest get a logarithmic scale."""
SPREAD = (0.1, 0.9)
"""The quantiles between which the line of a series is drawn."""

_OURS_COLOUR, _OTHERS_COLOUR = "#0072b2", "#d55e00"  # distinct for colour-blind readers, too
_TEXT, _FAINT, _BAND = "#24292f", "#8c959f", "#f3f5f7"
_ROW_IN, _FRAME_IN, _WIDTH_IN = 0.27, 1.2, 9.5
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "bench",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    # A dollar sign in a name does not begin a formula.
    "text.parse_math": False,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.edgecolor": _FAINT,
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of some series of one benchmark, all of one unit.

    Attributes:
        bench: the benchmark.
        name: name of the file, below docs/images.
        unit: unit of the drawn series.
        title: title above the drawing.
        only: regular expression for the names of the drawn series; default: all.
        others: regular expression for the names of series of other ways than ours.
    """

    bench: str
    name: str
    unit: str
    title: str
    only: str = ""
    others: str = OTHERS

    @property
    def path(self) -> str:
        """Path of the file from the root of the repository."""
        return f"docs/images/{self.name}.svg"

    def shown(self, benches: Mapping[str, Sequence[Series]]) -> list[Series]:
        """Return the drawn series."""
        return [s for s in benches[self.bench] if s.unit == self.unit and re.search(self.only, s.name)]

    def drawn(self, benches: Mapping[str, Sequence[Series]]) -> str:
        """Return the picture as SVG."""
        return plot(self.title, self.shown(benches), self.unit, self.others)

    def is_drawn_from(self, svg: str, benches: Mapping[str, Sequence[Series]]) -> bool:
        """Return whether a file's text is this picture of these values."""
        return _mark(self.title, self.shown(benches), self.unit, self.others) in svg


PICTURES = (
    Picture(
        bench="deploy",
        name="performance-deploy",
        unit="s",
        title="A deploy, from the start of its process to its end",
        only=r": (ours|naive|plugin), whole process$",
    ),
    Picture(
        bench="swaps",
        name="performance-swaps",
        unit="ms",
        title="A swap, a failed deploy, a way back",
        only=r"^(?!.*slowest request)",
    ),
    Picture(
        bench="gateway",
        name="performance-gateway-requests",
        unit="/s",
        title="Requests a second, by way to the model",
    ),
    Picture(
        bench="gateway",
        name="performance-gateway-p50",
        unit="ms",
        title="Median latency, by way to the model",
        only=r"\bp50$",
    ),
    Picture(
        bench="local",
        name="performance-local-requests",
        unit="/s",
        title="Requests a second, a model in process",
    ),
)
"""The pictures that ``make docs`` draws."""


def plot(title: str, series: Sequence[Series], unit: str, others: str = OTHERS) -> str:
    """Return the medians of all series of one unit, with their spread, as SVG.

    A series and its baseline share a band; bands follow the order of the series.

    Args:
        title: title above the drawing.
        series: series of any units.
        unit: unit of the series to draw.
        others: regular expression for the names of series of other ways than ours.

    Raises:
        ValueError: no series has that unit.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    bands = clusters([one for one in series if one.unit == unit])
    if not bands:
        raise ValueError(f"{title}: no series is in {unit}")
    rows = [one for band in bands for one in band]
    svg = io.StringIO()
    with mpl.rc_context():
        # The settings file of the user must not change the picture.
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(_WIDTH_IN, _FRAME_IN + _ROW_IN * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        _draw_bands(axes, bands)
        for name, colour, marker, drawn in _kinds(rows, others):
            _draw_rows(axes, rows, drawn, name, colour, marker)
        _dress(axes, rows, unit)
        figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=11, fontweight="bold")
        mark = _mark(title, series, unit, others)
        figure.savefig(
            svg,
            format="svg",
            facecolor="white",
            metadata={"Date": None, "Creator": None, "Title": title, "Description": mark},
        )
    return svg.getvalue()


def clusters(series: Sequence[Series]) -> list[list[Series]]:
    """Return groups of a baseline and its series, in the order of their first appearance."""
    found: dict[str, list[Series]] = {}
    for one in series:
        found.setdefault(one.baseline or one.name, []).append(one)
    return list(found.values())


def is_logarithmic(values: Iterable[float]) -> bool:
    """Return whether small values would be invisible on a linear scale."""
    ordered = sorted(values)
    return ordered[0] > 0 and ordered[-1] / ordered[0] > LOG_FROM


def _mark(title: str, series: Sequence[Series], unit: str, others: str) -> str:
    """Return the sentence in a picture that identifies its values."""
    drawn = to_json([one for one in series if one.unit == unit])
    text = json.dumps([title, drawn, unit, others], sort_keys=True)
    return f"Drawn from values with sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def _kinds(rows: Sequence[Series], others: str) -> list[tuple[str, str, str, list[int]]]:
    """Return name, colour, marker and rows of our series and of the others; skip a kind without rows."""
    theirs = [number for number, one in enumerate(rows) if re.search(others, one.name)]
    ours = [number for number in range(len(rows)) if number not in theirs]
    kinds = [("ours", _OURS_COLOUR, "o", ours), ("other ways, and limits", _OTHERS_COLOUR, "D", theirs)]
    return [kind for kind in kinds if kind[3]]


def _draw_bands(axes: Axes, bands: Sequence[Sequence[Series]]) -> None:
    top = 0
    for number, band in enumerate(bands):
        if number % 2 == 0 and len(bands) > 1:
            axes.axhspan(top - 0.5, top + len(band) - 0.5, color=_BAND, linewidth=0, zorder=0)
        top += len(band)


def _draw_rows(
    axes: Axes, rows: Sequence[Series], numbers: Sequence[int], name: str, colour: str, marker: str
) -> None:
    low, high = ([quantile(rows[number].values, share) for number in numbers] for share in SPREAD)
    axes.hlines(numbers, low, high, colors=colour, linewidth=2.5, alpha=0.45, zorder=2)
    medians = [median(rows[number].values) for number in numbers]
    axes.plot(medians, numbers, marker, color=colour, markersize=5.5, label=name, zorder=3)
    for number, value, end in zip(numbers, medians, high, strict=True):
        axes.annotate(
            with_unit(value, rows[number].unit),
            (max(value, end), number),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )


def _dress(axes: Axes, rows: Sequence[Series], unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yticks(range(len(rows)), [one.name for one in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    if is_logarithmic(median(one.values) for one in rows):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        scale = f"{unit}, logarithmic"
    else:
        axes.set_xlim(left=0)
        scale = unit
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    _leave_room(axes)
    axes.grid(axis="x", color="#d0d7de", linewidth=0.6, zorder=1)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(f"{scale}; point: median, line: 10 % to 90 % of the values")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.2)


def _leave_room(axes: Axes, share: float = 0.14) -> None:
    """Widen the drawing to the right, for the numbers beside the points."""
    left, right = axes.get_xlim()
    if axes.get_xscale() == "log":
        axes.set_xlim(left, right * (right / left) ** share)
    else:
        axes.set_xlim(left, right + share * (right - left))
