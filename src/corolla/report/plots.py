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
_BARS_UP_TO = 60  # rounds; beyond, an area shows the same
_NAMED_UP_TO = 24  # clients that have room for a row of their own
_CROWD = 100  # dots; more are smaller

# Series differ in colour, dash and marker together, never in colour alone.
ROLES = ("s1", "s2", "s3", "s4", "s5", "s6")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [12, 4], [4, 2, 1, 2])
MARKERS = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross"),
    *("wedge", "arrow", "triangle-right", "triangle-left"),
)

CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{f"{part}Color": "var(--grid)" for part in ("domain", "grid", "tick")},
        **{f"{part}Color": "var(--muted)" for part in ("label", "title")},
        **{"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
        **{"labelOverlap": True, "titlePadding": 6},
    },
    "axisX": {"grid": False, "tickCount": 5},
    "axisY": {"domain": False, "ticks": False, "tickCount": 5},
    "axisBand": {"grid": False},
    "legend": {
        **{"orient": "top", "title": None, "labelColor": "var(--muted)", "labelFontSize": 12},
        **{
            "labelLimit": 262,
            "symbolSize": 90,
            "rowPadding": 1,
            "offset": 6,
            "symbolOpacity": 1,
            "symbolStrokeWidth": 2,
        },
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
}


def spec(figure: Figure) -> dict[str, Any]:
    """Return the Vega-Lite specification; its tables stand in ``datasets``, by the hash of their content."""
    draw = {
        "curves": _curves,
        "bars": _bars,
        "dots": _dots,
        "ranks": _ranks,
        "budgets": _budgets,
        "ends": _ends,
        "matrix": _matrix,
        "timeline": _timeline,
    }[figure.kind]
    with warnings.catch_warnings():  # the timeline's two views share one zoom on purpose
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection")
        content: dict[str, Any] = draw(figure).to_dict()
    for key in ("config", "$schema"):
        content.pop(key, None)
    return content


def _curves(figure: Figure) -> Any:
    """Lines over x with bands of one deviation; the point nearest to the pointer tells its numbers."""
    names = figure.series
    few = max(sum(row["series"] == name for row in figure.rows) for name in names) <= _DOTTED_UP_TO
    shown = _switch(names)
    near = alt.selection_point(on="pointerover", nearest=True, fields=["series", "x"], empty=False)
    base = _told(_chart(figure.rows).encode(x=_x(figure.x), color=_color(names)), figure)
    base = base.transform_filter(shown) if shown else base
    spread = base.transform_filter("isValid(datum.low)").encode(y=_y(figure, "low"), y2="high:Q")
    line = base.mark_line(strokeWidth=2, clip=True).encode(y=_y(figure))
    visible = alt.when(near).then(alt.value(1)).when("datum.alone").then(alt.value(1))
    marks = base.mark_point(filled=True, size=45, clip=True).encode(
        y=_y(figure), tooltip=_tooltip(figure), opacity=visible.otherwise(alt.value(int(few)))
    )
    if few:
        marks = marks.encode(shape=_shape(names))
    else:
        line = line.encode(strokeDash=_dash(names))
    line = line.add_params(shown) if shown else line
    layers = [spread.mark_area(opacity=0.17, clip=True), _zoomed(line), marks.add_params(near)]
    if any("alone" in row and "low" in row for row in figure.rows):  # an area would have no width
        layers.insert(1, spread.transform_filter("datum.alone").mark_rule(size=2, clip=True))
    if figure.rule is not None:
        rule = _chart([{"x": figure.rule}]).mark_rule(color="var(--s6)", size=1.5, clip=True)
        layers.insert(0, rule.encode(x=_x(figure.x)))
    return _sized(alt.layer(*layers), names)


def _bars(figure: Figure) -> Any:
    """Stacked bars of each round; of very many rounds an area."""
    names = figure.series
    shown = _switch(names)
    many = len({row["x"] for row in figure.rows}) > _BARS_UP_TO
    base = _chart(figure.rows)
    base = base.transform_filter(shown) if shown else base
    x = alt.X("x", type="quantitative" if many else "ordinal").title(figure.x.title)
    chart = (base.mark_area() if many else base.mark_bar()).encode(
        x=x.axis(labelAngle=0, labelOverlap=True),
        y=alt.Y("y:Q").title(figure.y.title),
        color=_color(names),
        tooltip=_tooltip(figure),
    )
    return _sized(chart.add_params(shown) if shown else chart, names)


