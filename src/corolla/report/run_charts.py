"""Charts of one run over its rounds; each is left out (None) where the run did not record it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from corolla.report.curves import Curve, band, dotted, few_ticks, plot, rounds_axis
from corolla.report.drawing import (
    BYTES,
    COUNTS,
    ROLE,
    SECONDS,
    Chart,
    LegendEntry,
    Units,
    draw,
    percent_axis,
    stroke,
    unit_ticks,
)
from corolla.report.load import Run, Spread, number
from corolla.report.wording import count, duration, percent, plain, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS_UP_TO = 60  # rounds; beyond, an area shows the same with less ink


def round_charts(run: Run, uid: str) -> list[Chart]:
    """Return the charts over rounds, in reading order, without those that have no data."""
    makers: Sequence[Callable[[Run, str], Chart | None]] = (
        accuracy,
        local_gain,
        loss,
        reward,
        entropy,
        sizes,
        accuracy_over_bytes,
        traffic,
        round_time,
    )
    charts = [make(run, f"{uid}-{make.__name__}") for make in makers]
    return [chart for chart in charts if chart is not None]


def accuracy(run: Run, uid: str, top: float | None = None) -> Chart | None:
    """Test accuracy over rounds: all clients with their spread, participants, global model.

    ``top`` makes the axis go from 0 to it, so that charts of several runs can be compared.
    """
    personal = run.deployed_curve("test_accuracy")
    shared = [(r, s.mean) for r, s in run.evaluation_curve("global", "test_accuracy")]
    model = "all clients"
    if run.one_model or not run.evaluation_curve("personalised", "test_accuracy"):
        model, shared = "global model, all clients" if shared else model, []
    participants = run.curve("test_accuracy")
    if not (personal or shared or participants):
        return None
    best = number(_at(run.summary or {}, "best", "round"))
    worst = [(r, s.worst_decile) for r, s in personal if s.worst_decile is not None]
    legend: list[LegendEntry] = []
    if personal:
        legend.append(LegendEntry(f"{model}, mean ± sd over clients", stroke(0), "band"))
    if worst:
        legend.append(LegendEntry("worst decile of clients", stroke(3)))
    if participants:
        legend.append(LegendEntry("participants of the round", stroke(1)))
    if shared:
        legend.append(LegendEntry("global model, all clients", stroke(2)))
    if best is not None:
        legend.append(LegendEntry(f"chosen on validation: round {best:.0f}", stroke(5), "rule"))

    def paint(axes: Axes) -> None:
        if best is not None:
            axes.axvline(best, linewidth=1.4, color=ROLE[stroke(5).role])
        if participants:
            plot(axes, participants, stroke(1).line, linewidth=1.2)
        if shared:
            plot(axes, shared, stroke(2).line)
        if worst:
            plot(axes, worst, stroke(3).line)
        if personal:
            band(axes, personal)
        if top is not None:
            axes.set_ylim(0, top)
        rounds_axis(axes)
        axes.yaxis.set_major_formatter(percent_axis())

    said = [(r, s.mean) for r, s in personal] or participants or shared
    return Chart(
        "Test accuracy",
        "by round",
        "Test accuracy by round. " + _from_to(said, percent, " %"),
        draw(uid, paint, description="Test accuracy by round. " + _from_to(said, percent, " %")),
        legend,
    )


def local_gain(run: Run, uid: str) -> Chart | None:
    """Participants' accuracy with the model they received and with the one they trained."""
    before, after = run.curve("received_test_accuracy"), run.curve("test_accuracy")
    if not before or not after:
        return None
    return _lines(
        uid,
        "What local training adds",
        "participants' test accuracy by round",
        [("after local training", after, 0), ("as received", before, 1)],
        said=lambda value: f"{percent(value)} %",
        percent_ticks=True,
    )


