"""Charts of several runs in one: a curve per group with the spread over its seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corolla.report.figures import (
    BYTES,
    PERCENT,
    PLAIN,
    Axis,
    Figure,
    Row,
    Unit,
    brief,
    curves,
    points,
    spreads,
    unique,
)
from corolla.report.groups import Group
from corolla.report.load import Run, Spread
from corolla.report.measures import MEASURES, mean_and_sd
from corolla.report.round_figures import total_bytes
from corolla.report.wording import percent

GROUPS_UP_TO = 8  # curves that can still be told apart
_TAGS = {"last": "as trained", "worst": "worst decile", "fine_tuned": "fine-tuned"}

Named = Sequence[tuple[str, Group]]


def compare_figures(groups: Sequence[Group]) -> list[Figure]:
    """Return the charts over groups, without those that have no data."""
    shown = groups[:GROUPS_UP_TO]
    labels = brief(unique([group.label for group in shown]), 48)
    named = list(zip(labels.values(), shown, strict=True))
    figures = [
        curves(
            "Test accuracy",
            "all clients before fine-tuning, ± sd over seeds",
            [
                row
                for name, curve in _accuracies(named).items()
                for row in spreads(name, sorted(curve.items()), clip=(0.0, 1.0))
            ],
            y=PERCENT,
        ),
        over_bytes(named),
        ends(named),
        every_client(named),
        _of_metrics(named, "policy_entropy", "Policy entropy"),
        _of_metrics(named, "train_loss", "Training loss"),
    ]
    return [figure for figure in figures if figure is not None]


def over_bytes(named: Named) -> Figure | None:
    """Accuracy against the bytes sent so far, both as means over seeds."""
    rows: list[Row] = []
    accuracies = _accuracies(named)
    for name, group in named:
        spent = over_seeds([total_bytes(run) for run in group.runs])
        reached = [(spent[r].mean, s.mean) for r, s in accuracies[name].items() if r in spent]
        rows += points(name, reached) if len(reached) > 1 else []
    return curves(
        "Accuracy for traffic",
        "test accuracy before fine-tuning, mean over seeds",
        rows,
        x=("sent down and up so far", BYTES),
        y=PERCENT,
    )


def ends(named: Named) -> Figure | None:
    """Where the groups ended: as trained, its worst decile, fine-tuned; a small dot per seed."""
    rows: list[Row] = [
        {"series": name, "measure": _TAGS[measure.key], "seed": run.seed, "y": value}
        for measure in MEASURES
        if measure.key in _TAGS
        for name, group in named
        for run in group.runs
        if (value := measure.get(run)) is not None
    ]
    if not rows:
        return None
    told = [f"{r['series']}, seed {r['seed']}, {r['measure']}: {percent(r['y'])} %." for r in rows]
    return Figure(
        kind="ends",
        title="Where they ended",
        note="test accuracy, ± sd over seeds",
        rows=rows,
        x=Axis("measure", ""),
        y=Axis("y", "", PERCENT),
        said=" ".join(told),
    )


def every_client(named: Named) -> Figure | None:
    """Clients of all seeds of a group from lowest to highest accuracy."""
    rows: list[Row] = []
    for name, group in named:
        points = [
            (value, client, run.seed)
            for run in group.runs
            for client, value in run.as_trained().items()
        ]
        shares = np.linspace(0, 1, len(points)).tolist()
        for share, (value, client, seed) in zip(shares, sorted(points), strict=True):
            row = {"series": name, "x": share, "y": value, "client": client, "seed": seed}
            rows += [row] if len(points) > 1 else []
    return curves(
        "Every client",
        "test accuracy before fine-tuning, seeds pooled",
        rows,
        x=("clients below this accuracy", PERCENT),
        y=PERCENT,
    )


def over_seeds(curves: Sequence[dict[int, float]]) -> dict[int, Spread]:
    """Return mean and sd per round, over the rounds that every seed with data has.

    Runs that stop early would otherwise let the mean jump where they leave it.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return {}
    rounds = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {r: Spread(*mean_and_sd([curve[r] for curve in curves])) for r in rounds}


def _of_metrics(named: Named, key: str, title: str, unit: Unit = PLAIN) -> Figure | None:
    """Any other key of metrics.jsonl over rounds."""
    rows = [
        row
        for name, group in named
        for row in spreads(name, over_seeds([dict(run.curve(key)) for run in group.runs]).items())
    ]
    return curves(title, "mean ± sd over seeds", rows, y=unit)


def _accuracies(named: Named) -> dict[str, dict[int, Spread]]:
    """Return a curve per group: of all clients, or of participants if no run evaluated all.

    The two are never shown together: participants are measured right after local training.
    """
    evaluated = any(run.deployed_curve("test_accuracy") for _, g in named for run in g.runs)

    def curve(run: Run) -> dict[int, float]:
        if evaluated:
            return {r: s.mean for r, s in run.deployed_curve("test_accuracy")}
        return dict(run.curve("test_accuracy"))

    return {name: over_seeds([curve(run) for run in group.runs]) for name, group in named}