def _dots(figure: Figure) -> Any:
    """A dot per row that has both numbers."""
    marks = _known(figure).mark_circle(color="var(--s1)", opacity=0.65, clip=True)
    chart = marks.encode(x=_x(figure.x), y=_y(figure), tooltip=_tooltip(figure))
    return _sized(_zoomed(chart.encode(size=alt.value(_dot_size(figure)))))


def _ranks(figure: Figure) -> Any:
    """A dot per client in the order of its number, and their mean."""
    base = _known(figure)
    y = _y(figure)
    dots = base.mark_circle(color="var(--s1)", clip=True, size=_dot_size(figure)).encode(
        x=_x(figure.x), y=y, tooltip=_tooltip(figure)
    )
    mean = base.mark_rule(color="var(--s2)", strokeDash=[6, 3], size=1.5).encode(
        y=alt.Y(f"mean({figure.y.column}):Q").title("")
    )
    return _sized(alt.layer(mean, _zoomed(dots)))


def _budgets(figure: Figure) -> Any:
    """A bar per client up to what it takes, and a mark at its budget; of many clients a dot each."""
    columns = {figure.x.column, figure.y.column}
    rows = [row for row in figure.rows if columns <= row.keys()]
    tip = _tooltip(figure)
    if len(rows) <= _NAMED_UP_TO:
        order = [row["client"] for row in sorted(rows, key=lambda row: -row[figure.x.column])]
        base = _chart(rows).encode(
            y=alt.Y("client:N").sort(order).title("").axis(labelLimit=110), tooltip=tip
        )
        used = base.mark_bar(color="var(--s1)", opacity=0.75, height=6)
        budget = base.mark_tick(color="var(--s2)", thickness=3)
        grid = alt.Axis(grid=True)
        layers = [
            used.encode(x=alt.X(f"{figure.y.column}:Q").title("MiB").axis(grid)),
            budget.encode(x=f"{figure.x.column}:Q"),
        ]
        return _sized(alt.layer(*layers), height=max(HEIGHT, 20 * len(rows)))
    top = max(row[column] for row in rows for column in columns)
    line = _chart([{"at": 0}, {"at": top}]).mark_line(color="var(--s2)", strokeWidth=1.5, clip=True)
    dots = _known(figure).mark_circle(color="var(--s1)", opacity=0.65, clip=True)
    dots = dots.encode(x=_x(figure.x), y=_y(figure), tooltip=tip)
    dots = dots.encode(size=alt.value(_dot_size(figure)))
    return _sized(alt.layer(line.encode(x="at:Q", y="at:Q"), _zoomed(dots)))


def _ends(figure: Figure) -> Any:
    """Means beside each other with their deviations; the numbers that they are of as faint dots."""
    names = figure.series
    shown = _switch(names)
    order = list(dict.fromkeys(row["measure"] for row in figure.rows))

    def base(rows: Sequence[Row]) -> alt.Chart:
        chart = _chart(rows).encode(
            x=alt.X("measure:N").sort(order).title("").axis(labelAngle=0),
            xOffset=alt.XOffset("series:N").sort(names),
            color=_color(names),
            shape=_shape(names),
        )
        return _told(chart.transform_filter(shown) if shown else chart, figure)

    y, tip = _y(figure), _tooltip(figure, "seed")
    seeds = base(figure.more["seeds"]).mark_point(filled=True, size=16, opacity=0.55)
    bars = base(figure.rows).transform_filter("isValid(datum.low)").mark_rule(size=1.5)
    means = base(figure.rows).mark_point(filled=True, size=70, opacity=1)
    layers = [
        seeds.encode(y=y, tooltip=tip),
        bars.encode(y=_y(figure, "low"), y2="high:Q"),
        means.encode(y=y, tooltip=_tooltip(figure)),
    ]
    chart = alt.layer(*layers)
    return _sized(chart.add_params(shown) if shown else chart, names)


