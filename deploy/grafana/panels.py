"""The kinds of panels, queries and variables of our dashboards, and the looks that they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

Panel = stat.Panel | timeseries.Panel

_PROMETHEUS = DataSourceRef("prometheus", "prometheus")  # the uid in provisioning/datasources
_LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and the template of its series' names."""

    expr: str
    legend: str


def rate(counter: str, *by: str, where: str = "") -> str:
    """Returns what a counter grows by in a second, by labels."""
    return f"sum{_by(by)}(rate({_series(counter, where)}[$__rate_interval]))"


def quantile(share: float, histogram: str, *by: str, where: str = "") -> str:
    """Returns the value below which a share of a histogram's observations lies, by labels."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', *by, 'le', where=where)})"


def mean(histogram: str, *by: str, where: str = "") -> str:
    """Returns the mean of a histogram's observations, by labels."""
    return f"{rate(f'{histogram}_sum', *by, where=where)} / {rate(f'{histogram}_count', *by, where=where)}"


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    low: float | None = 0,
    high: float | None = None,
    fill: int = 8,
) -> timeseries.Panel:
    """Returns a panel of lines over time. Its axis ends at `low` and `high`, or where the values do if that is None."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(_PROMETHEUS)
        .span(8)
        .height(8)
        .unit(unit)
        .line_width(2)
        .fill_opacity(fill)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .targets([_target(query, letter) for query, letter in zip(queries, _LETTERS, strict=False)])
    )
    if low is not None:
        panel.min(low)
    if high is not None:
        panel.max(high)
    return panel


def band(title: str, description: str, names: Iterable[str], *queries: Query, unit: str) -> timeseries.Panel:
    """Returns a panel of estimates over time, which fills the space between each "NAME, low" and "NAME, high"."""
    panel = graph(title, description, *queries, unit=unit, low=None, fill=0)
    panel.override_by_regexp("/, (low|high)$/", [DynamicConfigValue("custom.lineWidth", 0)])
    for name in names:
        below, opacity = ("custom.fillBelowTo", f"{name}, low"), ("custom.fillOpacity", 20)
        panel.override_by_name(f"{name}, high", [DynamicConfigValue(*below), DynamicConfigValue(*opacity)])
    return panel


def stack(title: str, description: str, *queries: Query, unit: str = "cps") -> timeseries.Panel:
    """Returns a panel of areas over time, one upon the other."""
    stacked = common.StackingConfig().mode(StackingMode.NORMAL)
    return graph(title, description, *queries, unit=unit, fill=30).stacking(stacked)


def value(
    title: str, description: str, query: Query, unit: str = "short", text: BigValueTextMode = BigValueTextMode.AUTO
) -> stat.Panel:
    """Returns a panel of the newest value of each series."""
    return _value(title, description, query, text).unit(unit).thresholds(_steps([Threshold(None, "text")]))


def light(title: str, description: str, query: Query, states: Mapping[str, tuple[str, str]]) -> stat.Panel:
    """Returns a panel of lamps: `states` are words and colours by value, the lowest first."""
    words = {at: ValueMappingResult(text, color) for at, (text, color) in states.items()}
    steps = [Threshold(float(at) if i else None, color) for i, (at, (_, color)) in enumerate(states.items())]
    return (
        _value(title, description, query, BigValueTextMode.VALUE_AND_NAME)
        .unit("short")
        .color_mode(BigValueColorMode.BACKGROUND)
        .thresholds(_steps(steps))
        .mappings([ValueMap(words)])
    )


def choice(name: str, metric: str) -> QueryVariable:
    """Returns a variable of the dashboard: some or all of the values that a metric's label of that name has."""
    return (
        QueryVariable(name)
        .label(name.capitalize())
        .datasource(_PROMETHEUS)
        .query({"query": f"label_values({metric}, {name})", "refId": name})
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(text="All", value="$__all"))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def dashboard(
    uid: str, title: str, since: str, variable: QueryVariable, rows: Mapping[str, Sequence[Panel]]
) -> Dashboard:
    """Returns the dashboard. `rows` are panels by the row's title; the first row has none. Panels wrap as words do."""
    made = (
        Dashboard(title)
        .uid(uid)
        .tags(["search-agent"])
        .refresh("10s")
        .time(since, "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(variable)
    )
    ids = iter(range(1, 1000))
    for row, panels in rows.items():
        if row:
            made.with_row(Row(row).id(next(ids)))
        for panel in panels:
            made.with_panel(panel.id(next(ids)))
    return made


def _value(title: str, description: str, query: Query, text: BigValueTextMode) -> stat.Panel:
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(_PROMETHEUS)
        .span(8)
        .height(4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .text_mode(text)
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE)
        .targets([_target(query, "A").instant()])
    )


def _target(query: Query, letter: str) -> Dataquery:
    """Returns the query; those of histograms show exemplars, which lead to traces."""
    made = Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend)
    return made.exemplar(True) if "_bucket" in query.expr else made


def _steps(steps: list[Threshold]) -> ThresholdsConfig:
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _by(labels: Iterable[str]) -> str:
    named = ", ".join(labels)
    return f" by ({named}) " if named else ""


def _series(name: str, where: str) -> str:
    return f"{name}{{{where}}}" if where else name
