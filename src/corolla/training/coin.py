"""L2GD's clock: how far clients go alone, and how far they are then drawn to their mean; no Flower in it.

Hanzely & Richtarik, "Federated Learning of a Mixture of Global and Local Models", 2020,
https://arxiv.org/abs/2002.05516, algorithm 1. All clients see the same coin in every iteration: with
probability 1 - p each makes a local step x_k <- x_k - lr grad f_k(x_k), with p each goes
x_k <- x_k - beta (x_k - mean of all). The paper's lr is a / (K (1 - p)), and its beta, a lambda / (K p), is
lr lambda (1 - p) / p.

Clients talk only where a local step is followed by averaging; the mean does not move by averaging. So a round
is a run of local steps and the run of averagings behind it, whose lengths are geometric.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from corolla.data.images import Images
from corolla.settings import Share, settings
from corolla.types import generator

_COIN = 0xC017  # keeps the coin's draws apart from others of the same seed and round


@settings
class CoinSettings:
    """When clients step and when they average, and how far."""

    beta: Share  # of the way to the mean that one averaging goes; 0: Local, 1: FedAvg
    # a round's local steps: local_epochs, then one averaging | drawn
    schedule: Literal["epochs", "coin"]
    p: Annotated[float, Field(ge=0.001, lt=1)]  # coin: probability of averaging in an iteration
    # momenta outlive a round, although it moves weights | start at 0
    optimizer: Literal["keep", "reset"]


class Flips(NamedTuple):
    """A round: local steps, then averagings; ``steps`` is None where the round lasts its epochs."""

    steps: int | None
    averagings: int


def flips(settings: CoinSettings, seed: int, round: int) -> Flips:
    """Return what the common coin says of a round: the same for server and clients, who all know the seed."""
    if settings.schedule == "epochs":
        return Flips(None, 1)
    rng = generator(seed, round, _COIN)
    return Flips(int(rng.geometric(settings.p)), int(rng.geometric(1 - settings.p)))


def own_share(settings: CoinSettings, averagings: int) -> float:
    """Return what is left of x_k after so many steps towards a mean that stays where it is."""
    return float((1 - settings.beta) ** averagings)


def images_of_steps(
    images: Images, *, steps: int, batch_size: int, rng: np.random.Generator
) -> Images:
    """Return the images of so many full batches: all in turn, in an order drawn anew for each pass."""
    needed = steps * batch_size
    passes = -(-needed // len(images))
    order = np.concatenate([rng.permutation(len(images)) for _ in range(passes)])
    return images.select(order[:needed])
