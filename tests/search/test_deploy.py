"""Deployment: the most probable architecture that fits."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corolla.search.deploy import by_probability, most_probable

# By hand: 0.6 * 0.7 = 0.42, 0.6 * 0.3 = 0.18, 0.3 * 0.7 = 0.21, 0.3 * 0.3 = 0.09, 0.07, 0.03
POLICY = [np.array([0.3, 0.6, 0.1]), np.array([0.7, 0.3])]
ORDER = [(1, 0), (0, 0), (1, 1), (0, 1), (2, 0), (2, 1)]


def test_by_probability_falls() -> None:
    assert list(by_probability(POLICY)) == ORDER


def test_most_probable_takes_the_first_that_fits() -> None:
    assert most_probable(POLICY, lambda choices: True, smallest=(0, 0)) == (1, 0)
    assert most_probable(POLICY, lambda choices: choices[0] == 0, smallest=(0, 0)) == (0, 0)
    assert most_probable(POLICY, lambda choices: choices == (2, 1), smallest=(0, 0)) == (2, 1)


def test_ties_go_to_the_prior_then_to_the_smallest_then_to_the_lower_index() -> None:
    policy = [np.full(3, 1 / 3), np.full(2, 0.5), np.array([0.2, 0.4, 0.4])]
    prior = [np.array([0.3, 0.3, 0.4]), np.full(2, 0.5), np.array([0.5, 0.2, 0.3])]
    assert most_probable(policy, lambda choices: True, smallest=(1, 1, 0)) == (1, 1, 1)
    assert most_probable(policy, lambda choices: True, smallest=(1, 1, 0), prior=prior) == (2, 1, 2)


def test_most_probable_falls_back_to_the_smallest() -> None:
    assert most_probable(POLICY, lambda choices: False, smallest=(0, 0)) == (0, 0)
    assert most_probable(POLICY, lambda c: c == (2, 1), smallest=(0, 0), limit=3) == (0, 0)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 1000))
def test_by_probability_yields_every_architecture_once_in_order(
    sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    policy = [rng.dirichlet(np.ones(size)) for size in sizes]
    found = list(by_probability(policy))
    assert sorted(found) == sorted(itertools.product(*(range(size) for size in sizes)))
    joint = [float(np.prod([p[i] for p, i in zip(policy, c, strict=True)])) for c in found]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(joint))
