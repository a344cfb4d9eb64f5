"""Figures as Vega-Lite charts, by Altair. Colours are the page's CSS variables: right in light and dark.

A legend's entries switch their series on and off; dragging moves a chart's axes, the wheel with Ctrl
scales them, a double click brings them back.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import altair as alt

from corolla.report.figures import Axis, Figure, Row
from corolla.report.wording import DASH

HEIGHT = 205  # pixels, without the legend
_DOTTED_UP_TO = 12  # points of a curve that are marked
_CROWD = 100  # dots; more are smaller
_LINE: dict[str, Any] = {"size": 1.5, "clip": True}
_TEXT = {"labelFontSize": 12, "labelColor": "var(--muted)"}
_GRID = {f"{part}Color": "var(--grid)" for part in ("domain", "grid", "tick")}
_TITLE = {"titleFontSize": 12, "titleColor": "var(--muted)", "titleFontWeight": "normal"}
_SYMBOL = {"symbolSize": 90, "symbolOpacity": 1, "symbolStrokeWidth": 2}

CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": _GRID | _TEXT | _TITLE | {"labelOverlap": True, "titlePadding": 6},
    "axisX": {"grid": False, "tickCount": 5},
    "axisY": {"domain": False, "ticks": False, "tickCount": 5},
    "legend": _TEXT | _SYMBOL | {"orient": "top", "title": None, "labelLimit": 262, "offset": 6},
    "range": {"category": [f"var(--s{i})" for i in range(1, 7)]},
    "text": {"color": "var(--ink)", "fontSize": 12},
}


def spec(figure: Figure) -> dict[str, Any]:
    """Return the Vega-Lite specification; its tables stand in ``datasets``, by the hash of their content."""
    kinds = {"curves": _curves, "bars": _bars, "dots": _dots, "ends": _ends}
    draw = (kinds | {"matrix": _matrix, "timeline": _timeline})[figure.kind]
    with warnings.catch_warnings():  # the timeline's two views share one zoom on purpose
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection")
        content: dict[str, Any] = draw(figure).to_dict(validate=False)
    return {key: value for key, value in content.items() if key not in ("config", "$schema")}


def _curves(figure: Figure) -> Any:
    """Lines over x with bands of one deviation; the point nearest to the pointer tells its numbers."""
    names = figure.series
    few = max(sum(row["series"] == name for row in figure.rows) for name in names) <= _DOTTED_UP_TO
    near = alt.selection_point(on="pointerover", nearest=True, fields=["series", "x"], empty=False)
    base, shown = _switched(figure.rows, names)
    # A number that is missing would be told as NaN.
    told = f"isValid(datum.sd) ? format(datum.sd, '{figure.y.unit.tip}') : '{DASH}'"
    base = base.transform_calculate(told_sd=told).encode(x=_x(figure.x))
    spread = base.transform_filter("isValid(datum.low)").encode(y=_y(figure, "low"), y2="high:Q")
    line = base.mark_line(strokeWidth=2, clip=True).encode(y=_y(figure))
    visible = alt.when(near).then(alt.value(1)).when("datum.alone").then(alt.value(1))
    marks = base.mark_point(filled=True, size=45, clip=True).encode(
        y=_y(figure), tooltip=_tooltip(figure), opacity=visible.otherwise(alt.value(int(few)))
    )
    if few:
        marks = marks.encode(shape=_by_series(alt.Shape, names))
    else:  # series differ in colour, and in dash or marker
        line = line.encode(strokeDash=_by_series(alt.StrokeDash, names))
    layers = [
        spread.mark_area(opacity=0.17, clip=True),
        spread.transform_filter("datum.alone").mark_rule(**_LINE),  # an area would have no width
        _zoomed(line.add_params(*shown)),
        marks.add_params(near),
    ]
    if figure.marks:
        marks = _chart([{"x": at} for at in figure.marks])
        marks = marks.mark_rule(color="var(--s2)", strokeDash=[6, 3], **_LINE)
        layers.insert(0, marks.encode(x=_x(figure.x)))
    if figure.rule is not None:
        rule = _chart([{"x": figure.rule}]).mark_rule(color="var(--s6)", **_LINE)
        layers.insert(0, rule.encode(x=_x(figure.x)))
    return _sized(alt.layer(*layers), names)


def _bars(figure: Figure) -> Any:
    """Stacked bars of each round."""
    base, shown = _switched(figure.rows, figure.series)
    chart = base.mark_bar().encode(
        x=alt.X("x:O").title(figure.x.title).axis(labelAngle=0),
        y=alt.Y("y:Q").title(figure.y.title),
        tooltip=_tooltip(figure),
    )
    return _sized(chart.add_params(*shown), figure.series)


def _dots(figure: Figure) -> Any:
    """A dot per row that has both numbers; a line at the mean, or where both are equal."""
    x, y = figure.x.column, figure.y.column
    known = _chart(figure.rows).transform_filter(f"isValid(datum.{x}) && isValid(datum.{y})")
    size = 60 if len(figure.rows) <= _CROWD else 18
    dots = known.mark_circle(color="var(--s1)", opacity=0.7, size=size, clip=True).encode(
        x=_x(figure.x), y=_y(figure), tooltip=_tooltip(figure)
    )
    layers: list[Any] = [_zoomed(dots)]
    if figure.line == "mean":
        mean = known.mark_rule(color="var(--s2)", strokeDash=[6, 3], **_LINE)
        layers.append(mean.encode(y=alt.Y(f"mean({y}):Q").title("")))
    elif figure.line == "equal":
        line = known.mark_line(color="var(--s2)", **_LINE)
        layers.append(line.encode(x=f"{x}:Q", y=f"{x}:Q"))
    return _sized(alt.layer(*layers))


def _ends(figure: Figure) -> Any:
    """Means beside each other with their deviations; the numbers that they are of as faint dots."""
    names = figure.series
    base, shown = _switched(figure.rows, names)
    order = list(dict.fromkeys(row["measure"] for row in figure.rows))
    base = base.encode(
        x=alt.X("measure:N").sort(order).title("").axis(labelAngle=0),
        xOffset=alt.XOffset("series:N").sort(names),
        y=_y(figure),
    )
    numbers = (("mean(y):Q", "mean"), ("stdev(y):Q", "sd"))
    tips = [alt.Tooltip(name, title=title, format=".1%") for name, title in numbers]
    shape = _by_series(alt.Shape, names)
    seeds = base.mark_point(filled=True, size=16, opacity=0.55)
    means = base.mark_point(filled=True, size=70, opacity=1)
    mean = alt.Y("mean(y):Q").title("").scale(zero=False).axis(format=figure.y.unit.axis)
    layers = [
        seeds.encode(shape=shape, tooltip=_tooltip(figure)),
        base.mark_errorbar(extent="stdev"),
        means.encode(y=mean, shape=shape, tooltip=["series:N", *tips]),
    ]
    return _sized(alt.layer(*layers).add_params(*shown), names)


def _matrix(figure: Figure) -> Any:
    """A table of numbers, coloured; as large as it must be."""
    columns, rows = (list(dict.fromkeys(r[c] for r in figure.rows)) for c in ("column", "row"))
    head = alt.Axis(orient="top", labelAngle=-40, labelLimit=90, labelPadding=4)
    base = _chart(figure.rows).encode(
        x=alt.X("column:N").sort(columns).title("").axis(head),
        y=alt.Y("row:N").sort(rows).title("").axis(labelLimit=170, labelPadding=5),
        tooltip=[alt.Tooltip(f"{name}:N") for name in ("row", "column", "text")],
    )
    roles = ["s1", "s2", "muted"]
    fill = alt.Color("role:N").scale(domain=roles, range=[f"var(--{r})" for r in roles])
    strength = alt.Opacity("strength:Q").scale(domain=[0, 1], range=[0.06, 0.55])
    cells = base.transform_filter("isValid(datum.strength)").mark_rect(cornerRadius=3)
    own = base.transform_filter("datum.own").mark_rect(filled=False, stroke="var(--muted)")
    cells = cells.encode(color=fill.legend(None), opacity=strength.legend(None))
    chart = alt.layer(cells, own, base.mark_text().encode(text="text:N"))
    return chart.properties(width=alt.Step(48), height=alt.Step(24))


def _timeline(figure: Figure) -> Any:
    """The training loss above, a lane per client and cell below, phases behind both."""
    more, lanes = figure.more, [row["lane"] for row in figure.more["lanes"]]
    room: dict[str, Any] = {"minExtent": 130, "maxExtent": 130, "labelLimit": 128}
    zoom = alt.selection_interval(bind="scales", encodings=["x"], zoom="wheel![event.ctrlKey]")
    phase = alt.Fill("phase:N").scale(
        domain=list(more["words"][0].values()), range=["var(--s5)", "var(--s3)"]
    )
    lane = alt.Y("lane:N").sort(lanes).title("").scale(domain=lanes, paddingInner=0.15).axis(**room)
    loss = alt.Y("y:Q").title("training loss").scale(zero=False).axis(**room)
    last = max(row["x"] for name in ("own", "loss", "rounds") for row in more[name])

    def x(column: str, title: str) -> alt.X:
        axis = alt.Axis(format="d", tickMinStep=1, tickCount=12, labels=bool(title), title=title)
        return alt.X(f"{column}:Q").scale(domain=[0.5, last + 0.6], nice=False).axis(axis)

    def ground(rows: Sequence[Row], title: str) -> Any:
        encoded = phase.legend(symbolOpacity=0.3, symbolStrokeWidth=0)
        rects = _chart(rows).mark_rect(opacity=0.15, clip=True)
        return rects.encode(x=x("start", title), x2="end:Q", fill=encoded)

    tip = [
        alt.Tooltip("x:Q", title="round"),
        alt.Tooltip("y:Q", title="training loss", format=".4~g"),
    ]
    own = _chart(more["own"]).mark_line(
        color="var(--muted)", opacity=0.35, strokeWidth=1, clip=True
    )
    mean = _chart(more["loss"]).mark_line(color="var(--s1)", point={"opacity": 0}, clip=True)
    above = alt.layer(
        ground(more["mean_phases"], ""),
        own.encode(x=x("x", ""), y=loss, detail="client:N", tooltip=["client:N", *tip]),
        mean.encode(x=x("x", ""), y=loss, tooltip=tip),
    )
    layers = [ground(more["phases"], "round").encode(y=lane)]
    if figure.rows:
        looks, shapes = list(figure.looks), [shape for _, shape in figure.looks.values()]
        colors = [f"var(--{role})" for role, _ in figure.looks.values()]
        marks = _chart(figure.rows).encode(
            x=x("x", "round"),
            y=lane,
            yOffset=alt.YOffset("dy:Q").scale(domain=[-1.2, 1.2]),
            color=alt.Color("series:N").scale(domain=looks, range=colors),
            shape=alt.Shape("series:N").scale(domain=looks, range=shapes),
            tooltip=alt.Tooltip("words:N"),
        )
        for filled, which in ((True, "!datum.tied"), (False, "datum.tied")):
            kind = marks.transform_filter(which).mark_point(filled=filled, size=60, clip=True)
            layers.append(kind)
    views = [
        above.properties(width=1000, height=110).add_params(zoom),
        alt.layer(*layers).properties(width=1000, height=22 * len(lanes)).add_params(zoom),
    ]
    return alt.vconcat(*views, spacing=8).resolve_scale(x="shared")


def _chart(rows: Sequence[Row]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(rows)))


def _switched(rows: Sequence[Row], names: Sequence[str]) -> tuple[alt.Chart, list[Any]]:
    """Return a chart coloured by series, and the legend that switches them where there are several."""
    chart = _chart(rows).encode(color=_by_series(alt.Color, names))
    if len(names) < 2:
        return chart, []
    # Without the filter a click on a mark would switch the last series again.
    click = "click[event.item && indexof(event.item.mark.role, 'legend') >= 0]"
    legend: Any = alt.LegendStreamBinding(click)
    every = [{"series": name} for name in names]
    shown = alt.selection_point(fields=["series"], bind=legend, toggle="true", value=every)
    return chart.transform_filter(shown), [shown]


def _by_series(channel: Any, names: Sequence[str]) -> Any:
    """Return ``channel`` by series: the same look whatever is switched off."""
    line: dict[str, Any] = {"symbolType": "stroke"} if channel is alt.StrokeDash else {}
    legend = alt.Legend(columns=_columns(names), **line) if len(names) > 1 else None
    return channel("series:N").scale(domain=list(names)).sort(list(names)).legend(legend)


def _columns(names: Sequence[str]) -> int:
    return 1 if max(map(len, names), default=0) > 18 else 2  # of longer names two are too wide


def _x(axis: Axis) -> alt.X:
    x = alt.X(axis.column, type="quantitative").title(axis.title)
    whole: dict[str, Any] = {}
    if axis.unit.axis == "d":  # neither halves nor a round 0
        whole = {
            "tickMinStep": 1,
            "labelExpr": "datum.value < 1 || datum.value % 1 ? '' : datum.label",
        }
    return x.scale(zero=False, nice=False, padding=12).axis(**_written(axis), **whole)


def _written(axis: Axis) -> dict[str, Any]:
    """Return the format of an axis's labels, if they need another than Vega's own."""
    return {"format": axis.unit.axis} if axis.unit.axis else {}


def _y(figure: Figure, column: str = "") -> alt.Y:
    axis, fixed = figure.y, figure.top is not None
    scale = alt.Scale(zero=True) if figure.zero else alt.Scale(zero=False, padding=4)
    y = alt.Y(column or axis.column, type="quantitative").axis(**_written(axis))
    return y.title(axis.title).scale(alt.Scale(domain=[0, figure.top]) if fixed else scale)


def _zoomed(chart: alt.Chart) -> alt.Chart:
    drag = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"
    zoom = alt.selection_interval(bind="scales", zoom="wheel![event.ctrlKey]", translate=drag)
    return chart.add_params(zoom)


def _sized(chart: Any, names: Sequence[str] = ()) -> Any:
    """Fit the chart to its place on the page, higher by the lines of its legend."""
    lines = -(-len(names) // _columns(names)) if len(names) > 1 else 0
    fit = alt.AutoSizeParams(type="fit", contains="padding")
    return chart.properties(width="container", height=HEIGHT + 17 * lines, autosize=fit)


def _tooltip(figure: Figure) -> list[alt.Tooltip]:
    """Return what is told of the mark under the pointer: names, then numbers."""
    known = {key for row in figure.rows for key in row}
    names = ("series", "client", "architecture", "measure", "seed")
    tips = [alt.Tooltip(name, type="nominal") for name in names if name in known]
    for axis in (figure.x, figure.y):
        if axis.column not in names:
            title, column = axis.title or "value", f"{axis.column}:Q"
            tips.append(alt.Tooltip(column, format=axis.unit.tip, title=title))
    return [*tips, alt.Tooltip("told_sd:N", title="sd")] if "sd" in known else tips
