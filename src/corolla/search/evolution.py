"""Evolutionary search: mutants and crossovers of the best, under limits, each architecture once.

HAPFNAS: Yang & Liu, Entropy 2025, 27(7), 759, algorithm 2. Limits are a function that says whether an
architecture fits; what is minimised is a function too, so that it may be a predictor or a measurement.
Every loop is bounded: where no new architecture can be found, the search ends with what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from corolla.errors import Fault, RefusedError
from corolla.settings import Count, CountOrNone, Positive, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace

Fits = Callable[[Architecture], bool]
"""Tells whether an architecture is within a client's limits; the same answer every time."""

Score = Callable[[Sequence[Architecture]], NDArray[np.float64]]
"""Gives each architecture a number, lower is better; what is not finite is worst."""

_ENUMERATED = 20_000  # architectures: spaces up to this size are drawn from a list, without misses
_TRIES = 20  # draws per architecture wanted, before draws are repaired
_CHILD_TRIES = 50  # children made per child wanted
_STALE = 200  # repairs in a row that bring nothing new


@settings
class EvolutionSettings:
    """Sizes of algorithm 2."""

    population: Count = 256  # the best that survive a generation
    generations: CountOrNone = 20
    mutants: CountOrNone = 64  # new ones a generation, of parents drawn uniformly
    crossovers: CountOrNone = 64  # new ones a generation, each dimension from either of two parents
    mutation_probability: Annotated[Positive, Field(le=1)] = 0.2  # that a dimension is drawn again


def require_smallest(space: SearchSpace, fits: Fits) -> None:
    """Raise RefusedError where the limits are under the smallest architecture."""
    smallest = space.smallest()
    if not fits(smallest):
        raise RefusedError(
            Fault(
                "limits",
                smallest.to_list(),
                f"the smallest architecture of space {space.name!r} exceeds them",
                "Raise the client's cap and memory budget, or take a space with smaller choices",
            )
        )


def draw_fitting(
    space: SearchSpace,
    count: int,
    *,
    fits: Fits,
    rng: np.random.Generator,
    known: Collection[Architecture] = (),
) -> list[Architecture]:
    """Draw ``count`` distinct architectures that fit and are not ``known``; fewer where there are fewer.

    Draws are uniform over those that fit: small spaces are gone through in a random order, of others
    draws that do not fit are rejected. Where that takes more than 20 draws each (a tight limit in a large
    space), the rest are repaired: dimensions of a draw are lowered in a random order, a step at a time,
    until it fits. Repaired ones lie close under the limit, so there the draw is biased to the costly; it
    ends after 200 repairs without a new one, so it may miss some that fit.

    Raises:
        RefusedError: not even the smallest architecture fits.

    """
    require_smallest(space, fits)
    return draw_accepted(space, count, accept=fits, rng=rng, known=known)


def draw_accepted(
    space: SearchSpace,
    count: int,
    *,
    accept: Fits,
    rng: np.random.Generator,
    known: Collection[Architecture] = (),
) -> list[Architecture]:
    """Do as `draw_fitting`, where perhaps nothing is accepted.

    What is tried never depends on what was refused, so accepting exactly what an earlier draw
    returned (and more that it never tried, or tried and refused for being known) repeats that draw.
    """
    accept, taken = cache(accept), set(known)
    accepted: list[Architecture] = []

    def take(architecture: Architecture) -> bool:
        if architecture in taken or not space.is_live(architecture) or not accept(architecture):
            return False
        taken.add(architecture)
        accepted.append(architecture)
        return True

    if space.size <= _ENUMERATED:
        for architecture in _shuffled(space, rng):
            if len(accepted) >= count:
                break
            take(architecture)
        return accepted
    for _ in range(_TRIES * count):
        if len(accepted) >= count:
            return accepted
        take(space.sample(rng))
    stale = 0
    while len(accepted) < count and stale < _STALE:
        path = towards(space.sample(rng), space.smallest(), rng)
        stale = 0 if any(map(take, path)) else stale + 1
    return accepted


def _shuffled(space: SearchSpace, rng: np.random.Generator) -> Iterator[Architecture]:
    """Yield every architecture once, in a random order."""
    sizes = [len(dimension) for dimension in space.dimensions]
    where = np.unravel_index(rng.permutation(space.size), sizes)
    return map(Architecture.of, np.stack(where, axis=1).tolist())


def towards(
    architecture: Architecture, end: Architecture, rng: np.random.Generator
) -> Iterator[Architecture]:
    """Yield ``architecture``, then each a step nearer to ``end`` in one dimension, up to that one."""
    choices, goal = list(architecture.choices), end.choices
    apart = [abs(here - there) for here, there in zip(choices, goal, strict=True)]
    steps = rng.permutation(np.repeat(np.arange(len(choices)), apart)).tolist()
    yield architecture
    for dimension in steps:
        choices[dimension] += 1 if choices[dimension] < goal[dimension] else -1
        yield Architecture(tuple(choices))


def evolve(
    space: SearchSpace,
    parents: Sequence[Architecture],
    score: Score,
    *,
    fits: Fits,
    settings: EvolutionSettings,
    rng: np.random.Generator,
) -> list[Architecture]:
    """Return the best architectures found, lowest score first, at most ``settings.population``.

    Each generation draws mutants and crossovers of the current best that fit and were never seen
    before, scores them in one call, and keeps the best of all (of equals, those of lower choices).
    Parents that do not fit are left out; the result does not depend on the parents' order. A
    generation that finds nothing new is the last.
    """
    fits = cache(fits)
    seen = {parent for parent in parents if fits(parent)}
    alive = _best(_scored(sorted(seen), score), settings.population)

    def breed(count: int, make: Callable[[], Architecture]) -> list[Architecture]:
        children: list[Architecture] = []
        for _ in range(_CHILD_TRIES * count):
            if len(children) == count or len(seen) == space.size:
                break
            child = make()
            if child not in seen and fits(child):
                seen.add(child)
                children.append(child)
        return children

    for _ in range(settings.generations if alive else 0):
        pool = [architecture for architecture, _ in alive]

        def mutant(pool: Sequence[Architecture] = pool) -> Architecture:
            parent = pool[int(rng.integers(len(pool)))]
            return space.mutate(parent, rng, probability=settings.mutation_probability)

        def crossover(pool: Sequence[Architecture] = pool) -> Architecture:
            first, second = rng.integers(len(pool)), rng.integers(len(pool))
            return space.cross(pool[int(first)], pool[int(second)], rng)

        children = breed(settings.mutants, mutant)
        if len(pool) > 1:
            children += breed(settings.crossovers, crossover)
        if not children:
            break
        alive = _best(alive + _scored(children, score), settings.population)
    return [architecture for architecture, _ in alive]


_Scored = list[tuple[Architecture, float]]


def _scored(architectures: Sequence[Architecture], score: Score) -> _Scored:
    if not architectures:
        return []
    scores = np.asarray(score(architectures), dtype=np.float64)
    if scores.shape != (len(architectures),):
        raise ValueError(f"{len(architectures)} architectures got scores of shape {scores.shape}")
    worst = np.where(np.isfinite(scores), scores, np.inf)
    return list(zip(architectures, worst.tolist(), strict=True))


def _best(scored: _Scored, count: int) -> _Scored:
    return sorted(scored, key=lambda pair: (pair[1], pair[0].choices))[:count]
