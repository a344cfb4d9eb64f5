"""Charts over clients: accuracy, accuracy against cost, memory against budget, likeness of policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from corolla.report.curves import few_ticks
from corolla.report.drawing import (
    COUNTS,
    HEIGHT,
    MEBIBYTES,
    MILLISECONDS,
    ROLE,
    WIDTH,
    Chart,
    LegendEntry,
    Units,
    draw,
    percent_axis,
    stroke,
    unit_ticks,
)
from corolla.report.load import Run, number
from corolla.report.policy_similarity import policy_similarity
from corolla.report.wording import count, duration, mebibytes, percent, plural, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CROWD: dict[str, Any] = {
    "markersize": 3,
    "markeredgewidth": 0,
}  # rings would blot out their neighbours
_TIPS_UP_TO = 300  # clients; tooltips of more would weigh more than the drawing
_NAMED_UP_TO = 24  # clients that still have room for a row of their own


def client_charts(run: Run, uid: str) -> list[Chart]:
    """Return the charts over clients, without those that have no data."""
    charts = [
        sorted_accuracy(run, f"{uid}-sorted"),
        against_cost(run, f"{uid}-params", "params", "parameters", count, COUNTS),
        against_cost(run, f"{uid}-macs", "macs", "multiply-accumulates", count, COUNTS),
        against_cost(run, f"{uid}-latency", "latency_ms", "latency", _milliseconds, MILLISECONDS),
        memory(run, f"{uid}-memory"),
        policy_similarity(run, f"{uid}-policies"),
    ]
    return [chart for chart in charts if chart is not None]


def sorted_accuracy(run: Run, uid: str, top: float | None = None) -> Chart | None:
    """Every client's test accuracy, lowest first; ``top`` fixes the axis to 0 until there."""
    pairs = sorted(_pairs(run, "test_accuracy"), key=lambda pair: pair[1])
    if len(pairs) < 2:
        return None
    values = [value for _, value in pairs]
    mean = float(np.mean(values))
    ranks = list(range(1, len(values) + 1))

    def paint(axes: Axes) -> None:
        axes.axhline(mean, linewidth=1.3, **stroke(1).line)
        if len(values) <= _NAMED_UP_TO:
            axes.vlines(ranks, 0, values, color=ROLE["s1"], linewidth=1.2, alpha=0.4)
            axes.set_ylim(bottom=0)
        if top is not None:
            axes.set_ylim(0, top)
        dots = stroke(0).dots | ({} if len(values) <= 100 else _CROWD)
        axes.plot(ranks, values, gid="tips", **dots)
        axes.set_xlabel("clients, from lowest to highest")
        few_ticks(axes)
        _whole_ticks(axes)
        axes.yaxis.set_major_formatter(percent_axis())

    text = (
        f"Test accuracy of {plural(len(values), 'client')}: lowest {percent(values[0])} %, "
        f"mean {percent(mean)} %, highest {percent(values[-1])} %."
    )
    tips = _tips([(client, f"{percent(value)} %") for client, value in pairs])
    svg = draw(uid, paint, description=text, tips={"tips": tips})
    legend = [
        LegendEntry("a client", stroke(0), "dot"),
        LegendEntry(f"mean {percent(mean)} %", stroke(1)),
    ]
    return Chart("Accuracy of every client", "test accuracy", text, svg, legend)


def against_cost(
    run: Run, uid: str, key: str, label: str, said: Callable[[float | None], str], units: Units
) -> Chart | None:
    """Test accuracy against one cost, a dot per client; None when all clients cost the same."""
    costs, accuracies = dict(_pairs(run, key)), dict(_pairs(run, "test_accuracy"))
    clients = [client for client in costs if client in accuracies]
    if len({costs[client] for client in clients}) < 2:
        return None
    xs = [costs[client] for client in clients]
    ys = [accuracies[client] for client in clients]

    def paint(axes: Axes) -> None:
        dots = stroke(0).dots | ({} if len(xs) <= 100 else _CROWD | {"alpha": 0.55})
        axes.plot(xs, ys, gid="tips", **dots)
        few_ticks(axes)
        unit_ticks(axes.xaxis, units)
        axes.yaxis.set_major_formatter(percent_axis())
        axes.set_xlabel(label)

    text = (
        f"Test accuracy against {label}, {plural(len(xs), 'client')}: "
        f"{said(min(xs))} to {said(max(xs))}, {percent(min(ys))} to {percent(max(ys))} %."
    )
    rows = zip(clients, xs, ys, strict=True)
    tips = _tips([(client, f"{said(x)}, {percent(y)} %") for client, x, y in rows])
    svg = draw(uid, paint, description=text, tips={"tips": tips})
    return Chart(f"Accuracy against {label}", "test accuracy, a dot per client", text, svg)


