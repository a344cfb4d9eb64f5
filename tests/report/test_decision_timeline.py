"""Decisions in words and on the timeline, by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from corolla.report.decision_timeline import timeline
from corolla.report.decisions import choice_table, choices, summed_up
from corolla.report.load import Run

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


def _titles(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag == "title"]


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


def test_marks_stand_at_their_rounds_with_a_tooltip_each() -> None:
    made = choices(_usual())
    drawing = timeline(_usual(), made)
    assert drawing is not None
    assert _titles(drawing.svg) == [choice.words for choice in made]
    # 4 rounds on 1200 - 156 - 12 = 1032 pixels, 258 each: rounds 2 and 3 at 1.5 and 2.5 times that.
    # Lanes begin 118 down; the normal cell's line is 10 below that, the reduction cell's 26.
    places = re.findall(r'class="mark" transform="translate\(([\d.]+) ([\d.]+)\)"', drawing.svg)
    assert places == [("543.0", "128"), ("801.0", "144")]
    assert 'fill="var(--s3)"' in drawing.svg.split('class="mark"')[1]  # skip_connect
    assert 'fill="var(--surface)" stroke="var(--ink)"' in drawing.svg.split('class="mark"')[2]
    words = [entry for _, entry in drawing.legend]
    assert words[:3] == ["edge keeps skip_connect", "node loses edges", "hollow: as good as equal"]


def test_phases_are_bands_of_each_client() -> None:
    drawing = timeline(_usual(), [])
    assert drawing is not None
    bands = re.findall(r'<rect x="([\d.]+)" y="(\d+)" width="([\d.]+)"[^>]*--(s\d)', drawing.svg)
    # Above, rounds 2 and 4 (where b is in phase 1) are neither all 1 nor all 3: means 1.5 and 2; then
    # the lane of a, and none of b.
    assert bands == [
        ("414.0", "4", "258.0", "s5"),
        ("672.0", "4", "258.0", "s3"),
        ("930.0", "4", "258.0", "s5"),
        ("414.0", "118", "258.0", "s5"),
        ("672.0", "118", "516.0", "s3"),
    ]


def test_many_choices_of_one_round_become_a_bar() -> None:
    made = [
        _EDGE | {"where": f"{i}-5", "kept": "sep_conv_3x3" if i < 3 else "skip_connect"}
        for i in range(4)
    ]
    run = _run(_row(2, "a", 2.0, *made))
    drawing = timeline(run, choices(run))
    assert drawing is not None
    assert len(_titles(drawing.svg)) == 1
    # 14 pixels for four: three of one, one of the other.
    heights = re.findall(r'width="11" height="([\d.]+)" fill="var\(--(s\d)\)"', drawing.svg)
    assert heights == [("10.5", "s1"), ("3.5", "s3")]


def test_long_federations_are_limited_and_counted() -> None:
    rows = [_row(n, str(c), 2.0, _EDGE | {"round": n}) for n in (1, 2) for c in range(150)]
    run = _run(*rows)
    drawing = timeline(run, choices(run))
    assert drawing is not None
    assert len(_titles(drawing.svg)) == 40
    assert "Shown are the first 20 of 150 clients." in drawing.caption
    table = choice_table(choices(run))
    assert table is not None
    assert len(table.rows) == 240
    assert "300\u00a0decisions. Shown are the first 240" in table.caption


def test_a_thousand_rounds_stay_light() -> None:
    run = _run(*[_row(n, str(c), 3.0) for n in range(1, 1001) for c in range(8)])
    drawing = timeline(run, [])
    assert drawing is not None
    (curve,) = re.findall(r'd="M([^"]*)" fill="none" stroke="var\(--s1\)"', drawing.svg)
    assert len(curve.split()) == 2 * 500  # each the mean of two rounds
    # By hand: rounds 1 and 2, 2.0 and 1.0; drawn at the second, 1.5 / 1000 of 1032 from 156.
    assert curve.startswith("157.5 ")


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