def _matrix(figure: Figure) -> Any:
    """A table of numbers, coloured; as large as it must be."""
    columns, rows = (list(dict.fromkeys(r[c] for r in figure.rows)) for c in ("column", "row"))
    head = alt.Axis(orient="top", labelAngle=-40, labelLimit=90, labelPadding=4)
    tips = [
        alt.Tooltip(name, type="nominal", title=title)
        for name, title in (("client", "clients"), ("row", ""), ("column", ""), ("text", "value"))
        if any(name in row for row in figure.rows)
    ]
    base = _chart(figure.rows).encode(
        x=alt.X("column:N").sort(columns).title("").axis(head),
        y=alt.Y("row:N").sort(rows).title("").axis(labelLimit=170, labelPadding=5),
        tooltip=tips,
    )
    roles = ["s1", "s2", "muted"]
    fill = alt.Color("role:N").scale(domain=roles, range=[f"var(--{r})" for r in roles])
    strength = alt.Opacity("strength:Q").scale(domain=[0, 1], range=[0.06, 0.55])
    cells = base.transform_filter("isValid(datum.strength)").mark_rect(cornerRadius=3)
    own = base.transform_filter("datum.own").mark_rect(filled=False, stroke="var(--muted)")
    layers = [
        cells.encode(color=fill.legend(None), opacity=strength.legend(None)),
        own,
        base.mark_text().encode(text="text:N"),
    ]
    return alt.layer(*layers).properties(width=alt.Step(48), height=alt.Step(24))


def _timeline(figure: Figure) -> Any:
    """The training loss above, a lane per client and cell below, phases behind both."""
    lanes = [row["lane"] for row in figure.more["lanes"]]
    zoom = alt.selection_interval(bind="scales", encodings=["x"], zoom="wheel![event.ctrlKey]")
    ends = [
        row[key]
        for name in ("phases", "mean_phases")
        for row in figure.more[name]
        for key in ("start", "end")
    ]
    ends += [row["x"] for row in (*figure.more["loss"], *figure.more["own"], *figure.rows)]
    domain = [0.5, max([0.5, *ends]) + 0.1]

    def x(column: str, title: str) -> alt.X:
        axis = alt.Axis(format="d", tickMinStep=1, tickCount=12, labels=bool(title), title=title)
        return alt.X(f"{column}:Q").scale(domain=domain, nice=False).axis(axis)

    names = ["phase 2: search", "phase 3: training of what was found"]
    phase = alt.Fill("phase:N").scale(domain=names, range=["var(--s5)", "var(--s3)"])
    phase = phase.legend(symbolOpacity=0.3, symbolStrokeWidth=0)
    lane = alt.Y("lane:N").sort(lanes).title("").scale(domain=lanes, paddingInner=0.15)
    lane = lane.axis(labelLimit=150, minExtent=130, maxExtent=130)

    def ground(rows: Sequence[Row], start: alt.X) -> Any:
        rect = _chart(rows).mark_rect(opacity=0.15, clip=True)
        return rect.encode(x=start, x2="end:Q", fill=phase)

    loss = alt.Y("y:Q").title("training loss").scale(zero=False)
    loss = loss.axis(minExtent=130, maxExtent=130)
    tip = [
        alt.Tooltip("x:Q", title="round"),
        alt.Tooltip("y:Q", title="training loss", format=".4~g"),
    ]
    own = _chart(figure.more["own"]).mark_line(
        color="var(--muted)", opacity=0.35, strokeWidth=1, clip=True
    )
    mean = _chart(figure.more["loss"]).mark_line(color="var(--s1)", point={"opacity": 0}, clip=True)
    above = alt.layer(
        ground(figure.more["mean_phases"], x("start", "")),
        own.encode(x=x("x", ""), y=loss, detail="client:N", tooltip=["client:N", *tip]),
        mean.encode(x=x("x", ""), y=loss, tooltip=tip),
    ).properties(width=1000, height=110)
    marks = _chart(figure.rows).mark_point(filled=True, size=60, strokeWidth=1.6, clip=True)
    looks = list(figure.looks)
    colors = [f"var(--{role})" for role, _ in figure.looks.values()]
    layers = [ground(figure.more["phases"], x("start", "round")).encode(y=lane)]
    if figure.rows:
        layers.append(
            marks.encode(
                x=x("x", "round"),
                y=lane,
                yOffset=alt.YOffset("dy:Q").scale(domain=[-1.2, 1.2]),
                color=_scaled_to(alt.Color, looks, colors),
                shape=_scaled_to(alt.Shape, looks, [shape for _, shape in figure.looks.values()]),
                fillOpacity=alt.when("datum.tied").then(alt.value(0)).otherwise(alt.value(1)),
                tooltip=alt.Tooltip("words:N"),
            )
        )
    below = alt.layer(*layers).properties(width=1000, height=22 * len(lanes))
    joined = alt.vconcat(above.add_params(zoom), below.add_params(zoom), spacing=8)
    return joined.resolve_scale(x="shared")


def _chart(rows: Sequence[Row]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(rows)))


def _known(figure: Figure) -> alt.Chart:
    columns = (figure.x.column, figure.y.column)
    return _chart(figure.rows).transform_filter(
        " && ".join(f"isValid(datum.{column})" for column in columns)
    )


