"""Every space of the configuration is counted; tables of runs hold what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.collect_runs import _OVER, _lead
from benchmarks.space_sizes import space_named
from corolla.records.summary import compare
from tests.conftest import CONF

SPACES = sorted(path.stem for path in (CONF / "space").glob("*.yaml"))


@pytest.mark.parametrize("name", SPACES)
def test_every_space_is_counted(name: str) -> None:
    space = space_named(name, 3)
    assert space.name == name
    assert space.num_classes == 10
    assert space.known_macs(space.smallest()) > 0


def test_leads_are_taken_seed_by_seed() -> None:
    # Seed 1 is easier by 0.4 for both: the lead is steady although the accuracies are not.
    found = {("a", 0): 0.3, ("a", 1): 0.7, ("b", 1): 0.72, ("b", 0): 0.31, ("b", 2): 0.9}
    runs: list[dict[str, Any]] = [
        {"method": arm, "seed": seed, "test_accuracy": {"mean": value}}
        for (arm, seed), value in found.items()
    ]
    _lead(runs, "a")
    assert _OVER not in runs[-1]  # of a seed that the reference has no run of
    a, b = (row.figures[_OVER] for row in compare(runs, by=("method",)))
    assert (a.mean, a.sd) == (0.0, 0.0)
    assert (b.mean, b.runs) == (pytest.approx(0.015), 2)
    assert b.sd == pytest.approx(0.01 / 2**0.5)
    with pytest.raises(SystemExit, match="c: not among the arms"):
        _lead(runs, "c")