def loss(run: Run, uid: str) -> Chart | None:
    """Participants' training loss."""
    curves = [("training loss", run.curve("train_loss"), 0)]
    return _lines(uid, "Training loss", "mean over participants, by round", curves, said=plain)


def reward(run: Run, uid: str) -> Chart | None:
    """Mean reward of the round's participants with its standard deviation among them."""
    spreads = _participants(run, "reward")
    if not spreads:
        return None
    text = "Reward by round. " + _from_to([(r, s.mean) for r, s in spreads], plain, "")

    def paint(axes: Axes) -> None:
        band(axes, spreads, clip=None)
        rounds_axis(axes)

    return Chart(
        "Reward",
        "of the round's participants",
        text,
        draw(uid, paint, description=text),
        [LegendEntry("mean ± sd over participants", stroke(0), "band")],
    )


def sizes(run: Run, uid: str) -> Chart | None:
    """Parameters of the architectures that were drawn; None where all had the same."""
    spreads = _participants(run, "params")
    if len({(s.mean, s.std) for _, s in spreads}) < 2:
        return None
    text = "Parameters of the participants' models by round. "
    text += _from_to([(r, s.mean) for r, s in spreads], count, "")

    def paint(axes: Axes) -> None:
        band(axes, spreads, clip=None)
        rounds_axis(axes)
        unit_ticks(axes.yaxis, COUNTS)

    return Chart(
        "Size of the models trained",
        "parameters, by round",
        text,
        draw(uid, paint, description=text),
        [LegendEntry("mean ± sd over participants", stroke(0), "band")],
    )


def entropy(run: Run, uid: str) -> Chart | None:
    """Entropy of the policies: how undecided the search still is."""
    curves = [("policy entropy", run.curve("policy_entropy"), 0)]
    return _lines(
        uid, "Policy entropy", "how undecided the search is, by round", curves, said=plain
    )


def accuracy_over_bytes(run: Run, uid: str) -> Chart | None:
    """Accuracy against everything sent so far."""
    points, label = reached_after(run, total_bytes(run))
    if len(points) < 2:
        return None

    def paint(axes: Axes) -> None:
        axes.plot(
            [x for x, _ in points], [y for _, y in points], **stroke(0).line, **dotted(points)
        )
        few_ticks(axes)
        unit_ticks(axes.xaxis, BYTES)
        axes.yaxis.set_major_formatter(percent_axis())
        axes.set_xlabel("sent down and up so far")

    text = f"Test accuracy of {label} against bytes sent so far. {_reached(points)}"
    return Chart(
        "Accuracy for traffic",
        f"test accuracy, {label}",
        text,
        draw(uid, paint, description=text),
    )


def traffic(run: Run, uid: str) -> Chart | None:
    """Bytes per round, down and up."""
    down, up = dict(run.curve("bytes_down")), dict(run.curve("bytes_up"))
    rounds = sorted(down.keys() | up.keys())
    if not rounds:
        return None
    lower = [down.get(r, 0.0) for r in rounds]
    upper = [up.get(r, 0.0) for r in rounds]

    def paint(axes: Axes) -> None:
        if len(rounds) <= _BARS_UP_TO:
            axes.bar(rounds, lower, width=0.78, color=ROLE["s1"])
            axes.bar(rounds, upper, width=0.78, bottom=lower, color=ROLE["s2"], alpha=0.45)
        else:
            total = [a + b for a, b in zip(lower, upper, strict=True)]
            axes.fill_between(rounds, 0, lower, color=ROLE["s1"], linewidth=0)
            axes.fill_between(rounds, lower, total, color=ROLE["s2"], alpha=0.45, linewidth=0)
        rounds_axis(axes)
        axes.set_ylim(bottom=0)
        unit_ticks(axes.yaxis, BYTES)

    text = f"Bytes by round; in total {size(sum(lower))} down and {size(sum(upper))} up."
    return Chart(
        "Traffic",
        "all participants, by round",
        text,
        draw(uid, paint, description=text),
        [
            LegendEntry(f"down to clients, {size(sum(lower))}", stroke(0), "bar"),
            LegendEntry(f"up to the server, {size(sum(upper))}", stroke(1), "hatch"),
        ],
    )


