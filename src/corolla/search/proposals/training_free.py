"""A search without any training or image: the fittest architecture of a cache within a client's limits.

DeepFedNAS's search (2026, https://arxiv.org/abs/2601.15127), for any space with convolutions.
"""

from __future__ import annotations

from typing import cast

from corolla.search.evolution import Fits
from corolla.search.pareto_cache import CacheSettings, ParetoCache
from corolla.search.proposals.protocol import SearchContext, Unlearning
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.types import ClientId


@settings
class FittestSettings:
    """Settings of `Fittest`."""

    cache: CacheSettings


class Fittest(Unlearning):
    """Trains and deploys the fittest entry of the cache that fits the client."""

    settings: FittestSettings

    def __init__(self, *, settings: FittestSettings, context: SearchContext) -> None:
        self._cache = ParetoCache(cast(Supernet, context.space), settings.cache, seed=context.seed)

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return what is trained."""
        return self._cache.best(fits)
