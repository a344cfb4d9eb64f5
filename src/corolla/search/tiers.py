"""One architecture per tier of devices, searched in a trained supernet: FedorAS, SuperFedNAS, DeepFedNAS.

A tier is a range of multiply-accumulates: above the tier before, up to a bound. FedorAS divides what lies
below the costs of 95 % of random architectures evenly; bounds may also be given as shares of the largest.
Within a tier an evolution looks for the lowest loss on images, for the fitness that needs none, or for
nothing but cost or the lot.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from corolla.errors import Fault, RefusedError, below
from corolla.search.evolution import EvolutionSettings, Fits, Score, evolve, towards
from corolla.search.training_free import FitnessSettings, TrainingFree
from corolla.settings import Count, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet

_COSTS, _TIER = 0x7C057, 0x71E6  # keep these draws apart from others of the same seed
_DRAWS = 200  # architectures whose costs bound the tiers; tries to find one of a tier
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]


@settings
class TierSettings:
    """Which tiers there are, and how an architecture is found for each."""

    count: Count  # tiers of equal ranges, where ``shares`` is None
    quantile: Annotated[
        float, Field(gt=0, le=1)
    ]  # of random architectures' costs: the highest bound
    shares: Shares | None  # bounds, ascending, of the largest architecture's multiply-accumulates
    # What the best of a tier is best in: accuracy on the server's images, the training-free fitness, cost, or
    # the lot.
    by: Literal["validation", "fitness", "costliest", "random"]
    evolution: EvolutionSettings
    fitness: FitnessSettings = FitnessSettings()

    def __post_init__(self) -> None:
        if self.shares is not None and self.shares != sorted(set(self.shares)):
            problem, remedy = "do not ascend", f"Write {sorted(set(self.shares))}"
            raise RefusedError(Fault("shares", self.shares, problem, remedy))


class Tiers:
    """The tiers of a space.

    Raises:
        RefusedError: a tier in which no architecture was found.

    """

    def __init__(self, space: Supernet, settings: TierSettings, *, seed: int) -> None:
        self._space, self._settings, self._seed = space, settings, seed
        with below("tiers"):
            free = TrainingFree(space, settings.fitness) if settings.by == "fitness" else None
        self._free = free
        empty = [
            f"tier {tier} (more than {low:,.0f}, at most {high:,.0f})"
            for tier, (low, high) in enumerate(self.ranges, start=1)
            if not self._members(tier, 1)
        ]
        if empty:
            raise RefusedError(
                Fault(
                    "tiers.shares" if settings.shares else "tiers.count",
                    settings.shares or settings.count,
                    f"found no architecture for tiers of these multiply-accumulates: {'; '.join(empty)} "
                    f"(after {_DRAWS} draws from space {space.name!r}, each made costlier or cheaper)",
                    f"Use fewer tiers, or tiers between {space.cost(space.smallest()):,} and "
                    f"{space.cost(space.largest()):,}",
                )
            )

    @cached_property
    def ranges(self) -> list[tuple[float, float]]:
        """Lower (outside) and upper (inside) bound of each tier, in multiply-accumulates."""
        space, own = self._space, self._settings
        least = space.cost(space.smallest())
        if own.shares is not None:
            most = space.cost(space.largest())
            bounds = [least - 1.0, *(share * most for share in own.shares)]
        else:
            rng = np.random.default_rng([self._seed, _COSTS])
            costs = [space.cost(space.sample(rng)) for _ in range(_DRAWS)]
            top = max(float(np.quantile(costs, own.quantile)), least + 1.0)
            bounds = [float(bound) for bound in np.linspace(least, top, own.count + 1)]
            bounds[0] = least - 1.0
        return list(pairwise(bounds))

    def found(self, score: Score | None) -> list[Architecture]:
        """Return each tier's architecture, the cheapest tier first.

        Args:
            score: losses of architectures, where tiers are searched ``by: validation``.

        """
        return [self._best(tier, score) for tier in range(1, len(self.ranges) + 1)]

    def _best(self, tier: int, score: Score | None) -> Architecture:
        own, space = self._settings, self._space
        if own.by == "random":
            return self._members(tier, 1)[0]
        members = self._members(tier, max(2, own.evolution.population // 2))
        if own.by == "costliest":

            def losses(architectures: Sequence[Architecture]) -> np.ndarray:
                return np.array([-float(space.cost(one)) for one in architectures])

            score = losses
        elif self._free is not None:
            score = self._free.losses
        if score is None:
            raise ValueError("tiers that are searched by validation need a score")
        rng = np.random.default_rng([self._seed, tier, _TIER])
        (best, *_) = evolve(
            space, members, score, fits=self._inside(tier), settings=own.evolution, rng=rng
        )
        return best

    def _members(self, tier: int, count: int) -> list[Architecture]:
        """Return up to ``count`` of a tier: random architectures, made costlier or cheaper until inside."""
        space, (low, _), inside = self._space, self.ranges[tier - 1], self._inside(tier)
        rng = np.random.default_rng([self._seed, tier, _COSTS])
        found: list[Architecture] = []
        for _ in range(_DRAWS + count):
            drawn = space.sample(rng)
            end = space.largest() if space.cost(drawn) <= low else space.smallest()
            own = next((one for one in towards(drawn, end, rng) if inside(one)), None)
            if own is not None and space.is_live(own) and own not in found:
                found.append(own)
            if len(found) == count:
                break
        return found

    def _inside(self, tier: int) -> Fits:
        low, high = self.ranges[tier - 1]
        return lambda architecture: low < self._space.cost(architecture) <= high
