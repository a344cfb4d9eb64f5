"""A search kept near the cap: every draw fits and costs enough, for any cap; what does already stays."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.search.costliest import costliest_fitting
from corolla.search.proposals.fixed import Costliest
from corolla.search.proposals.near_cap import NearCap, near_cap
from corolla.search.proposals.policy_gradient import PolicyGradient
from corolla.search.proposals.protocol import SearchContext
from corolla.search.proposals.uniform import Uniform
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.space import SearchSpace
from corolla.types import generator
from tests.conftest import make_space

SPACE = make_space("mobilenetv2_8")
LOW, HIGH = SPACE.macs(SPACE.smallest()), SPACE.macs(SPACE.largest())


@given(share=st.floats(0, 1), near=st.sampled_from([0.0, 0.5, 0.9]), seed=st.integers(0, 999))
@settings(max_examples=25)
def test_draws_fit_and_cost_nearly_the_most(share: float, near: float, seed: int) -> None:
    cap = LOW + share * (HIGH - LOW)

    def fits(architecture: Architecture) -> bool:
        return SPACE.known_macs(architecture) <= cap

    context = SearchContext(space=SPACE, seed=seed, max_draws=3)
    search = NearCap(share=near, search=Uniform(context=context), context=context)
    climb = costliest_fitting(SPACE, fits=fits, rng=generator(seed, 0xC0572))
    for found in (
        search.draws("0", np.random.default_rng(seed), fits=fits)[-1],
        search.chosen("0", fits=fits),
    ):
        assert fits(found)
        assert SPACE.known_macs(found) >= near * SPACE.known_macs(climb)
    assert search.chosen("0", fits=fits) == search.chosen("1", fits=fits)


def test_what_is_near_already_stays() -> None:
    space = SearchSpace(name="toy", dimensions=tuple(Dimension(n, (0, 1, 2)) for n in "ab"))
    rng = np.random.default_rng(0)
    start = Architecture((2, 1))

    def moved(cap: int, least: float) -> Architecture | None:
        return near_cap(
            space, start, fits=lambda one: sum(one.choices) <= cap, least=least, rng=rng
        )

    cost = space.cost(start)
    assert moved(3, cost) == start
    larger, smaller = moved(4, cost + 1), moved(1, 0)
    assert larger is not None
    assert smaller is not None
    assert larger.choices == (2, 2)
    assert sum(smaller.choices) == 1
    assert moved(3, 10 * space.cost(space.largest())) is None


def test_it_learns_where_the_search_does() -> None:
    # What learns nothing chooses no architecture on validation images, which may then be trained on.
    context = SearchContext(space=SPACE, seed=0, max_draws=3)
    costliest = NearCap(share=0.9, search=Costliest(context=context), context=context)
    assert not costliest.learns
    learned = NearCap(share=0.9, search=PolicyGradient.__new__(PolicyGradient), context=context)
    assert learned.learns
