"""Finished runs that differ in their seed only, put together: mean and standard deviation over seeds."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corolla.records.json_files import numeric_leaves

_LOG = logging.getLogger(__name__)
_GROUP = ("method", "space", "dataset")
# what says how a run was made, or has one entry per client, is no figure to average over seeds
_NOT_FIGURES = frozenset({"per_client", "seed", "rounds", "clients", "known_clients", "round"})


@dataclass(frozen=True)
class MeanSd:
    """A figure over seeds."""

    mean: float
    sd: float | None
    """The sample's (n - 1): seeds are a sample of all there could be. None for one run."""
    runs: int

    def percent(self, digits: int = 1) -> str:
        """Return a fraction as text in percent, "61.3 ± 0.8", without ± for a single run."""
        text = f"{100 * self.mean:.{digits}f}"
        return text if self.sd is None else f"{text} ± {100 * self.sd:.{digits}f}"


@dataclass(frozen=True)
class Comparison:
    """One row of a table of runs: those that differ in their seed only."""

    group: Mapping[str, Any]
    """What the runs share, such as ``{"method": ..., "space": ..., "dataset": ...}``."""
    seeds: tuple[int, ...]
    figures: Mapping[str, MeanSd]
    """By the path of a number in the summaries: "test_accuracy/mean", "best/test_accuracy/std",
    "global/test_accuracy/mean", "costs/bytes_up"; over the runs that have it."""


def compare(runs: Iterable[Mapping[str, Any]], *, by: Sequence[str] = _GROUP) -> list[Comparison]:
    """Return mean and standard deviation over seeds of several ``summary.json`` contents.

    Runs are grouped by the keys in ``by``; groups come in the order in which they are first met.

    Raises: ValueError naming the key that a summary lacks.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        missing = [key for key in (*by, "seed") if key not in run]
        if missing:
            raise ValueError(f"a summary lacks {missing}; it has {sorted(run)}")
        groups.setdefault(tuple(run[key] for key in by), []).append(run)
    return [_row(dict(zip(by, key, strict=True)), members) for key, members in groups.items()]


def _row(group: dict[str, Any], runs: list[Mapping[str, Any]]) -> Comparison:
    seeds = tuple(sorted(int(run["seed"]) for run in runs))
    if len(set(seeds)) < len(seeds):
        _LOG.warning(
            "runs of %s share seeds %s: they may differ in more than the seed", group, seeds
        )
    figures: dict[str, list[float]] = {}
    for run in runs:
        for name, value in numeric_leaves(run, skip=_NOT_FIGURES).items():
            figures.setdefault(name, []).append(value)
    return Comparison(
        group=group,
        seeds=seeds,
        figures={name: _mean_sd(values) for name, values in figures.items()},
    )


def _mean_sd(values: list[float]) -> MeanSd:
    n = len(values)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    return MeanSd(mean=mean, sd=sd, runs=n)
