"""The costliest architecture that fits: against all there are, and at the limits' ends."""

from __future__ import annotations

import numpy as np
import pytest

from corolla.errors import RefusedError
from corolla.search.costliest import costliest_fitting
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.space import SearchSpace
from tests.conftest import make_space

SPACE = make_space("mobilenetv2_8")
LOW, HIGH = SPACE.macs(SPACE.smallest()), SPACE.macs(SPACE.largest())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_it_comes_close_to_the_costliest_of_all(share: float) -> None:
    cap = LOW + share * (HIGH - LOW)

    def fits(architecture: Architecture) -> bool:
        return SPACE.known_macs(architecture) <= cap

    every = [SPACE.known_macs(one) for one in SPACE.enumerate()]
    best = max(macs for macs in every if macs <= cap)
    for seed in range(3):
        found = costliest_fitting(SPACE, fits=fits, rng=np.random.default_rng(seed))
        assert fits(found)
        assert SPACE.known_macs(found) >= 0.95 * best
        # No single dimension can be raised any more.
        for dimension, index in enumerate(found.choices):
            for other in range(len(SPACE.dimensions[dimension])):
                choices = (*found.choices[:dimension], other, *found.choices[dimension + 1 :])
                tried = Architecture(choices)
                assert (
                    other <= index
                    or SPACE.known_macs(tried) <= SPACE.known_macs(found)
                    or (not fits(tried))
                )
        assert found == costliest_fitting(SPACE, fits=fits, rng=np.random.default_rng(seed))


def test_the_ends() -> None:
    rng = np.random.default_rng(0)
    assert costliest_fitting(SPACE, fits=lambda one: True, rng=rng) == SPACE.largest()
    only = SPACE.smallest()
    assert costliest_fitting(SPACE, fits=lambda one: one == only, rng=rng) == only
    with pytest.raises(RefusedError, match="the smallest architecture of space"):
        costliest_fitting(SPACE, fits=lambda one: False, rng=rng)


def test_a_space_without_networks_goes_by_the_order_of_its_choices() -> None:
    space = SearchSpace(name="toy", dimensions=tuple(Dimension(n, (0, 1, 2)) for n in "abc"))
    # By hand: at most 4 in sum, and never the last dimension at 2.
    found = costliest_fitting(
        space,
        fits=lambda one: sum(one.choices) <= 4 and one.choices[2] < 2,
        rng=np.random.default_rng(0),
    )
    assert sum(found.choices) == 4