def round_time(run: Run, uid: str) -> Chart | None:
    """Wall time of each round, and of its slowest client."""
    slowest: dict[int, float] = {}
    for line in run.clients:
        value = number(line.get("train_s"))
        if value is not None:
            slowest[int(line["round"])] = max(value, slowest.get(int(line["round"]), 0.0))
    curves = [
        ("round", run.curve("round_s"), 0),
        ("slowest client's training", sorted(slowest.items()), 1),
    ]
    return _lines(
        uid, "Time", "by round", [c for c in curves if c[1]], said=duration, units=SECONDS
    )


def total_bytes(run: Run) -> dict[int, float]:
    """Return round -> bytes sent down and up until its end."""
    down, up = dict(run.curve("bytes_down")), dict(run.curve("bytes_up"))
    rounds = sorted(down.keys() | up.keys())
    return dict(zip(rounds, accumulate(down.get(r, 0) + up.get(r, 0) for r in rounds), strict=True))


def reached_after(run: Run, spent: dict[int, float]) -> tuple[list[tuple[float, float]], str]:
    """Return (spent, accuracy) points and whose accuracy it is: all clients' where evaluated."""
    curve = [(r, s.mean) for r, s in run.deployed_curve("test_accuracy")]
    label = "all clients"
    if not curve:
        curve, label = run.curve("test_accuracy"), "participants"
    return [(spent[r], value) for r, value in curve if r in spent], label


def _lines(
    uid: str,
    title: str,
    note: str,
    curves: Sequence[tuple[str, Curve, int]],
    *,
    said: Callable[[float], str],
    units: Units | None = None,
    percent_ticks: bool = False,
) -> Chart | None:
    """Draw (label, curve, style) lines over rounds; None when there is nothing to draw."""
    curves = [entry for entry in curves if entry[1]]
    if not curves:
        return None

    def paint(axes: Axes) -> None:
        for _, curve, index in reversed(curves):
            plot(axes, curve, stroke(index).line, linewidth=2.0 if index == 0 else 1.4)
        rounds_axis(axes)
        if percent_ticks:
            axes.yaxis.set_major_formatter(percent_axis())
        elif units:
            axes.set_ylim(bottom=0)
            unit_ticks(axes.yaxis, units)

    parts = [f"{label}: {_from_to(curve, said, '')}" for label, curve, _ in curves]
    text = f"{title}, {note}. " + " ".join(parts)
    legend = [LegendEntry(label, stroke(index)) for label, _, index in curves]
    svg = draw(uid, paint, description=text)
    return Chart(title, note, text, svg, legend if len(curves) > 1 else ())


def _participants(run: Run, key: str) -> list[tuple[int, Spread]]:
    """(round, spread over the round's participants) of one key of clients.jsonl."""
    by_round: dict[int, list[float]] = {}
    for line in run.clients:
        value = number(line.get(key))
        if key == "params" and str(line.get("client")) in run.silent:
            continue  # they are those of the supernet
        if value is not None:
            by_round.setdefault(int(line["round"]), []).append(value)
    return [(r, Spread(float(np.mean(v)), float(np.std(v)))) for r, v in sorted(by_round.items())]


def _from_to(curve: Curve, said: Callable[[float], str], unit: str) -> str:
    (first, start), (last, end) = curve[0], curve[-1]
    if first == last:
        return f"{said(end)}{unit} in round {last}."
    return f"{said(start)}{unit} in round {first}, {said(end)}{unit} in round {last}."


def _reached(points: Sequence[tuple[float, float]]) -> str:
    spent, value = points[-1]
    return f"{percent(value)} % after {size(spent)}."


def _at(record: dict[str, Any], *keys: str) -> Any:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
