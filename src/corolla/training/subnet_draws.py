"""Which subnets a batch trains under the sandwich rule, also where not all of them fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np

from corolla.errors import Fault, RefusedError
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet

Role = Literal["largest", "smallest", "random"]
Fits = Callable[[Architecture], bool]

_TRIES = 64  # uniform draws until one fits; afterwards the last one is made smaller
_STREAM = 3  # of a seed; 0 to 2 are `corolla.training.torch_settings`'s


class Draws(Protocol):
    """Says which subnets a batch trains: `SubnetDraws`, `corolla.training.path_draws`."""

    def batch(self, epoch: int, batch: int) -> list[tuple[Role, Architecture]]:
        """Return the subnets of a batch, both counted from 0, the one that others learn from first."""
        ...


def every(architecture: Architecture) -> bool:
    """Let every architecture fit."""
    return True


class SubnetDraws:
    """Draws the subnets of each batch, the largest first; a pure function of seed, epoch and batch.

    Largest, smallest and ``random_subnets`` uniform draws. Where the largest does not fit, one more is
    drawn, and the drawn one with the most multiply-accumulates takes the largest's part. Draws are
    uniform among what fits if one of 64 does; else the last of them is brought to its smallest choices,
    dimension by dimension in random order, until it fits. An architecture comes up once in a batch.

    Args:
        space: whose architectures.
        random_subnets: besides largest and smallest, 0 or more.
        seed: such as ``(run's seed, round, client_seed(client))``.
        fits: tells what may be trained; asked for the same architecture again and again.

    Raises:
        RefusedError: not even the smallest fits.

    """

    def __init__(
        self, space: Supernet, *, random_subnets: int, seed: Sequence[int], fits: Fits = every
    ) -> None:
        self._space, self._count, self._fits = space, random_subnets, fits
        self._seed = [int(part) for part in seed]
        self._largest, self._smallest = space.largest(), space.smallest()
        if not fits(self._smallest):
            choices = list(self._smallest.choices)
            remedy = "Raise the client's limit, or use a space with smaller architectures"
            problem = "even the smallest architecture is beyond the client's limits"
            raise RefusedError(Fault("smallest", choices, problem, remedy))
        self._largest_fits = fits(self._largest)

    def batch(self, epoch: int, batch: int) -> list[tuple[Role, Architecture]]:
        """Return the subnets of a batch, both counted from 0, in the order in which they train."""
        key = np.random.SeedSequence(self._seed, spawn_key=(_STREAM, epoch, batch))
        rng = np.random.default_rng(key)
        if self._largest_fits:
            teacher = self._largest
            drawn = [self._fitting(rng) for _ in range(self._count)]
        else:
            drawn = [self._fitting(rng) for _ in range(self._count + 1)]
            teacher = max(drawn, key=lambda architecture: self._space.costs(architecture).macs)
        roles: dict[Architecture, Role] = {teacher: "largest"}
        roles.setdefault(self._smallest, "smallest")
        for architecture in drawn:
            roles.setdefault(architecture, "random")
        return [(role, architecture) for architecture, role in roles.items()]

    def _fitting(self, rng: np.random.Generator) -> Architecture:
        for _ in range(_TRIES):
            drawn = self._space.sample(rng)
            if self._fits(drawn):
                return drawn
        choices = list(drawn.choices)
        for dimension in rng.permutation(len(choices)):
            choices[dimension] = self._smallest.choices[dimension]
            if self._fits(Architecture(tuple(choices))):
                break
        return Architecture(tuple(choices))
