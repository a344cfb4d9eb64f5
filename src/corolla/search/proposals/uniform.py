"""Uniform draws, round after round: single-path one-shot training, and its random search.

Li & Talwalkar, "Random Search and Reproducibility for Neural Architecture Search", UAI 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from corolla.search.evolution import Fits
from corolla.search.proposals.pairs import Pairs
from corolla.search.proposals.protocol import Observation, Proposals, SearchContext
from corolla.search.proposals.rejection_sampling import uniform_draws
from corolla.spaces.architecture import Architecture
from corolla.state import Keeps
from corolla.types import ClientId


class Uniform(Proposals):
    """Draws anew in every round; deploys what brought the client most."""

    keeps: ClassVar[Keeps] = {"_pairs": ""}

    def __init__(self, *, context: SearchContext) -> None:
        self._context = context
        self._pairs = Pairs(context.space)

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Draw uniformly until one fits."""
        return uniform_draws(self._context, rng, fits=fits)

    def observe(self, observations: Sequence[Observation]) -> None:
        """Remember the rewards."""
        self._pairs.add(observations)

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return the best mean reward of those that fit, its own or, without any, the others'.

        The smallest where none fits.
        """
        return self._pairs.best(client, fits=fits) or self._context.space.smallest()
