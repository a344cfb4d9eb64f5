"""Charts over clients: accuracy, accuracy against cost, memory against budget, likeness of policies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.report.architecture_strip import StripLayout
from corolla.report.clients import choices_of
from corolla.report.figures import (
    COUNT,
    MEBIBYTES,
    MILLISECONDS,
    PERCENT,
    RANK,
    Axis,
    Figure,
    Row,
)
from corolla.report.load import Record, Run, number
from corolla.report.wording import DASH, percent, plural, short

_COSTS = (
    Axis("params", "parameters", COUNT),
    Axis("macs", "multiply-accumulates", COUNT),
    Axis("latency_ms", "latency, ms", MILLISECONDS),
)
_NUMBERS = ("test_accuracy", "params", "macs", "latency_ms", "memory_budget_mib")
_ACCURACY = Axis("test_accuracy", "", PERCENT)
_MOST_CLIENTS = 64  # whose pairs are drawn: 2,016 of them
_FEWEST_PAIRS = 3


def client_figures(run: Run) -> list[Figure]:
    """Return the charts over clients, without those that have no data."""
    rows = client_rows(run)
    figures = [
        sorted_accuracy(rows),
        *(against_cost(rows, cost) for cost in _COSTS),
        memory(rows),
        policy_similarity(run),
    ]
    return [figure for figure in figures if figure is not None]


def client_rows(run: Run) -> list[Row]:
    """Return a row per client: name, architecture in words, and the numbers that are known."""
    layout, rows = StripLayout(run.dimensions), []
    for client, record in run.per_client.items():
        use = number(record.get("training_memory_mib"))  # estimated for the architecture
        numbers = {key: number(record.get(key)) for key in _NUMBERS} | {"use": use}
        if use is None:
            numbers["use"] = number(record.get("peak_memory_mib"))
        choices = choices_of(record)
        known = choices is not None and layout.strip(choices) is not None
        words = short(layout.words(choices), 160) if choices is not None and known else DASH
        row: Row = {"client": client, "architecture": words}
        rows.append(row | {key: value for key, value in numbers.items() if value is not None})
    ranked = sorted((r for r in rows if "test_accuracy" in r), key=lambda r: r["test_accuracy"])
    for rank, row in enumerate(ranked, start=1):
        row["rank"] = rank
    return rows


def sorted_accuracy(rows: Sequence[Row], top: float | None = None) -> Figure | None:
    """Every client's test accuracy, lowest first; ``top`` fixes the axis to 0 until there."""
    values = [row["test_accuracy"] for row in rows if "rank" in row]
    if len(values) < 2:
        return None
    return Figure(
        kind="dots",
        line="mean",
        title="Accuracy of every client",
        note=f"test accuracy; the line: the mean of all {len(values):,}, {percent(float(np.mean(values)))} %",
        rows=rows,
        x=Axis("rank", "clients, from lowest to highest", RANK),
        y=_ACCURACY,
        top=top,
    )


def against_cost(rows: Sequence[Row], cost: Axis) -> Figure | None:
    """Test accuracy against one cost, a dot per client; None when all clients cost the same."""
    known = [row for row in rows if cost.column in row and "test_accuracy" in row]
    if len({row[cost.column] for row in known}) < 2:
        return None
    name = cost.title.partition(",")[0]
    return Figure(
        kind="dots",
        title=f"Accuracy against {name}",
        note="test accuracy, a dot per client",
        rows=rows,
        x=cost,
        y=_ACCURACY,
    )


def memory(rows: Sequence[Row]) -> Figure | None:
    """Memory that training takes against the client's budget."""
    known = [row for row in rows if "memory_budget_mib" in row and "use" in row]
    if not known:
        return None
    fitting = sum(row["use"] <= row["memory_budget_mib"] for row in known)
    whole = "every client fits its budget"
    part = f"{fitting:,} of {plural(len(known), 'client')} fit their budget"
    return Figure(
        kind="dots",
        line="equal",
        title="Memory against budget",
        note=f"{whole if fitting == len(known) else part}: not above the line",
        rows=rows,
        x=Axis("memory_budget_mib", "budget, MiB", MEBIBYTES),
        y=Axis("use", "training takes, MiB", MEBIBYTES),
    )


def policy_similarity(run: Run) -> Figure | None:
    """Return similarity of policies against similarity of label distributions, a dot per pair.

    Do clients with like data get like policies? PerFedRLNAS, Theorem 1. Similarity is one minus the
    total variation distance: 1 for the same distribution, 0 for two that share nothing; of policies the
    mean over the dimensions that have a choice. None where a run has no policies, or fewer than three
    pairs of clients.
    """
    known = [
        (client, labels, policy)
        for client, record in run.per_client.items()
        if (labels := _labels(record)) is not None and (policy := _policy(record)) is not None
    ]
    taken = known[:: max(1, -(-len(known) // _MOST_CLIENTS))]
    rows: list[Row] = [
        {
            "client": f"{a[0]} and {b[0]}",
            "labels": _shared([a[1]], [b[1]]),
            "policies": _shared(a[2], b[2]),
        }
        for a, b in itertools.combinations(taken, 2)
    ]
    xs, ys = [row["labels"] for row in rows], [row["policies"] for row in rows]
    if len(rows) < _FEWEST_PAIRS or len(set(xs)) < 2 or len(set(ys)) < 2:
        return None  # all policies as they began: there is no relation to show
    from scipy.stats import spearmanr  # takes a second to import

    rank = float(spearmanr(xs, ys).statistic)
    pairs = plural(len(rows), "pair")
    if len(taken) < len(known):
        pairs += f" of {len(taken)} of {len(known):,} clients"
    return Figure(
        kind="dots",
        title="Like data, like policies?",
        note=f"likeness of policies, {pairs}; rank correlation {rank:+.2f}",
        rows=rows,
        x=Axis("labels", "likeness of label distributions", PERCENT),
        y=Axis("policies", "likeness of policies", PERCENT),
        said=f"Spearman correlation {rank:+.2f}.",
    )


def _shared(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> float:
    return float(np.mean([np.minimum(p, q).sum() for p, q in zip(a, b, strict=True)]))


def _labels(record: Record) -> NDArray[np.float64] | None:
    counts = np.asarray(record.get("label_counts") or [], dtype=np.float64)
    return counts / counts.sum() if counts.size and counts.sum() > 0 else None


def _policy(record: Record) -> list[NDArray[np.float64]] | None:
    rows: Any = record.get("policy")
    return [np.asarray(row, dtype=np.float64) for row in rows] if rows else None
