"""Charts of one run over its rounds; each is left out (None) where the run did not record it."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from corolla.report.figures import (
    BYTES,
    COUNT,
    PERCENT,
    SECONDS,
    Figure,
    curves,
    points,
    spreads,
)
from corolla.report.load import Run, Spread, number
from corolla.report.wording import size


def round_figures(run: Run) -> list[Figure]:
    """Return the charts over rounds, in reading order, without those that have no data."""
    before, after = run.curve("received_test_accuracy"), run.curve("test_accuracy")
    both = [*points("after local training", after), *points("as received", before)]
    sizes = _participants(run, "params")
    reached, whose = reached_after(run, total_bytes(run))
    figures = [
        accuracy(run),
        curves(
            "What local training adds",
            "participants' test accuracy by round",
            both if before and after else [],
            y=PERCENT,
        ),
        curves(
            "Training loss",
            "mean over participants, by round",
            points("training loss", run.curve("train_loss")),
        ),
        curves(
            "Reward",
            "of the round's participants, mean ± sd",
            spreads("reward", _participants(run, "reward")),
        ),
        curves(
            "Policy entropy",
            "how undecided the search is, by round",
            points("policy entropy", run.curve("policy_entropy")),
        ),
        curves(
            "Size of the models trained",
            "parameters of the participants' models by round, mean ± sd",
            spreads("parameters", sizes) if len({(s.mean, s.std) for _, s in sizes}) > 1 else [],
            y=COUNT,
        ),
        curves(
            "Accuracy for traffic",
            f"test accuracy, {whose}",
            points(whose, reached) if len(reached) > 1 else [],
            x=("sent down and up so far", BYTES),
            y=PERCENT,
        ),
        curves(
            "Supernet",
            "accuracy on the server's images while it is trained, by round",
            [row for name, key in _supernet(run) for row in points(name, run.curve(key))],
            y=PERCENT,
        ),
        curves(
            "Predictors",
            "rank correlation with what was measured, of the round's participants, mean ± sd",
            [
                row
                for name, key in _CORRELATIONS.items()
                for row in spreads(name, _participants(run, key))
            ],
        ),
        traffic(run),
        curves(
            "Time",
            "by round",
            points("round", run.curve("round_s"))
            + points("slowest client's training", _slowest(run)),
            y=SECONDS,
            zero=True,
        ),
    ]
    return [figure for figure in figures if figure is not None]


_CORRELATIONS = {
    "Kendall, held out": "predictor_kendall",
    "Spearman, held out": "predictor_spearman",
    "Kendall, of the front": "front_kendall",
    "Spearman, of the front": "front_spearman",
}


def _supernet(run: Run) -> list[tuple[str, str]]:
    """Return (name, key) of the accuracies that the server measured while it trained the supernet."""
    keys = dict.fromkeys(key for line in run.rounds for key in line)
    named = [("teachers", "teacher_accuracy")] if "teacher_accuracy" in keys else []
    start = "supernet_accuracy_"
    return named + [(k.removeprefix(start), k) for k in keys if k.startswith(start)]


def accuracy(run: Run, top: float | None = None) -> Figure | None:
    """Test accuracy over rounds: all clients with their spread, participants, global model.

    ``top`` makes the axis go from 0 to it, so that charts of several runs can be compared.
    """
    personal = run.deployed_curve("test_accuracy")
    shared = [(r, s.mean) for r, s in run.evaluation_curve("global", "test_accuracy")]
    model = "all clients"
    if run.one_model or not run.evaluation_curve("personalised", "test_accuracy"):
        model, shared = "global model, all clients" if shared else model, []
    worst = [(r, s.worst_decile) for r, s in personal if s.worst_decile is not None]
    best = (run.summary or {}).get("best")
    chosen = number(best.get("round")) if isinstance(best, dict) else None
    begins = _stages(run)
    stages = [f"stage {stage} from round {at:.0f}" for stage, at in begins.items()]
    return curves(
        "Test accuracy",
        "by round"
        + (
            ""
            if chosen is None
            else f"; the upright line: chosen on validation, round {chosen:.0f}"
        )
        + (f"; dashed: {', '.join(stages)}" if stages else ""),
        [
            *spreads(f"{model}, mean ± sd over clients", personal, clip=(0.0, 1.0)),
            *points("participants of the round", run.curve("test_accuracy")),
            *points("global model, all clients", shared),
            *points("worst decile of clients", worst),
        ],
        y=PERCENT,
        rule=chosen,
        marks=tuple(begins.values()),
        top=top,
    )


def _stages(run: Run) -> dict[int, float]:
    """Return stage -> its first round, of methods that go through stages; not the first stage's."""
    begins: dict[int, float] = {}
    for at, stage in run.curve("stage"):
        begins.setdefault(int(stage), at)
    return dict(list(begins.items())[1:])


def traffic(run: Run) -> Figure | None:
    """Bytes per round, down and up."""
    down, up = run.curve("bytes_down"), run.curve("bytes_up")
    rows = points(f"down to clients, {size(sum(v for _, v in down))}", down)
    rows += points(f"up to the server, {size(sum(v for _, v in up))}", up)
    return curves("Traffic", "all participants, by round", rows, y=BYTES, kind="bars")


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


def _slowest(run: Run) -> list[tuple[float, float]]:
    slowest: dict[int, float] = {}
    for line in run.clients:
        value = number(line.get("train_s"))
        if value is not None:
            slowest[int(line["round"])] = max(value, slowest.get(int(line["round"]), 0.0))
    return sorted(slowest.items())


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
