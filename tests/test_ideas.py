"""What was tried on our own method: every idea can be run, and the table tells points above what is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ideas import GROUPS, _changed, table
from benchmarks.leaderboard_cells import overrides_of
from corolla.config.compose import compose_values
from corolla.config.schema import parse_config


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_idea_is_a_configuration(group: str, tmp_path: Path) -> None:
    track, arm, ideas = GROUPS[group]
    for changes in ideas.values():
        overrides = _changed(overrides_of(track, arm), changes)
        where = [f"dataset.root={tmp_path}", f"run_dir={tmp_path / 'run'}"]
        _, faults = parse_config(compose_values([*overrides, *where]))
        assert not faults


def test_a_later_override_takes_the_place_of_one_of_its_key() -> None:
    assert _changed(["a=1", "b/c=x", "d=[1]"], ["b/c=y", "e=2"]) == ["a=1", "b/c=y", "d=[1]", "e=2"]


def test_the_table_tells_points_above_what_is_the_best_first() -> None:
    def row(validation: float) -> dict[str, object]:
        return {"validation": validation, "deployed": 90.0, "fine_tuned": 80.25}

    lines = table({"b": {"as it is": row(89.0), "Nesterov": row(90.5)}, "search": {}})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line][2:]
    assert rows == [
        ["Nesterov", "`trainer.nesterov=true`", "90.5", "90.0", "80.2", "+1.5 / +0.0 / +0.0"],
        ["as it is", "", "89.0", "90.0", "80.2", "+0.0 / +0.0 / +0.0"],
    ]