def memory(run: Run, uid: str) -> Chart | None:
    """Memory that training takes against the client's budget."""
    budgets, uses = dict(_pairs(run, "memory_budget_mib")), _uses(run)
    clients = sorted((c for c in budgets if c in uses), key=lambda client: budgets[client])
    if not clients:
        return None
    use, budget = [uses[c] for c in clients], [budgets[c] for c in clients]
    fitting = sum(u <= b for u, b in zip(use, budget, strict=True))
    verdict = (
        "every client fits its budget"
        if fitting == len(clients)
        else f"{fitting:,} of {plural(len(clients), 'client')} fit their budget"
    )
    text = f"Memory for training against budget, {plural(len(clients), 'client')}: {verdict}."
    told = [
        f"{mebibytes(u)} of {mebibytes(b)}" + ("" if u <= b else ", does not fit")
        for u, b in zip(use, budget, strict=True)
    ]
    tips = _tips(list(zip(clients, told, strict=True)))
    named = len(clients) <= _NAMED_UP_TO
    height = max(HEIGHT, 0.7 + 0.21 * len(clients)) if named else HEIGHT

    def rows(axes: Axes) -> None:
        places = range(len(clients))
        axes.hlines(places, 0, use, color=ROLE["s1"], linewidth=5, alpha=0.35)
        axes.plot(use, places, gid="tips", **stroke(0).dots)
        look: dict[str, Any] = {"color": ROLE["s2"], "linestyle": "none", "marker": "|"}
        axes.plot(budget, places, markersize=13, markeredgewidth=2.4, **look)
        axes.set_yticks(list(places), [short(client, 12) for client in clients])
        axes.set_xlim(left=0)
        axes.set_ylim(-0.7, len(clients) - 0.3)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        unit_ticks(axes.xaxis, MEBIBYTES)

    def cloud(axes: Axes) -> None:
        top = max(max(use), max(budget))
        axes.plot([0, top], [0, top], linewidth=1.3, **stroke(1).line)
        axes.plot(budget, use, gid="tips", **(stroke(0).dots | _CROWD | {"alpha": 0.55}))
        axes.set_xlabel("budget")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        unit_ticks(axes.xaxis, MEBIBYTES)
        unit_ticks(axes.yaxis, MEBIBYTES)

    svg = draw(
        uid,
        rows if named else cloud,
        description=text,
        width=WIDTH,
        height=height,
        tips={"tips": tips},
    )
    legend = [
        LegendEntry("takes in training", stroke(0), "dot"),
        LegendEntry("budget", stroke(1), "rule" if named else "line"),
    ]
    return Chart("Memory against budget", verdict, text, svg, legend)


def _uses(run: Run) -> dict[str, float]:
    """Return MiB that training takes per client: estimated for its architecture, else measured."""
    return dict(_pairs(run, "peak_memory_mib")) | dict(_pairs(run, "training_memory_mib"))


def _pairs(run: Run, key: str) -> list[tuple[str, float]]:
    values = [(client, number(record.get(key))) for client, record in run.per_client.items()]
    return [(client, value) for client, value in values if value is not None]


def _tips(named: Sequence[tuple[str, str]]) -> list[str]:
    if len(named) > _TIPS_UP_TO:
        return []
    return [f"client {client}: {text}" for client, text in named]


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _milliseconds(value: float | None) -> str:
    return duration(None if value is None else value / 1e3)
