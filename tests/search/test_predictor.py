"""The forest on targets it must learn exactly, and rank correlations by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.errors import RefusedError
from corolla.search.measured import Measured, distinct, finite
from corolla.search.predictor import (
    ForestPredictor,
    ForestSettings,
    held_out_correlation,
    rank_correlation,
)
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.space import SearchSpace

SPACE = SearchSpace(name="toy", dimensions=tuple(Dimension(f"d{i}", (1, 2, 3)) for i in range(5)))
FEW = ForestSettings(trees=20)


def pairs(count: int, *, noise: float = 0.0, seed: int = 0) -> list[Measured]:
    """Return distinct architectures whose loss is a weighted sum of their choices."""
    rng = np.random.default_rng(seed)
    every = list(SPACE.enumerate())
    return [
        Measured(a, float(np.dot(a.choices, [16, 8, 4, 2, 1]) + rng.normal(0, noise)), 0.5)
        for a in (every[i] for i in rng.permutation(len(every))[:count])
    ]


def pair(choice: int, loss: float, accuracy: float = 0.5) -> Measured:
    return Measured(Architecture((choice, 0)), loss, accuracy)


def test_one_pair_per_architecture_and_it_is_the_best() -> None:
    several = [pair(1, 2.0), pair(0, math.nan), pair(1, 1.0, 0.1), pair(1, 1.0, 0.9), pair(2, 3.0)]
    for known in (several, several[::-1]):
        found = list(distinct(known).values())
        assert [p.architecture.choices[0] for p in found] == [0, 1, 2]
        assert found[1] == pair(1, 1.0, 0.9)
        assert finite(known) == [pair(1, 1.0, 0.9), pair(2, 3.0)]
    assert distinct([pair(0, math.nan), pair(0, 4.0)]) == {pair(0, 4.0).architecture: pair(0, 4.0)}


def test_a_loss_that_is_no_number_ranks_last() -> None:
    worst = sorted([pair(0, math.nan), pair(1, math.inf), pair(2, 1e9)], key=lambda p: p.rank)
    assert [p.architecture.choices[0] for p in worst] == [2, 0, 1]


def test_a_loss_that_one_dimension_decides_is_predicted_exactly() -> None:
    known = [Measured(a, float(a.choices[2]), 0.5) for a in SPACE.enumerate()]
    predictor = ForestPredictor(SPACE, FEW, seed=0)
    predictor.fit(known)
    some = [Architecture((2, 1, c, 0, 2)) for c in range(3)]
    np.testing.assert_allclose(predictor.predict(some), [0.0, 1.0, 2.0], atol=1e-12)
    assert predictor.predict([]).shape == (0,)


def test_depth_is_limited() -> None:
    """Depth 1: a tree has two leaves."""
    predictor = ForestPredictor(SPACE, ForestSettings(trees=1, max_depth=1), seed=0)
    predictor.fit(pairs(60))
    assert len(set(predictor.predict(list(SPACE.enumerate())))) == 2


def test_predictions_do_not_depend_on_order_repetition_or_diverged_pairs() -> None:
    known = pairs(40, noise=3.0)
    rest = [p.architecture for p in pairs(240)]
    unlucky = next(a for a in rest if a not in {p.architecture for p in known})
    worse = Measured(known[0].architecture, known[0].loss + 5, 0.5)
    variants = [known, known[::-1], [*known, known[3]], [Measured(unlucky, math.nan, 0.1), *known]]
    found = []
    for variant in [*variants, [worse, *known]]:
        predictor = ForestPredictor(SPACE, FEW, seed=7)
        predictor.fit(variant)
        found.append(predictor.predict(rest))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    predictor = ForestPredictor(SPACE, FEW, seed=8)
    predictor.fit(known)
    assert (predictor.predict(rest) != found[0]).any()


def test_too_few_pairs_are_refused() -> None:
    diverged = [Measured(p.architecture, math.nan, 0.1) for p in pairs(30)]
    with pytest.raises(RefusedError) as caught:
        ForestPredictor(SPACE, FEW, seed=0).fit([*diverged, *pairs(9)])
    assert str(caught.value) == (
        "measured architectures=9: the forest needs 10 with a finite loss. "
        "Measure more, or lower forest.min_pairs"
    )
    with pytest.raises(ValueError, match="not fitted: call fit first"):
        ForestPredictor(SPACE, FEW, seed=0).predict([SPACE.smallest()])


def test_rank_correlations_by_hand() -> None:
    """(1,2,3) to (1,3,2): 2 pairs agree, 1 does not; squared rank differences 0, 1, 1."""
    found = rank_correlation([1, 2, 3], [1, 3, 2])
    assert found is not None
    assert found.kendall == pytest.approx(1 / 3)
    assert found.spearman == pytest.approx(1 - 6 * 2 / (3 * 8))
    assert found.pairs == 3
    # A tie on one side: 2 pairs agree of sqrt((3 - 1) * 3); ranks 1.5, 1.5, 3 to 1, 2, 3.
    tied = rank_correlation([1, 1, 2], [1, 2, 3])
    assert tied is not None
    assert tied.kendall == pytest.approx(2 / math.sqrt(6))
    assert tied.spearman == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@given(st.permutations(range(6)))
def test_rank_correlations_of_an_order_with_itself_and_reversed(order: list[int]) -> None:
    same, back = rank_correlation(order, np.exp(order)), rank_correlation(order, -np.array(order))
    assert same is not None
    assert back is not None
    assert (same.kendall, same.spearman) == (pytest.approx(1), pytest.approx(1))
    assert (back.kendall, back.spearman) == (pytest.approx(-1), pytest.approx(-1))


def test_undefined_rank_correlations_are_none() -> None:
    assert rank_correlation([], []) is None
    assert rank_correlation([1.0], [2.0]) is None
    assert rank_correlation([1.0, 1.0, 1.0], [1, 2, 3]) is None
    assert rank_correlation([1, 2, 3], [0.5, 0.5, 0.5]) is None
    assert rank_correlation([1, 2, 3], [0.5, math.nan, math.inf]) is None
    left = rank_correlation([1, 2, 3, 4], [1, math.nan, 3, 4])
    assert left is not None
    assert left.pairs == 3
    with pytest.raises(ValueError, match="need two lists of one length"):
        rank_correlation([1, 2], [1, 2, 3])


def test_held_out_quality_is_high_for_what_can_be_learnt_and_none_for_noise() -> None:
    clear = held_out_correlation(SPACE, pairs(150), share=0.2, settings=FEW, seed=0)
    assert clear is not None
    assert clear.pairs == 30
    assert clear.kendall > 0.7
    rng = np.random.default_rng(0)
    noise = [Measured(a, float(rng.random()), 0.5) for a in SPACE.enumerate()]
    found = held_out_correlation(SPACE, noise, share=0.5, settings=FEW, seed=0)
    assert found is not None
    assert abs(found.kendall) < 0.25  # a forest that had seen them would be above 0.7
    again = held_out_correlation(SPACE, noise[::-1], share=0.5, settings=FEW, seed=0)
    assert again == found


def test_held_out_quality_needs_enough_of_both() -> None:
    def quality(count: int, share: float) -> int | None:
        found = held_out_correlation(SPACE, pairs(count), share=share, settings=FEW, seed=0)
        return None if found is None else found.pairs

    assert quality(40, 0.0) is None
    assert quality(40, 0.03) is None  # 1.2 pairs
    assert quality(12, 0.2) == 2
    assert quality(11, 0.2) is None  # 9 would be left
    assert quality(0, 0.5) is None
