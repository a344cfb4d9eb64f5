"""The columns of a comparison: what is read of each run, and its mean over the seeds of a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from corolla.report.groups import Group
from corolla.report.load import Run
from corolla.report.results import result, shared_models
from corolla.report.wording import DASH, duration, percent, plus_minus, size


@dataclass(frozen=True)
class Measure:
    """One column of the comparison: how to get it from a run, and how to write it."""

    key: str
    head: str
    get: Callable[[Run], float | None]
    said: Callable[[float | None], str]


def _test(key: str, part: str) -> Callable[[Run], float | None]:
    def get(run: Run) -> float | None:
        found = result(run, key)
        return None if found is None else getattr(found.test, part)

    return get


def _test_of_one_kind(
    part: str, *, tuned: bool, chosen: bool = False
) -> Callable[[Run], float | None]:
    """Return what is read of every run alike: models as trained, or fine-tuned, whichever is deployed."""

    def get(run: Run) -> float | None:
        own = run.declares_fine_tuned
        if chosen:  # of what is deployed, and of nothing else
            return _test("chosen", part)(run) if own == tuned else None
        if tuned:
            return _test("fine_tuned", part)(run)
        return _test("as_trained" if own else "last", part)(run)

    return get


def _pooled(run: Run) -> float | None:
    """Return the accuracy of the one global model on all images together; tiers have no one number."""
    return next((model.test for model in shared_models(run) if model.name == "global"), None)


def _traffic(run: Run) -> float | None:
    down, up = run.cost("bytes_down"), run.cost("bytes_up")
    return None if down is None and up is None else (down or 0) + (up or 0)


MEASURES: Sequence[Measure] = (
    Measure("last", "as trained %", _test_of_one_kind("mean", tuned=False), percent),
    Measure("worst", "its worst decile %", _test_of_one_kind("worst_decile", tuned=False), percent),
    Measure(
        "chosen",
        "chosen on validation %",
        _test_of_one_kind("mean", tuned=False, chosen=True),
        percent,
    ),
    Measure("fine_tuned", "fine-tuned %", _test_of_one_kind("mean", tuned=True), percent),
    Measure(
        "tuned_worst", "its worst decile %", _test_of_one_kind("worst_decile", tuned=True), percent
    ),
    Measure(
        "tuned_chosen",
        "chosen, fine-tuned %",
        _test_of_one_kind("mean", tuned=True, chosen=True),
        percent,
    ),
    Measure("global", "global model %", _test("global", "mean"), percent),
    Measure("pooled", "global, pooled %", _pooled, percent),
    Measure("bytes", "bytes sent", _traffic, size),
    Measure("client_s", "client time", lambda run: run.cost("client_s"), duration),
    Measure("wall_s", "wall time", lambda run: run.cost("wall_s"), duration),
)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1), which one value does not have."""
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def over_seeds(group: Group, measure: Measure) -> tuple[float, float | None] | None:
    """Return mean and sd over the group's runs that have the measure; None when none has."""
    values = [value for value in map(measure.get, group.runs) if value is not None]
    return mean_and_sd(values) if values else None


def in_words(measure: Measure, value: tuple[float, float | None] | None) -> str:
    """Return "78.3 ± 1.2" in the measure's unit."""
    if value is None:
        return DASH
    mean, deviation = value
    if deviation == 0:  # without a unit that would only look like a measurement
        return plus_minus(measure.said(mean), "0")
    return plus_minus(measure.said(mean), None if deviation is None else measure.said(deviation))
