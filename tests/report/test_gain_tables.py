"""The matrix of gains, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corolla.report.gain_tables import gain_section
from corolla.report.load import Run

_ENTRY: dict[str, Any] = {
    "accuracy": [[0.75, 0.5], [0.5, 0.25]],
    "gains": [0.25, -0.25],
    "mean_gain": 0.0,
}


def _run(gain: Any) -> Run:
    return Run(Path("run"), {}, {}, [], [], None, gain=gain)


def test_differences_are_to_the_own_architecture_of_the_row() -> None:
    starts = {"supernet": _ENTRY | {"best_epoch": _ENTRY}, "own": _ENTRY}
    section = gain_section(
        _run({"clients": ["a", "b"], "epochs": 30, "lr": 0.01, "starts": starts})
    )
    assert section is not None
    assert "for 30\u00a0epochs at learning rate 0.01." in section.caption
    shared, own = section.starts
    assert (shared.title, own.title) == (
        "From the shared supernet",
        "From each architecture's own weights",
    )
    assert shared.mean == "mean gain 0.0 points"
    accuracy, apart = shared.tables
    assert [row["text"] for row in accuracy.rows] == ["75.0", "50.0", "50.0", "25.0"]
    assert [row["own"] for row in accuracy.rows] == [True, False, False, True]
    # 0.75 - 0.5 in a's row, 0.25 - 0.5 in b's, each with its gain; nothing to compare on the diagonal.
    assert [(row["column"], row["text"], row.get("role")) for row in apart.rows] == [
        *(("a", "\u2013", None), ("b", "+25.0", "s1"), ("gain g", "+25.0", "s1")),
        *(("a", "\u221225.0", "s2"), ("b", "\u2013", None), ("gain g", "\u221225.0", "s2")),
    ]
    assert len(shared.best) == 2
    assert own.best == []


def test_many_clients_are_limited_and_counted() -> None:
    names = [str(i) for i in range(40)]
    entry = {"accuracy": [[0.5] * 40] * 40, "gains": [0.0] * 40, "mean_gain": 0.0}
    section = gain_section(_run({"clients": names, "starts": {"own": entry}}))
    assert section is not None
    assert "Shown are the first 16 of 40 clients: gain.json has all." in section.caption
    # Rows of 16 columns, and of one more with the gains.
    assert [len(table.rows) for table in section.starts[0].tables] == [16 * 16, 16 * 17]


@pytest.mark.parametrize(
    "gain",
    [
        None,
        {},
        {"clients": ["a"], "starts": []},
        {"clients": ["a", "b"], "starts": {"own": {"accuracy": [[0.5]]}}},
        {"clients": ["a", "b"], "starts": {"own": {"accuracy": [[0.5, 0.5], 3]}}},
    ],
)
def test_what_cannot_be_read_is_left_out(gain: Any) -> None:
    assert gain_section(_run(gain)) is None


def test_a_cell_without_a_number_is_a_dash() -> None:
    entry = _ENTRY | {"accuracy": [[0.75, None], [0.5, 0.25]]}
    section = gain_section(_run({"clients": ["a", "b"], "starts": {"own": entry}}))
    assert section is not None
    assert [t.rows[1]["text"] for t in section.starts[0].tables] == ["\u2013", "\u2013"]
