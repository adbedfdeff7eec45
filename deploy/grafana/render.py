"""Draws the dashboards from the data of a Prometheus, without Grafana: for documents, and where there is none.

``python deploy/grafana/render.py --prometheus http://localhost:9090 --model best_model --minutes 60 --output pictures``
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import requests
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

DASHBOARDS = Path(__file__).with_name("dashboards")
POINTS = 200
WIDTH_IN = 16
HEIGHT_IN = 0.34
"""Of one of Grafana's units of height."""
UNITS = {"s": "seconds", "reqps": "requests/s", "percentunit": "share", "percent": "%", "bytes": "bytes"}
STYLE: Any = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Source:
    """A Prometheus, over a span of time.

    Args:
        url: its base URL.
        model: what ``$model`` stands for.
        end: seconds since 1970.
        span_s: how long before that it begins, seconds.
        rate_window: what ``$__rate_interval`` stands for, such as ``1m``.
    """

    def __init__(self, url: str, model: str, end: float, span_s: float, rate_window: str) -> None:
        self._url, self._model, self._rate_window = url.rstrip("/"), model, rate_window
        self.end, self.begin = end, end - span_s
        self._session = requests.Session()

    def over_time(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression: ``metric`` and ``values``."""
        step_s = max(1.0, (self.end - self.begin) / POINTS)
        span = {"start": str(self.begin), "end": str(self.end), "step": str(step_s)}
        return self._ask("/api/v1/query_range", expression, span)

    def now(self, expression: str) -> list[dict[str, Any]]:
        """Return the values of an expression at the end: ``metric`` and ``value``."""
        return self._ask("/api/v1/query", expression, {"time": str(self.end)})

    def _ask(self, path: str, expression: str, span: Mapping[str, str]) -> list[dict[str, Any]]:
        query = expression.replace("$model", self._model).replace("$__rate_interval", self._rate_window)
        answer = self._session.get(self._url + path, params={"query": query, **span}, timeout=30)
        answer.raise_for_status()
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result


def draw(board: Mapping[str, Any], source: Source) -> Figure:
    """Return a dashboard as a picture, its panels where they are in Grafana."""
    panels = board["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN * height + 0.5))
        figure.suptitle(board["title"], x=0.01, y=0.995, ha="left", weight="bold", fontsize=13)
        top = 1 - 0.35 / (HEIGHT_IN * height + 0.5)
        for panel in panels:
            place = panel["gridPos"]
            left, low = place["x"] / 24, top * (1 - (place["y"] + place["h"]) / height)
            if panel["type"] == "row":
                figure.text(0.01, low, panel["title"], weight="bold", fontsize=11)
                continue
            size = (
                place["w"] / 24 - 0.045,
                top * place["h"] / height - 0.32 / figure.get_size_inches()[1] * 1.7,
            )
            axes = figure.add_axes((left + 0.035, low + 0.3 / figure.get_size_inches()[1], *size))
            axes.set_title(panel["title"], loc="left", fontsize=10)
            _PAINTERS[panel["type"]](axes, panel, source)
    return figure


def _chart(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    steps = panel["fieldConfig"]["defaults"].get("custom", {}).get("lineInterpolation") == "stepAfter"
    for target in panel["targets"]:
        for series in source.over_time(target["expr"]):
            at = [_day(float(when)) for when, _ in series["values"]]
            values = [float(value) for _, value in series["values"]]
            label = _label(target["legendFormat"], series["metric"])
            axes.plot(at, values, label=label, drawstyle="steps-post" if steps else "default", linewidth=1.4)
    axes.set_xlim(_day(source.begin), _day(source.end))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylabel(UNITS.get(panel["fieldConfig"]["defaults"].get("unit", ""), ""), fontsize=8)
    if axes.lines:
        axes.legend(fontsize=7, loc="upper left", framealpha=0.6)
    for release in _releases(source):
        axes.axvline(release, color="tab:blue", linestyle="--", linewidth=0.9, alpha=0.7)


def _number(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    axes.axis("off")
    values = [float(one["value"][1]) for target in panel["targets"] for one in source.now(target["expr"])]
    text = "  ".join(map(_rounded, values)) or "no data"
    unit = " s" if panel["fieldConfig"]["defaults"].get("unit") == "s" else ""
    axes.text(0.02, 0.35, text + unit, fontsize=20, va="center")


def _table(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    axes.axis("off")
    names = panel["transformations"][1]["options"]["renameByName"]
    rows: dict[str, dict[str, str]] = {}
    for target in panel["targets"]:
        for one in source.now(target["expr"]):
            row = rows.setdefault(one["metric"].get("model", ""), {})
            row[names[f"Value #{target['refId']}"]] = _rounded(float(one["value"][1]))
    cells = [[model, *(row.get(name, "") for name in names.values())] for model, row in sorted(rows.items())]
    if cells:
        drawn = axes.table(
            cells, colLabels=["model", *names.values()], cellLoc="left", bbox=Bbox.from_bounds(0, 0.1, 1, 0.8)
        )
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(9)


_PAINTERS = {"timeseries": _chart, "stat": _number, "table": _table}


def _day(seconds: float) -> float:
    """Return seconds since 1970 as matplotlib counts: days."""
    return seconds / 86400


def _releases(source: Source) -> list[float]:
    series = source.over_time('triton_deploy_release_timestamp_seconds{model="$model"}')
    times = {float(value) for one in series for _, value in one["values"]}
    return [_day(when) for when in times if source.begin < when < source.end]


def _label(template: str, metric: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: metric.get(match[1], ""), template)


def _rounded(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.3g}"


def main(argv: Sequence[str] | None = None) -> None:
    """Draw every dashboard; see the module."""
    parser = argparse.ArgumentParser(description="Draw the dashboards from the data of a Prometheus.")
    parser.add_argument("--prometheus", required=True, metavar="URL")
    parser.add_argument("--model", default="best_model")
    parser.add_argument(
        "--minutes", type=float, default=60, help="how far to look back (default: %(default)s)"
    )
    parser.add_argument("--rate-window", default="1m", help="what rates look back (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the pictures")
    options = parser.parse_args(argv)
    source = Source(options.prometheus, options.model, time.time(), options.minutes * 60, options.rate_window)
    options.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(DASHBOARDS.glob("*.json")):
        figure = draw(json.loads(path.read_text(encoding="utf-8")), source)
        drawn = BytesIO()
        figure.savefig(drawn, dpi=75)
        # Lines on white need few colours: a third of the size.
        few = Image.open(drawn).convert("RGB").quantize(64)
        few.save(options.output / f"dashboard-{path.stem}.png", optimize=True)


if __name__ == "__main__":
    main()