def _x(axis: Axis) -> alt.X:
    x = alt.X(axis.column, type="quantitative").title(axis.title)
    x = x.scale(zero=False, nice=False, padding=12)
    if axis.column == "rank" or axis.title == "round":
        return x.axis(format="d", tickMinStep=1)
    return x.axis(format=axis.unit.axis) if axis.unit.axis else x


def _y(figure: Figure, column: str = "") -> alt.Y:
    axis, top = figure.y, figure.top
    scale = alt.Scale(zero=True) if figure.zero else alt.Scale(zero=False, padding=4)
    scale = scale if top is None else alt.Scale(domain=[0, top])
    y = alt.Y(column or axis.column, type="quantitative").scale(scale)
    y = y.title("" if axis.column == "test_accuracy" else axis.title)
    return y.axis(format=axis.unit.axis) if axis.unit.axis else y


def _scaled_to(channel: Any, names: Sequence[str], looks: Sequence[Any]) -> Any:
    """Return ``channel`` by series: the same look whatever is switched off."""
    legend = alt.Legend(columns=_legend_columns(names)) if len(names) > 1 else None
    scaled = channel("series:N").scale(domain=list(names), range=list(looks))
    return scaled.sort(list(names)).legend(legend)


def _legend_columns(names: Sequence[str]) -> int:
    return 1 if max(map(len, names), default=0) > 18 else 2  # of longer names two are too wide


def _color(names: Sequence[str]) -> Any:
    looks = [f"var(--{ROLES[i % len(ROLES)]})" for i in range(len(names))]
    return _scaled_to(alt.Color, names, looks)


def _dash(names: Sequence[str]) -> Any:
    looks = [DASHES[i % len(DASHES)] for i in range(len(names))]
    return _scaled_to(alt.StrokeDash, names, looks)


def _shape(names: Sequence[str]) -> Any:
    """Return markers that are others where the colours return."""
    looks = [MARKERS[(i + i // len(ROLES)) % len(MARKERS)] for i in range(len(names))]
    return _scaled_to(alt.Shape, names, looks)


def _switch(names: Sequence[str]) -> alt.Parameter | None:
    """Return a legend whose entries switch their series; None where there is but one."""
    if len(names) < 2:
        return None
    every = [{"series": name} for name in names]
    # Without the filter a click on a mark would switch the last series again.
    click = "click[event.item && indexof(event.item.mark.role, 'legend') >= 0]"
    legend: Any = alt.LegendStreamBinding(click)
    return alt.selection_point(fields=["series"], bind=legend, toggle="true", value=every)


def _zoomed(chart: alt.Chart) -> alt.Chart:
    drag = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"
    zoom = alt.selection_interval(bind="scales", zoom="wheel![event.ctrlKey]", translate=drag)
    return chart.add_params(zoom)


def _sized(chart: Any, names: Sequence[str] = (), height: int = HEIGHT) -> Any:
    """Fit the chart to its place on the page, higher by the lines of its legend."""
    lines = -(-len(names) // _legend_columns(names)) if len(names) > 1 else 0
    fit = alt.AutoSizeParams(type="fit", contains="padding")
    return chart.properties(width="container", height=height + 17 * lines, autosize=fit)


def _tooltip(figure: Figure, *more: str) -> list[alt.Tooltip]:
    """Return what is told of the mark under the pointer: names, then numbers."""
    rows = [*figure.rows, *(row for rows in figure.more.values() for row in rows)]
    known = {key for row in rows for key in row}
    names = [n for n in ("series", "client", "architecture", "measure", *more) if n in known]
    tips = [alt.Tooltip(name, type="nominal") for name in names]
    for axis in (figure.x, figure.y):
        if axis.column in known and axis.column not in names:
            title = axis.title or "value"
            tip = alt.Tooltip(axis.column, type="quantitative", format=axis.unit.tip, title=title)
            tips.append(tip)
    if "sd" in known and "seed" not in more:
        tips.append(alt.Tooltip("told_sd", type="nominal", title="sd"))
    return tips


def _told(chart: alt.Chart, figure: Figure) -> alt.Chart:
    """Add the deviation in words; a number that is missing would be told as NaN."""
    words = f"isValid(datum.sd) ? format(datum.sd, '{figure.y.unit.tip}') : '{DASH}'"
    return chart.transform_calculate(told_sd=words)


def _dot_size(figure: Figure) -> int:
    return 60 if len(figure.rows) <= _CROWD else 18
