"""Evolutionary search on a random forest's predictions, round by round.

HAPFNAS: Yang & Liu, Entropy 2025, 27(7), 759, algorithm 2, as proposals: where the paper measures 256
subnets of a finished supernet and evolves once, a client's pairs here are what its rounds brought, and each
proposal is the best predicted of an evolution over the pairs so far. Ours: a share of random proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from corolla.search.evolution import EvolutionSettings, Fits, draw_accepted, evolve
from corolla.search.proposals.pairs import PairsSettings, Predict, RewardForest
from corolla.search.proposals.protocol import Observation, Proposals, SearchContext
from corolla.search.proposals.rejection_sampling import uniform_draws
from corolla.settings import CountOrNone, Share, settings
from corolla.spaces.architecture import Architecture
from corolla.state import Keeps
from corolla.types import ClientId


@settings
class EvolvedSettings(PairsSettings):
    """Settings of `Evolution`."""

    initial: (
        CountOrNone  # rounds of a client's own with random proposals, before its forest is asked
    )
    exploration: Share  # of random proposals afterwards
    evolution: EvolutionSettings


class Evolution(Proposals):
    """First random proposals, then the best predicted of what evolves from a client's own."""

    keeps: ClassVar[Keeps] = {"_forest": ""}
    settings: EvolvedSettings

    def __init__(self, *, settings: EvolvedSettings, context: SearchContext) -> None:
        self._settings = settings.evolution
        self._forest = RewardForest(context=context, settings=settings)
        self._context = context
        self._initial, self._exploration = settings.initial, settings.exploration

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Return the best predicted; random draws at first, and now and then."""
        explores = rng.random() < self._exploration
        predict = self._predictor(client)
        if predict is None or explores:
            return uniform_draws(self._context, rng, fits=fits)
        space, settings, known = self._context.space, self._settings, self._forest.known(client)
        fresh = max(0, settings.population - len(known))
        parents = [*known, *draw_accepted(space, fresh, accept=fits, rng=rng, known=known)]
        best = evolve(
            space,
            parents,
            lambda architectures: -predict(architectures),
            fits=fits,
            settings=settings,
            rng=rng,
        )
        return best[:1] or uniform_draws(self._context, rng, fits=fits)

    def observe(self, observations: Sequence[Observation]) -> None:
        """Remember the pairs."""
        self._forest.add(observations)

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return the best of those that were trained and fit, as the forest sees them.

        The forest evens out what a single round's reward says. Without one, the best mean reward counts, its
        own or, for a client without any, the others'; without any that fits, it is the smallest.
        """
        pairs = self._forest.pairs
        predict = self._forest.predictor(client)
        own = [a for a in pairs.rewards(client) if fits(a)]
        tried = own or [a for a in self._forest.known(client) if fits(a)]
        if predict is not None and tried:
            return tried[int(np.argmax(predict(tried)))]
        return pairs.best(client, fits=fits) or self._context.space.smallest()

    def columns(self, client: ClientId, architecture: Architecture) -> dict[str, float]:
        """Return the predicted reward, where there is a prediction."""
        predict = self._predictor(client)
        return {} if predict is None else {"predicted_reward": float(predict([architecture])[0])}

    def _predictor(self, client: ClientId) -> Predict | None:
        if self._forest.pairs.count(client) < self._initial:
            return None
        return self._forest.predictor(client, keep=True)
