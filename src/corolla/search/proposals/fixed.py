"""No search: one architecture for all, a draw per client, or the costliest. The controls of a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corolla.search.costliest import costliest_fitting
from corolla.search.evolution import Fits
from corolla.search.proposals.protocol import SearchContext, Unlearning
from corolla.search.proposals.rejection_sampling import uniform_draws
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.types import ClientId, client_seed, generator

# Keep these draws apart from others of the same seed and client.
_DRAW, _CLIMB = 0xD3A11, 0xC0571


@settings
class FixedSettings:
    """Settings of `Fixed`."""

    architecture: str | Sequence[int]  # smallest | middle | largest | choice indices


class Fixed(Unlearning):
    """One architecture for everybody; the smallest for a client that it does not fit."""

    settings: FixedSettings

    def __init__(self, *, settings: FixedSettings, context: SearchContext) -> None:
        self._architecture = context.space.named(settings.architecture)
        self._smallest = context.space.smallest()

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Return it, and the smallest besides where it does not fit."""
        proposed = [self._architecture]
        return proposed if fits(self._architecture) else [*proposed, self._smallest]

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return what is trained."""
        return self._architecture if fits(self._architecture) else self._smallest


class Costliest(Unlearning):
    """The costliest architecture that fits the client, as `costliest_fitting` finds it."""

    def __init__(self, *, context: SearchContext) -> None:
        self._context = context

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return what is trained."""
        own = generator(self._context.seed, client_seed(client), _CLIMB)
        return costliest_fitting(self._context.space, fits=fits, rng=own)


class RandomOnce(Unlearning):
    """One uniform draw per client, kept for the whole run.

    Of the distribution that every search starts from: uniform over what fits, as long as ``max_draws`` find
    one.
    """

    def __init__(self, *, context: SearchContext) -> None:
        self._context = context

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Draw until one fits: the same in every round, so ``rng``, the round's, is not used."""
        own = generator(self._context.seed, client_seed(client), _DRAW)
        return uniform_draws(self._context, own, fits=fits)

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return what is trained."""
        return self.draws(client, generator(0), fits=fits)[-1]
