"""Random architectures of a given cost: for controls by lot, and to tell architecture from size."""

from __future__ import annotations

import math

import numpy as np

from corolla.search.evolution import Fits
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace

_STEPS = 2000  # changes of one dimension that are tried
_PATIENCE = 100  # of them without one that is nearer, before another start


def draw_of_cost(
    space: SearchSpace, cost: float, *, fits: Fits, rng: np.random.Generator, tolerance: float
) -> Architecture:
    """Return a random architecture whose `SearchSpace.cost` is within ``tolerance`` (a share) of ``cost``.

    From a uniform draw, dimensions are redrawn one at a time and kept where that leads no further away. The
    nearest that was seen and fits where none is near enough; the smallest where none fits.
    """

    def distance(architecture: Architecture) -> float:
        return abs(space.cost(architecture) / cost - 1)

    best, nearest = space.smallest(), math.inf
    current, away, idle = space.sample(rng), math.inf, 0
    for _ in range(_STEPS):
        if away == math.inf:
            away = distance(current)
        if away < nearest and fits(current):
            best, nearest = current, away
            if nearest <= tolerance:
                break
        if idle > _PATIENCE:
            current, away, idle = space.sample(rng), math.inf, 0
            continue
        dimension = int(rng.integers(len(space.dimensions)))
        index = int(rng.integers(len(space.dimensions[dimension])))
        tried = current.with_choice(dimension, index)
        reached = distance(tried)
        idle += 1
        if reached <= max(away, tolerance) and tried != current and space.is_live(tried):
            if reached < away:
                idle = 0
            current, away = tried, reached
    return best
