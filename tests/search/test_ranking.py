"""What is picked of variants that differ, that differ by less than chance, and that do not differ."""

from __future__ import annotations

import math
from typing import Any

import pytest

from corolla.search.ranking import Ranking
from corolla.training.variants import VariantScore
from tests.search.judges import scored

# Against B: A harms by 0 and 2, so by 1 +- sqrt(2)/sqrt(2) = 1; C by 3 and 5, so by 4 +- 1.
LOSSES = {"a": [1.0, 3.0], "b": [1.0, 1.0], "c": [4.0, 6.0]}
COSTS = {"a": 30, "b": 20, "c": 10}
LOTS = {"a": 0, "b": 1, "c": 2}


def scores(**losses: list[float]) -> dict[str, VariantScore]:
    return {name: scored([0.5, 0.5], each) for name, each in losses.items()}


def pick(ranking: Ranking, items: str, hurts: Any, **changes: Any) -> tuple[str, str, float, float]:
    given: dict[str, Any] = {"scores": scores(**LOSSES), "costs": COSTS, "lots": LOTS, **changes}
    found = ranking.pick(list(items), hurts=hurts, **given)
    return found.picked, found.by, found.margin, found.error


@pytest.mark.parametrize(
    ("near_ties", "items", "hurts", "expected"),
    [
        (0.0, "ab", "most", ("a", "loss", 1.0, 1.0)),
        (0.9, "ab", "most", ("a", "loss", 1.0, 1.0)),
        (1.0, "ab", "most", ("b", "cost", -1.0, 1.0)),  # a near tie: the cheaper stays
        (1.0, "abc", "most", ("c", "loss", 3.0, 0.0)),  # c is 3 +- 0 before a
        (0.0, "ab", "least", ("b", "loss", 1.0, 1.0)),
        (1.0, "ab", "least", ("a", "cost", -1.0, 1.0)),  # the costlier goes
        (1.0, "bc", "least", ("b", "loss", 4.0, 1.0)),
        (1.0, "b", "most", ("b", "only", 0.0, 0.0)),
    ],
)
def test_near_ties_go_by_cost(
    near_ties: float, items: str, hurts: str, expected: tuple[str, str, float, float]
) -> None:
    assert pick(Ranking(rank="loss", near_ties=near_ties), items, hurts) == pytest.approx(expected)
    assert pick(Ranking(rank="loss", near_ties=near_ties), items[::-1], hurts) == pytest.approx(
        expected
    )


def test_of_equals_of_one_cost_the_lot_decides() -> None:
    same: dict[str, Any] = {"scores": scores(a=[1.0], b=[1.0]), "costs": {"a": 1, "b": 1}}
    for lots, expected in (({"a": 1, "b": 0}, "a"), ({"a": 0, "b": 1}, "b")):
        for near_ties in (0.0, 1.0):
            found = pick(Ranking(rank="loss", near_ties=near_ties), "ab", "most", **same, lots=lots)
            assert found[:3] == (expected, "lot", 0.0)


def test_by_accuracy_images_told_right_are_compared_one_by_one() -> None:
    # Three images are told right without b alone: 0.3 +- sqrt(0.3 * 0.7 / 9) = 0.153.
    right = {"a": [0.0] * 10, "b": [1.0] * 3 + [0.0] * 7}
    given = {name: scored(each, [1.0] * 10) for name, each in right.items()}
    error = math.sqrt(0.3 * 0.7 / 9)
    found = pick(Ranking(rank="accuracy", near_ties=1.9), "ab", "most", scores=given)
    assert found == pytest.approx(("a", "accuracy", 0.3, error))
    found = pick(Ranking(rank="accuracy", near_ties=2.0), "ab", "most", scores=given)
    assert found == pytest.approx(("b", "cost", -0.3, error))


def test_a_network_that_gives_no_numbers_without_it_keeps_it() -> None:
    broken = scores(a=[1.0, 2.0], b=[math.nan, 1.0])
    for near_ties in (0.0, 1.0):
        assert pick(Ranking(rank="loss", near_ties=near_ties), "ab", "most", scores=broken)[:2] == (
            "b",
            "loss",
        )
        assert pick(Ranking(rank="loss", near_ties=near_ties), "ab", "least", scores=broken)[
            :2
        ] == ("a", "loss")
    both = scores(a=[math.nan] * 2, b=[math.inf] * 2)
    assert pick(Ranking(rank="loss", near_ties=1.0), "ab", "most", scores=both) == (
        "b",
        "cost",
        0.0,
        0.0,
    )
