from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.data.partition.apportion import fit_to_supply, largest_remainder


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_what_is_left_goes_to_the_largest_remainders() -> None:
    quotas = np.array([2.5, 1.7, 0.8, 0.0])
    unlimited = np.full(4, 5)
    # Whole parts 2, 1, 0, 0; of the two left one goes to 0.8, one to 1.7.
    assert largest_remainder(quotas, 5, unlimited, rng()).tolist() == [2, 2, 1, 0]


def test_capacity_passes_what_is_left_on() -> None:
    quotas = np.array([2.5, 1.7, 0.8, 0.0])
    # 0.8 and 1.7 cannot grow: the first gets one, and then misses less (-0.5) than the last (0).
    assert largest_remainder(quotas, 5, np.array([4, 1, 0, 0]), rng()).tolist() == [4, 1, 0, 0]
    assert largest_remainder(quotas, 5, np.array([3, 1, 0, 1]), rng()).tolist() == [3, 1, 0, 1]
    with pytest.raises(ValueError, match="cannot place 5 in places for 4"):
        largest_remainder(quotas, 5, np.array([3, 1, 0, 0]), rng())


def test_whole_quotas_are_met_exactly_in_spite_of_rounding() -> None:
    third = np.full(3, 3 * (0.1 + 0.2) / 0.9)  # 1.0000000000000002
    assert largest_remainder(third, 3, np.full(3, 9), rng()).tolist() == [1, 1, 1]
    below = np.full(10, np.nextafter(7.0, 0))
    assert largest_remainder(below, 70, np.full(10, 9), rng()).tolist() == [7] * 10


def test_enough_supply_gives_everyone_what_was_asked() -> None:
    shares = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
    given_ = fit_to_supply(shares, 8, np.array([4, 6, 6]), rng())
    assert given_.tolist() == [[4, 4, 0], [0, 2, 6]]


def test_a_label_that_runs_short_is_given_up_in_proportion() -> None:
    # Both ask 8 of label 0, which has 8: each gives up half, and takes it from its other label.
    shares = np.array([[0.8, 0.2, 0.0], [0.8, 0.0, 0.2]])
    given_ = fit_to_supply(shares, 10, np.array([8, 10, 10]), rng())
    assert given_.tolist() == [[4, 6, 0], [4, 0, 6]]


def test_too_small_a_supply_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of 5 from a supply of 9"):
        fit_to_supply(np.full((2, 3), 1 / 3), 5, np.array([3, 3, 3]), rng())


@settings(max_examples=60)
@given(
    supply=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    rows=st.integers(1, 6),
    fraction=st.floats(0.1, 1.0),
    alpha=st.sampled_from([0.01, 0.3, 10.0]),
    seed=st.integers(0, 1000),
)
def test_rows_are_exact_and_the_supply_is_kept(
    supply: list[int], rows: int, fraction: float, alpha: float, seed: int
) -> None:
    size = int(sum(supply) * fraction) // rows
    if size == 0:
        return
    draws = np.random.default_rng(seed)
    shares = draws.dirichlet(np.full(len(supply), alpha), size=rows)
    given_ = fit_to_supply(shares, size, np.array(supply), draws)
    assert given_.sum(1).tolist() == [size] * rows
    assert (given_.sum(0) <= supply).all()
    assert (given_ >= 0).all()
