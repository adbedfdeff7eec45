"""The kinds of panels in the dashboards; each becomes a panel of Grafana's own types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as GrafanaStat
from grafana_foundation_sdk.builders.table import Panel as GrafanaTable
from grafana_foundation_sdk.builders.timeseries import Panel as GrafanaTimeSeries
from grafana_foundation_sdk.models.common import LegendDisplayMode, LineInterpolation
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The data source that the reader of a dashboard chooses."""
_HEIGHT = 8

Query = tuple[str, str]
"""A PromQL expression, and the name of its series or column."""


@dataclass(frozen=True)
class Chart:
    """A chart over time.

    Attributes:
        title: title.
        unit: Grafana's name of the unit.
        queries: the series.
        text: description for the reader.
        span: width, of 24 columns.
        steps: draw steps instead of slopes: for shares, versions and other values that change at once.
    """

    title: str
    unit: str
    queries: Sequence[Query]
    text: str = ""
    span: int = 8
    steps: bool = False

    def panel(self) -> GrafanaTimeSeries:
        """Return Grafana's panel."""
        panel = (
            GrafanaTimeSeries()
            .title(self.title)
            .description(self.text)
            .unit(self.unit)
            .min(0)
            .datasource(PROMETHEUS)
            .span(self.span)
            .height(_HEIGHT)
            .legend(VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True))
            .targets([_target(ref, query) for ref, query in lettered(self.queries)])
        )
        return panel.line_interpolation(LineInterpolation.STEP_AFTER) if self.steps else panel


@dataclass(frozen=True)
class Number:
    """Large numbers, as of now.

    Attributes:
        title: title.
        unit: Grafana's name of the unit.
        queries: the numbers.
        text: description for the reader.
        red_from: smallest value that is shown in red; None: every value is green.
    """

    title: str
    unit: str
    queries: Sequence[Query]
    text: str = ""
    red_from: float | None = None

    def panel(self) -> GrafanaStat:
        """Return Grafana's panel."""
        steps = [Threshold(value=None, color="green")]
        if self.red_from is not None:
            steps.append(Threshold(value=self.red_from, color="red"))
        return (
            GrafanaStat()
            .title(self.title)
            .description(self.text)
            .unit(self.unit)
            .datasource(PROMETHEUS)
            .span(4)
            .height(_HEIGHT // 2)
            .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
            .targets([_target(ref, query).instant() for ref, query in lettered(self.queries)])
        )


@dataclass(frozen=True)
class Table:
    """A table over the whole width: a row for each model, a column for each query.

    Attributes:
        title: title.
        queries: the columns.
    """

    title: str
    queries: Sequence[Query]

    def panel(self) -> GrafanaTable:
        """Return Grafana's panel."""
        names = {f"Value #{ref}": name for ref, (_, name) in lettered(self.queries)}
        organize = {"excludeByName": {"Time": True}, "renameByName": names}
        return (
            GrafanaTable()
            .title(self.title)
            .description("")
            .datasource(PROMETHEUS)
            .span(24)
            .height(_HEIGHT // 2)
            .targets(
                [
                    _target(ref, query).instant().format(PromQueryFormat.TABLE)
                    for ref, query in lettered(self.queries)
                ]
            )
            .transformations(
                [
                    DataTransformerConfig(id_val="merge", options={}),
                    DataTransformerConfig(id_val="organize", options=organize),
                ]
            )
        )


Panel = Chart | Number | Table


def lettered(queries: Sequence[Query]) -> Iterator[tuple[str, Query]]:
    """Yield each query after the letter by which Grafana refers to it.

    Raises:
        ValueError: there are more queries than letters.
    """
    return zip(ascii_uppercase[: len(queries)], queries, strict=True)


def _target(ref: str, query: Query) -> Dataquery:
    expression, name = query
    return Dataquery().expr(expression).legend_format(name).ref_id(ref)
