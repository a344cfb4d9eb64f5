"""Runs against runs: differences between pairs that share seed, client and images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t

from corolla.analysis.frames import frame
from corolla.analysis.opened import OpenedRun, open_run
from corolla.errors import Fault, RefusedError
from corolla.report.groups import Group, grouped
from corolla.report.load import number

if TYPE_CHECKING:
    import pandas as pd

Cell = tuple[str, str]  # seed, client


def compare(
    runs: Iterable[OpenedRun | Path | str],
    *,
    measure: str = "test_accuracy",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the paired differences between all groups of runs, a row per pair of groups.

    Runs that differ in their seed alone are a group, as in the report. Paired are clients of the same
    seed and the same images; ``difference`` is the mean of ``a`` minus ``b`` over the pairs.
    ``clients_low`` to ``clients_high`` is the t interval over pairs: how far clients differ, given these
    trainings. ``seeds_low`` to ``seeds_high`` is the t interval over the seeds' mean differences: what
    another seed may bring; NaN with one seed. ``attrs["to_know"]`` says in what else the groups differ.

    Args:
        runs: finished runs, or their directories.
        measure: a column of `OpenedRun.summary` (``test_accuracy``, ``fine_tuned_accuracy``, ``macs``) or
            of `OpenedRun.scores` (``balanced_accuracy``, ``f1``).
        confidence: of both intervals.

    Raises:
        RefusedError: fewer than two groups, nothing to pair, two runs of one seed in a group, other
            images, or a measure that a run lacks.

    """
    opened = [run if isinstance(run, OpenedRun) else open_run(run) for run in runs]
    by_path = {run.path: run for run in opened}
    groups, to_know = grouped([run.records for run in by_path.values()])
    if len(groups) < 2:
        problem = "all have the same settings but for the seed: there is nothing to compare"
        remedy = "Give runs that differ in more than the seed"
        raise RefusedError(Fault("runs", [str(path) for path in by_path], problem, remedy))
    seeded = [_by_seed(group, by_path) for group in groups]
    rows = []
    for (a, mine), (b, theirs) in combinations(zip(groups, seeded, strict=True), 2):
        pairs = _pairs(mine, theirs, measure)
        if not pairs:
            problem = f"{a.label} and {b.label} share no seed and client"
            remedy = "Run both with the same seeds and clients"
            raise RefusedError(Fault("runs", [a.seeds, b.seeds], problem, remedy))
        rows.append({"a": a.label, "b": b.label, **paired(pairs, confidence)})
    table = frame(rows)
    table.attrs["to_know"] = to_know
    return table


def paired(pairs: Mapping[Cell, tuple[float, float]], confidence: float) -> dict[str, Any]:
    """Return means, difference and intervals of values (a, b) by seed and client."""
    differences = {cell: a - b for cell, (a, b) in pairs.items()}
    seeds = sorted({seed for seed, _ in pairs})
    means = [np.mean([d for (s, _), d in differences.items() if s == seed]) for seed in seeds]
    clients_low, clients_high = interval(list(differences.values()), confidence)
    seeds_low, seeds_high = interval([float(mean) for mean in means], confidence)
    return {
        "mean_a": float(np.mean([a for a, _ in pairs.values()])),
        "mean_b": float(np.mean([b for _, b in pairs.values()])),
        "difference": float(np.mean(list(differences.values()))),
        "clients_low": clients_low,
        "clients_high": clients_high,
        "seeds_low": seeds_low,
        "seeds_high": seeds_high,
        "better": sum(d > 0 for d in differences.values()),
        "pairs": len(pairs),
        "seeds": len(seeds),
    }


def interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return Student's t interval of the mean; NaN of fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n)
    reach = float(t.ppf((1 + confidence) / 2, n - 1)) * error
    return mean - reach, mean + reach


def _by_seed(group: Group, by_path: Mapping[Path, OpenedRun]) -> dict[str, OpenedRun]:
    found: dict[str, OpenedRun] = {}
    for run in group.runs:
        if run.seed in found:
            problem = f"{group.label} has two runs of seed {run.seed}"
            raise RefusedError(Fault("runs", run.name, problem, "Leave one of them out"))
        found[run.seed] = by_path[run.path]
    return found


def _pairs(
    mine: Mapping[str, OpenedRun], theirs: Mapping[str, OpenedRun], measure: str
) -> dict[Cell, tuple[float, float]]:
    pairs: dict[Cell, tuple[float, float]] = {}
    for seed in mine.keys() & theirs.keys():
        a, b = mine[seed], theirs[seed]
        if _tested_on(a) != _tested_on(b):
            problem = f"its clients are tested on other images than those of {b.path.name}"
            remedy = "Compare runs of the same data set, partition and number of clients"
            raise RefusedError(Fault("runs", a.path.name, problem, remedy))
        first, second = _values(a, measure), _values(b, measure)
        for client in first.keys() & second.keys():
            pairs[seed, client] = (first[client], second[client])
    return dict(sorted(pairs.items()))


def _tested_on(run: OpenedRun) -> Any:
    """Return what tells the clients' test images; None on real nodes, where names stand for them."""
    path = run.path / "partition.json"
    if not path.is_file():
        return None
    partition = json.loads(path.read_text())
    tests = {client: splits["test"] for client, splits in partition["clients"].items()}
    return partition["fingerprint"], tests


def _values(run: OpenedRun, measure: str) -> dict[str, float]:
    run.directory.summary()  # refuses a run that has not ended
    table = run.scores if measure in ("balanced_accuracy", "f1") else run.summary
    if measure not in table.columns:
        known = ", ".join(["balanced_accuracy", "f1", *map(str, table.columns)])
        problem = f"{run.path.name} has no such column"
        raise RefusedError(Fault("measure", measure, problem, f"Known: {known}"))
    found = {str(client): number(value) for client, value in table[measure].items()}
    return {client: value for client, value in found.items() if value is not None}
