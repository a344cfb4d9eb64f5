"""Decisions in words and on the timeline, by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from corolla.report.decision_figure import timeline
from corolla.report.decisions import choice_table, choices, summed_up
from corolla.report.load import Run
from corolla.report.plots import spec

_EDGE: dict[str, Any] = {
    "round": 2,
    "cell": "normal",
    "where": "3-5",
    "kept": "skip_connect",
    "removed": ["sep_conv_3x3"],
    "scores": {"skip_connect": [0.625, 1.1], "sep_conv_3x3": [0.75, 0.9]},
    "margin": 0.125,
}
_NODE: list[dict[str, Any]] = [
    {
        "round": 3,
        "cell": "reduce",
        "where": "4",
        "kept": "0-4+2-4+3-4",
        "removed": ["1-4"],
        "scores": {"0-4": [0.5, 1.0], "1-4": [0.75, 1.0], "2-4": [0.5, 1.0], "3-4": [0.5, 1.0]},
        "margin": 0.25,
    },
    {
        "round": 3,
        "cell": "reduce",
        "where": "4",
        "kept": "0-4+2-4",
        "removed": ["3-4"],
        "scores": {"0-4": [0.5, 1.0], "2-4": [0.5, 1.0], "3-4": [0.5, 0.5]},
        "margin": 0.0,
    },
]


def _row(number: int, client: str, phase: float, *made: dict[str, Any]) -> dict[str, Any]:
    return {
        "round": number,
        "client": client,
        "phase": phase,
        "decisions": list(made),
        "train_loss": 2.0 / number,
    }


def _run(*rows: dict[str, Any]) -> Run:
    rounds = [
        {
            "round": number,
            "train_loss": 2.0 / number,
            "mean_phase": sum(r["phase"] for r in rows if r["round"] == number)
            / sum(r["round"] == number for r in rows),
        }
        for number in sorted({row["round"] for row in rows})
    ]
    return Run(Path("run"), {}, {}, rounds, list(rows), None)


def _usual() -> Run:
    return _run(
        _row(1, "a", 1.0),
        _row(2, "a", 2.0, _EDGE),
        _row(2, "b", 1.0),
        _row(3, "a", 3.0, *_NODE),
        _row(4, "a", 3.0),
        _row(4, "b", 1.0),
    )


def test_a_choice_is_told_with_its_evidence() -> None:
    edge, node = choices(_usual())
    assert edge.of_edge
    assert not edge.tied
    assert edge.words.splitlines() == [
        "client a, round 2, normal cell, edge 3-5",
        "keeps skip_connect",
        "removed sep_conv_3x3: validation accuracy 62.5 % without skip_connect, 75.0 % without "
        "sep_conv_3x3; margin 12.5 points",
    ]
    assert not node.of_edge
    assert node.tied  # at its second step
    assert node.kept == "0-4+2-4"
    assert node.words.splitlines()[:2] == [
        "client a, round 3, reduction cell, node 4",
        "keeps 0-4 and 2-4",
    ]
    assert node.words.splitlines()[3].startswith("removed 3-4: validation accuracy 50.0 %")


def test_a_choice_by_loss_is_told_in_losses_and_a_near_tie_as_one() -> None:
    by_loss = _EDGE | {"unit": "loss", "margin": -0.2, "error": 0.25, "by": "cost"}
    (near,) = choices(_run(_row(2, "a", 2.0, by_loss)))
    assert near.tied
    assert near.words.splitlines()[2] == (
        "removed sep_conv_3x3: validation loss 1.100 without skip_connect, 0.900 without "
        "sep_conv_3x3; margin -0.200 ± 0.250; as good as equal, the cheaper stays"
    )
    (clear,) = choices(_run(_row(2, "a", 2.0, by_loss | {"by": "loss", "margin": 0.2})))
    assert not clear.tied
    assert clear.words.endswith("margin 0.200 ± 0.250")
    (forced,) = choices(_run(_row(2, "a", 2.0, by_loss | {"by": "only", "margin": 0.0})))
    assert not forced.tied


@pytest.mark.parametrize(
    ("margin", "words"), [(0.0, "nothing was measured"), (0.25, "weights 0.250 apart")]
)
def test_what_was_not_scored_says_so(margin: float, words: str) -> None:
    (choice,) = choices(_run(_row(2, "a", 2.0, _EDGE | {"scores": {}, "margin": margin})))
    assert choice.words.endswith(f"removed sep_conv_3x3: {words}")
    assert not choice.tied


def test_choices_in_sum() -> None:
    assert summed_up(choices(_usual())) == (
        "1\u00a0edge decided: skip_connect 1 times. 1\u00a0node thinned out. In 1 of 2 choices candidates "
        "were as good as equal: size, the other score or the lot decided."
    )


def test_marks_stand_at_their_rounds_and_tell_their_choice() -> None:
    made = choices(_usual())
    drawing = timeline(_usual(), made)
    assert drawing is not None
    assert [row["words"] for row in drawing.rows] == [choice.words for choice in made]
    assert [(row["lane"], row["x"], row["dy"], row["tied"]) for row in drawing.rows] == [
        ("client a, normal", 2.0, 0.0, False),
        ("client a, reduction", 3.0, 0.0, True),
    ]
    assert [row["series"] for row in drawing.rows] == list(drawing.looks)
    assert drawing.looks["edge keeps skip_connect"] == ("s3", "triangle-up")
    lanes = [row["lane"] for row in drawing.more["lanes"]]
    assert lanes == [f"client {c}, {cell}" for c in "ab" for cell in ("normal", "reduction")]


def test_every_choice_has_a_mark_that_is_hollow_where_it_was_tied() -> None:
    drawing = timeline(_usual(), choices(_usual()))
    assert drawing is not None
    assert "Hollow marks" in drawing.note
    svg = vl_convert.vegalite_to_svg(spec(drawing))
    marks = re.findall(r"<path[^>]*words: client a, round[^>]*>", svg)
    looks = [re.findall(r'(fill|stroke)="([^"]*)"', mark) for mark in marks]
    assert looks == [[("fill", "var(--s3)")], [("stroke", "var(--ink)")]]


def test_phases_are_stretches_of_each_client() -> None:
    drawing = timeline(_usual(), [])
    assert drawing is not None

    def stretches(rows: Any) -> list[tuple[str, float, float]]:
        return [(row["phase"][:7], row["start"], row["end"]) for row in rows]

    # In rounds 2 and 4 (where b is in phase 1) the mean is neither 1 nor 3: 1.5 and 2.
    assert stretches(drawing.more["mean_phases"]) == [
        ("phase 2", 1.5, 2.5),
        ("phase 3", 2.5, 3.5),
        ("phase 2", 3.5, 4.5),
    ]
    # Both lanes of a, and none of b, which never left the first.
    both = [("phase 2", 1.5, 2.5), ("phase 3", 2.5, 4.5)]
    assert stretches(drawing.more["phases"]) == both * 2
    assert {row["lane"][:8] for row in drawing.more["phases"]} == {"client a"}


def test_choices_of_one_round_stand_apart() -> None:
    made = [_EDGE | {"where": f"{i}-5"} for i in range(4)]
    run = _run(_row(2, "a", 2.0, *made))
    drawing = timeline(run, choices(run))
    assert drawing is not None
    # Three beside each other, 0.3 rounds apart, the fourth below the first.
    places = [(round(row["x"], 2), row["dy"]) for row in drawing.rows]
    assert places == [(1.7, -0.5), (2.0, -0.5), (2.3, -0.5), (1.7, 0.5)]


def test_the_losses_are_the_recorded_ones() -> None:
    drawing = timeline(_usual(), [])
    assert drawing is not None
    assert [(row["x"], row["y"]) for row in drawing.more["loss"]] == [
        *((1, 2.0), (2, 1.0), (3, 2 / 3), (4, 0.5))
    ]
    assert [(row["client"], row["x"]) for row in drawing.more["own"]] == [
        *(("a", 1), ("a", 2), ("b", 2), ("a", 3), ("a", 4), ("b", 4))
    ]


def test_long_federations_are_limited_and_counted() -> None:
    rows = [_row(n, str(c), 2.0, _EDGE | {"round": n}) for n in (1, 2) for c in range(150)]
    run = _run(*rows)
    drawing = timeline(run, choices(run))
    assert drawing is not None
    assert len(drawing.rows) == 40
    assert "Shown are the first 20 of 150 clients." in drawing.note
    table = choice_table(choices(run))
    assert table is not None
    assert len(table.rows) == 240
    assert "300\u00a0decisions. Shown are the first 240" in table.caption


def test_there_is_no_timeline_where_nobody_tells() -> None:
    run = _run({"round": 1, "client": "a", "phase": 1.0, "train_loss": 1.0})
    assert choices(run) == []
    assert timeline(run, []) is None
    assert choice_table([]) is None


@pytest.mark.parametrize(
    "made",
    ["text", [1], [{"kept": 3}], [{"kept": "x", "scores": [1], "removed": "y", "margin": "z"}]],
)
def test_what_cannot_be_read_is_forgiven(made: Any) -> None:
    run = _run(_row(1, "a", 2.0) | {"decisions": made})
    assert timeline(run, choices(run)) is not None
