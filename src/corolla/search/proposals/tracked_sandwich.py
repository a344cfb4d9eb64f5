"""One subnet per client and round, the largest and the smallest among them: SuperFedNAS's tracked sandwich.

Khare et al., ECCV 2024, https://arxiv.org/abs/2301.10879: of a round's clients the one that had the largest
network least often gets it, another gets the smallest, the others draw. With a cache they draw from it:
DeepFedNAS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from corolla.search.costliest import costliest_fitting
from corolla.search.evolution import Fits
from corolla.search.pareto_cache import CacheSettings, ParetoCache
from corolla.search.proposals.protocol import Observation, Proposals, SearchContext
from corolla.search.proposals.rejection_sampling import uniform_draws
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.state import State
from corolla.types import ClientId, client_order, client_seed, generator

_CLIMB = 0x7A5D  # keeps these draws apart from others of the same seed and client


@settings
class SandwichProposalsSettings:
    """Settings of `TrackedSandwich`."""

    cache: CacheSettings | None  # what others draw from; None: the whole space


class TrackedSandwich(Proposals):
    """State: how often each client trained the largest architecture."""

    learns = False
    settings: SandwichProposalsSettings

    def __init__(self, *, settings: SandwichProposalsSettings, context: SearchContext) -> None:
        self._context, self._counts = context, dict[ClientId, int]()
        self._largest, self._smallest = context.space.largest(), context.space.smallest()
        self._cache: ParetoCache | None = None
        if settings.cache is not None:
            space = cast(Supernet, context.space)
            self._cache = ParetoCache(space, settings.cache, seed=context.seed)

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Draw as those do that get neither the largest nor the smallest."""
        if self._cache is None:
            return uniform_draws(self._context, rng, fits=fits)
        entries = self._cache.fitting(fits)
        return [entries[int(rng.integers(len(entries)))]]

    def draws_of_round(
        self,
        cohort: Sequence[ClientId],
        rngs: Mapping[ClientId, np.random.Generator],
        *,
        fits: Mapping[ClientId, Fits],
    ) -> dict[ClientId, list[Architecture]]:
        """Give out the largest and the smallest, and draw for the others. Where two are equal, by lot.

        Whom the largest does not fit is asked last for it, and gets the costliest that is found to fit.
        """
        lots = {client: rngs[client].random() for client in sorted(cohort, key=client_order)}

        def turn(client: ClientId) -> tuple[bool, int, float]:
            return not fits[client](self._largest), self._counts.get(client, 0), lots[client]

        order = sorted(lots, key=turn)
        given = dict.fromkeys(sorted(order[1:], key=lots.__getitem__)[:1], self._smallest)
        if order:
            given[order[0]] = self._costliest(order[0], fits[order[0]])
        return {
            client: [given[client]]
            if client in given
            else self.draws(client, rngs[client], fits=fits[client])
            for client in cohort
        }

    def observe(self, observations: Sequence[Observation]) -> None:
        """Count who trained the largest."""
        for seen in observations:
            if seen.architecture == self._largest:
                self._counts[seen.client] = self._counts.get(seen.client, 0) + 1

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return the fittest of the cache, or the costliest that is found, within the client's limits."""
        return self._costliest(client, fits) if self._cache is None else self._cache.best(fits)

    def _costliest(self, client: ClientId, fits: Fits) -> Architecture:
        if fits(self._largest):
            return self._largest
        own = generator(self._context.seed, client_seed(client), _CLIMB)
        return costliest_fitting(self._context.space, fits=fits, rng=own)

    def state(self) -> State:
        """Return the counts."""
        return State({}, {"largest": dict(sorted(self._counts.items()))})

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        self._counts = {client: int(n) for client, n in state.meta["largest"].items()}
