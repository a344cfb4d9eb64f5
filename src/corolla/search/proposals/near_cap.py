"""Any search, kept near what its clients can run: draws are moved until they cost nearly the most that fits.

Larger networks are better almost always, so a search that draws all sizes spends its rewards on learning
just that. Near the cap only the shape is left to be found: where the width goes, which kernels. Ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from corolla.search.costliest import costliest_fitting
from corolla.search.evolution import Fits
from corolla.search.proposals.around import Around
from corolla.search.proposals.protocol import Proposals, SearchContext
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace
from corolla.types import ClientId, generator

_TRIES = 20  # times a draw is lowered and raised again before the costliest is taken
_LOWERED = 3  # dimensions by which it is lowered between them, at most
_CLIMB, _MOVE = 0xC0572, 0xC0573  # keep these draws apart from others of the same seed


class NearCap(Around):
    """Proposes and deploys what ``search`` does, moved to ``share`` of the costliest that fits, or more."""

    def __init__(self, *, share: float, search: Proposals, context: SearchContext) -> None:
        super().__init__(search)
        self._share, self._context = share, context

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Return the search's draws, the last of them moved."""
        *misfits, last = self._search.draws(client, rng, fits=fits)
        return [*misfits, self._moved(last, fits, rng)]

    def draws_of_round(
        self,
        cohort: Sequence[ClientId],
        rngs: Mapping[ClientId, np.random.Generator],
        *,
        fits: Mapping[ClientId, Fits],
    ) -> dict[ClientId, list[Architecture]]:
        """Return the search's draws of the round, the last of each moved."""
        drawn = self._search.draws_of_round(cohort, rngs, fits=fits)
        return {c: [*d[:-1], self._moved(d[-1], fits[c], rngs[c])] for c, d in drawn.items()}

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return what the search deploys, moved: the same for equal choices and limits."""
        rng = generator(self._context.seed, _MOVE)
        return self._moved(self._search.chosen(client, fits=fits), fits, rng)

    def chosen_for_all(self) -> Architecture | None:
        """Return None: each client's is moved to its own limits."""
        return None

    def _moved(self, start: Architecture, fits: Fits, rng: np.random.Generator) -> Architecture:
        space = self._context.space
        climb = generator(self._context.seed, _CLIMB)
        costliest = costliest_fitting(space, fits=fits, rng=climb)
        least = self._share * space.cost(costliest)
        return near_cap(space, start, fits=fits, least=least, rng=rng) or costliest


def near_cap(
    space: SearchSpace,
    start: Architecture,
    *,
    fits: Fits,
    least: float,
    rng: np.random.Generator,
) -> Architecture | None:
    """Return an architecture close to ``start`` that fits and costs at least ``least``; None: none was found.

    ``start`` itself where it does. Otherwise one random dimension after the other is lowered by a step until
    it fits, then raised by a step where that fits, until it costs enough; where no dimension can be raised
    any more, a few are lowered at random and it goes on.
    """
    tried = start
    for _ in range(_TRIES):
        tried = _raised(space, _lowered_to_fit(tried, fits, rng), fits, least, rng)
        if fits(tried) and space.cost(tried) >= least:
            return tried
        for dimension in rng.permutation(len(tried.choices))[: rng.integers(1, _LOWERED + 1)]:
            tried = _stepped(tried, int(dimension), -1) or tried
    return None


def _lowered_to_fit(
    architecture: Architecture, fits: Fits, rng: np.random.Generator
) -> Architecture:
    while not fits(architecture) and any(architecture.choices):
        high = [number for number, choice in enumerate(architecture.choices) if choice]
        architecture = _stepped(architecture, int(rng.choice(high)), -1) or architecture
    return architecture


def _raised(
    space: SearchSpace,
    architecture: Architecture,
    fits: Fits,
    least: float,
    rng: np.random.Generator,
) -> Architecture:
    """Raise random dimensions by a step each until the cost is enough or nothing can be raised."""
    while space.cost(architecture) < least:
        for dimension in rng.permutation(len(space.dimensions)):
            size = len(space.dimensions[int(dimension)])
            higher = _stepped(architecture, int(dimension), 1, size)
            if higher is not None and fits(higher):
                architecture = higher
                break
        else:
            break
    return architecture


def _stepped(
    architecture: Architecture, dimension: int, step: int, size: int | None = None
) -> Architecture | None:
    """Return it with one choice a step away; None where there is no such choice."""
    index = architecture.choices[dimension] + step
    if index < 0 or (size is not None and index >= size):
        return None
    return architecture.with_choice(dimension, index)
