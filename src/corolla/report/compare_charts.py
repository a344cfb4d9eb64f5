"""Charts of several runs in one: a curve per group with the spread over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from corolla.report.curves import band, few_ticks, rounds_axis
from corolla.report.drawing import (
    BYTES,
    Chart,
    LegendEntry,
    Stroke,
    draw,
    percent_axis,
    stroke,
    unit_ticks,
)
from corolla.report.load import Run, Spread, number
from corolla.report.results import MEASURES, Group, mean_and_sd
from corolla.report.run_charts import total_bytes
from corolla.report.wording import percent, plural, short, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS_UP_TO = 8  # curves that can still be told apart
_TAGS = {"last": "last round", "worst": "worst decile", "fine_tuned": "fine-tuned"}


def compare_charts(groups: Sequence[Group]) -> list[Chart]:
    """Return the charts over groups, without those that have no data."""
    shown = groups[:GROUPS_UP_TO]
    charts = [
        accuracy_curves(shown, "test_accuracy", "compare-accuracy"),
        over_bytes(shown, "compare-bytes"),
        ends(shown, "compare-ends"),
        all_clients(shown, "compare-clients"),
        method_curve(shown, "policy_entropy", "Policy entropy", "compare-entropy"),
        method_curve(shown, "train_loss", "Training loss", "compare-loss"),
    ]
    return [chart for chart in charts if chart is not None]


def accuracy_curves(groups: Sequence[Group], metric: str, uid: str) -> Chart | None:
    """Accuracy over rounds: all clients' mean, or the participants' where nothing was evaluated."""
    curves = _accuracies(groups, metric)
    note = "all clients before fine-tuning, ± sd over seeds"
    return _curves(groups, curves, uid, "Test accuracy", note, is_fraction=True)


def method_curve(groups: Sequence[Group], key: str, title: str, uid: str) -> Chart | None:
    """Any other key of metrics.jsonl over rounds."""
    curves = [_over_seeds([dict(run.curve(key)) for run in group.runs]) for group in groups]
    return _curves(groups, curves, uid, title, "mean ± sd over seeds", is_fraction=False)


def over_bytes(groups: Sequence[Group], uid: str) -> Chart | None:
    """Accuracy against the bytes sent so far, both as means over seeds."""
    curves = _accuracies(groups, "test_accuracy")
    lines: list[tuple[int, list[float], list[float]]] = []
    for index, group in enumerate(groups):
        reached = curves[index]
        spent = _over_seeds([total_bytes(run) for run in group.runs])
        rounds = [r for r in reached if r in spent]
        if len(rounds) > 1:
            xs, ys = [spent[r].mean for r in rounds], [reached[r].mean for r in rounds]
            lines.append((index, xs, ys))
    if not lines:
        return None

    def paint(axes: Axes) -> None:
        for index, xs, ys in lines:
            axes.plot(xs, ys, **stroke(index).line)
            axes.plot(xs[-1:], ys[-1:], **stroke(index).dots)
        few_ticks(axes)
        unit_ticks(axes.xaxis, BYTES)
        axes.yaxis.set_major_formatter(percent_axis())
        axes.set_xlabel("sent down and up so far")

    parts = [f"{groups[i].label}: {percent(ys[-1])} % after {size(xs[-1])}." for i, xs, ys in lines]
    text = "Test accuracy against bytes sent so far. " + " ".join(parts)
    legend = [LegendEntry(short(groups[i].label, 48), stroke(i), "line+dot") for i, _, _ in lines]
    svg = draw(uid, paint, description=text)
    return Chart(
        "Accuracy for traffic",
        "test accuracy before fine-tuning, mean over seeds",
        text,
        svg,
        legend,
    )


def ends(groups: Sequence[Group], uid: str) -> Chart | None:
    """Where the groups ended: last round, worst decile, fine-tuned; a small dot per seed."""
    measures = [measure for measure in MEASURES if measure.key in _TAGS]
    values = {
        (g, m.key): [v for v in map(m.get, group.runs) if v is not None]
        for g, group in enumerate(groups)
        for m in measures
    }
    measures = [m for m in measures if any(values[g, m.key] for g in range(len(groups)))]
    if not measures:
        return None
    spacing = min(0.22, 0.8 / len(groups))

    def paint(axes: Axes) -> None:
        for place, measure in enumerate(measures):
            for g in range(len(groups)):
                x = place + (g - (len(groups) - 1) / 2) * spacing
                seeds = values[g, measure.key]
                if not seeds:
                    continue
                mean, deviation = mean_and_sd(seeds)
                look = stroke(g)
                small = {"markersize": 3, "alpha": 0.55, "markeredgewidth": 0}
                axes.plot([x] * len(seeds), seeds, **(look.dots | small))
                color = look.dots["color"]
                axes.errorbar([x], [mean], yerr=[deviation or 0], color=color, capsize=3)
                axes.plot([x], [mean], **look.dots)
        axes.set_xticks(range(len(measures)), [_TAGS[m.key] for m in measures])
        axes.set_xlim(-0.6, len(measures) - 0.4)
        axes.yaxis.set_major_formatter(percent_axis())

    parts = [
        f"{group.label}: "
        + ", ".join(
            f"{_TAGS[m.key]} {percent(float(np.mean(values[g, m.key])))} %"
            for m in measures
            if values[g, m.key]
        )
        for g, group in enumerate(groups)
    ]
    text = "Test accuracy at the end. " + "; ".join(parts) + "."
    svg = draw(uid, paint, description=text)
    return Chart("Where they ended", "test accuracy, ± sd over seeds", text, svg, _dots(groups))


def all_clients(groups: Sequence[Group], uid: str) -> Chart | None:
    """Clients of all seeds of a group from lowest to highest accuracy."""
    pooled: list[tuple[int, list[float]]] = []
    for index, group in enumerate(groups):
        found = [
            number(record.get("test_accuracy"))
            for run in group.runs
            for record in run.per_client.values()
        ]
        values = sorted(value for value in found if value is not None)
        if len(values) > 1:
            pooled.append((index, values))
    if not pooled:
        return None

    def paint(axes: Axes) -> None:
        for index, values in pooled:
            shares = np.linspace(0, 1, len(values))
            points = np.linspace(0, 1, min(200, len(values)))
            axes.plot(points, np.interp(points, shares, values), **stroke(index).line)
        few_ticks(axes, across=5)
        axes.xaxis.set_major_formatter(percent_axis())
        axes.yaxis.set_major_formatter(percent_axis())
        axes.set_xlabel("clients below this accuracy")

    parts = [
        f"{groups[i].label}: median {percent(float(np.median(values)))} % of "
        f"{plural(len(values), 'client')}."
        for i, values in pooled
    ]
    text = "Test accuracy of clients from lowest to highest. " + " ".join(parts)
    legend = [LegendEntry(short(groups[i].label, 48), stroke(i)) for i, _ in pooled]
    svg = draw(uid, paint, description=text)
    return Chart("Every client", "test accuracy, seeds pooled", text, svg, legend)


def _curves(
    groups: Sequence[Group],
    curves: Sequence[dict[int, Spread]],
    uid: str,
    title: str,
    note: str,
    *,
    is_fraction: bool,
) -> Chart | None:
    drawn = [(index, sorted(curve.items())) for index, curve in enumerate(curves) if curve]
    if not drawn:
        return None

    def paint(axes: Axes) -> None:
        for index, spreads in drawn:
            band(axes, spreads, index, clip=(0.0, 1.0) if is_fraction else None)
        rounds_axis(axes)
        if is_fraction:
            axes.yaxis.set_major_formatter(percent_axis())

    said: Callable[[float], str] = (
        (lambda value: f"{percent(value)} %") if is_fraction else (lambda value: f"{value:.3g}")
    )
    parts = [f"{groups[i].label}: {said(s[-1][1].mean)} in round {s[-1][0]}." for i, s in drawn]
    text = f"{title} by round, {note}. " + " ".join(parts)
    legend = [LegendEntry(short(groups[i].label, 48), stroke(i), "band") for i, _ in drawn]
    return Chart(title, note, text, draw(uid, paint, description=text), legend)


def _over_seeds(curves: Sequence[dict[int, float]]) -> dict[int, Spread]:
    """Return mean and sd per round, over the rounds that every seed with data has.

    Runs that stop early would otherwise let the mean jump where they leave it.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return {}
    rounds = sorted(set.intersection(*(set(curve) for curve in curves)))
    spreads: dict[int, Spread] = {}
    for r in rounds:
        mean, deviation = mean_and_sd([curve[r] for curve in curves])
        spreads[r] = Spread(mean, deviation)
    return spreads


def _accuracies(groups: Sequence[Group], metric: str) -> list[dict[int, Spread]]:
    """Return a curve per group: of all clients, or of participants if no run evaluated all.

    The two are never shown together: participants are measured right after local training.
    """
    evaluated = any(run.deployed_curve(metric) for group in groups for run in group.runs)

    def curve(run: Run) -> dict[int, float]:
        if evaluated:
            return {r: s.mean for r, s in run.deployed_curve(metric)}
        return dict(run.curve(metric))

    return [_over_seeds([curve(run) for run in group.runs]) for group in groups]


def _dots(groups: Sequence[Group]) -> list[LegendEntry]:
    looks: list[Stroke] = [stroke(index) for index in range(len(groups))]
    return [
        LegendEntry(short(group.label, 48), look, "dot")
        for group, look in zip(groups, looks, strict=True)
    ]
