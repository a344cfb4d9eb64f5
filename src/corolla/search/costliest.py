"""The costliest architecture that fits: a control that uses a client's limits up and searches nothing."""

from __future__ import annotations

import numpy as np

from corolla.search.evolution import Fits, require_smallest
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace

_STARTS = 4  # times the smallest architecture is raised, each in another order of the dimensions
_REPAIRS = 16  # times the best is lowered in a few dimensions and raised again
_LOWERED = 3  # dimensions, at most


def costliest_fitting(space: SearchSpace, *, fits: Fits, rng: np.random.Generator) -> Architecture:
    """Return the architecture with most multiply-accumulates (`SearchSpace.cost`) that is found to fit.

    The largest where that fits. Else a local search: dimension by dimension, in random order, the highest
    choice that fits; then again from the best with a few dimensions lowered. What is returned cannot be made
    costlier in any one dimension; it need not be the costliest of all. A pure function of its arguments.

    Raises:
        RefusedError: not even the smallest architecture fits.

    """
    require_smallest(space, fits)
    if fits(space.largest()):
        return space.largest()

    def worth(architecture: Architecture) -> tuple[int, tuple[int, ...]]:
        return space.cost(architecture), architecture.choices

    best = max((_raised(space, space.smallest(), fits, rng) for _ in range(_STARTS)), key=worth)
    for _ in range(_REPAIRS):
        lower = _lowered(space, best, fits, rng)
        best = max(best, _raised(space, lower, fits, rng), key=worth)
    return best


def _raised(
    space: SearchSpace, start: Architecture, fits: Fits, rng: np.random.Generator
) -> Architecture:
    """Raise one dimension after the other to the costliest choice that fits, until none can be raised."""
    best, cost, idle = start, space.cost(start), 0
    order = rng.permutation(len(space.dimensions)).tolist()
    while idle < len(order):  # a dimension may fit only after another one has changed
        dimension = order[0]
        order = [*order[1:], dimension]
        idle += 1
        for index in range(len(space.dimensions[dimension]) - 1, -1, -1):
            tried = best.with_choice(dimension, index)
            if space.cost(tried) > cost and fits(tried):
                best, cost, idle = tried, space.cost(tried), 0
                break
    return best


def _lowered(
    space: SearchSpace, start: Architecture, fits: Fits, rng: np.random.Generator
) -> Architecture:
    """Return ``start`` with one to three dimensions redrawn, none of them higher, if that fits."""
    lowered = start
    for dimension in rng.permutation(len(space.dimensions))[: rng.integers(1, _LOWERED + 1)]:
        index = int(rng.integers(start.choices[dimension] + 1))
        lowered = lowered.with_choice(int(dimension), index)
    return lowered if fits(lowered) else start
