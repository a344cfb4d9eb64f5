"""heteroFedAvg: models of different architectures trained together, as slices of one set of weights.

Stage 3 of HAPFNAS (Yang & Liu, Entropy 27(7) 759, 2025, section 4.3): each entry is averaged over the clients
that hold it, and each client receives its own slice of the averages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from corolla.aggregation.hetero import hetero_average
from corolla.aggregation.statistics import Statistics
from corolla.aggregation.updates import Weights
from corolla.federation import Federation
from corolla.settings import Decay, Positive, Share, settings
from corolla.spaces.architecture import Architecture
from corolla.tasks import Reply, Task
from corolla.training.settings import Loss
from corolla.types import Arrays, ClientId
from strategies.exchange import Order
from strategies.updates import updates_of


@settings
class RetrainingSettings:
    """How searched models are trained together."""

    lr: Positive | None  # of the clients in this stage; None: the trainer's
    loss: Loss | None  # likewise
    uncovered: Literal[
        "keep", "zero"
    ]  # entries that no client holds: their value (ours) | 0 (published)
    statistics: Statistics  # BN's running statistics: aggregate | keep (the supernet's)
    weights: Weights  # of clients
    server_momentum: Decay
    damping: Share = 0.0  # of entries that not everybody holds; runs of older releases do not say


def retraining_orders(
    federation: Federation,
    settings: RetrainingSettings,
    weights: Arrays,
    architectures: Mapping[ClientId, Architecture],
    *,
    server_round: int,
    first_round: int,
) -> list[Order]:
    """Return what each client trains: its architecture's slice of ``weights``.

    ``first_round``: how many rounds came before; the learning rate's schedule is over those after it.
    """
    space, trainer = federation.space, federation.trainer
    if settings.lr is not None:
        trainer = replace(trainer, lr=settings.lr, lr_min=min(trainer.lr_min, settings.lr))
    lr = trainer.learning_rate(server_round - first_round, federation.rounds - first_round)
    orders = []
    for client, architecture in architectures.items():
        arrays = space.cut(weights, architecture)
        task = Task(
            client=client,
            round=server_round,
            architecture=architecture,
            epochs=federation.local_epochs,
            lr=lr,
            extra={} if settings.loss is None else {"loss": settings.loss},
        )
        orders.append(Order.both_ways(task, arrays))
    return orders


def retraining_step(
    federation: Federation,
    settings: RetrainingSettings,
    weights: Arrays,
    velocity: Arrays,
    replies: Sequence[Reply],
) -> tuple[Arrays, Arrays]:
    """Return the next weights and velocity; without a reply, nothing changes."""
    if not replies:
        return weights, velocity
    space = federation.space
    updates = updates_of(replies, lambda task: space.regions(task.architecture), settings.weights)
    return hetero_average(
        weights,
        updates,
        velocity,
        momentum=settings.server_momentum,
        uncovered=settings.uncovered,
        statistics=settings.statistics,
        damping=settings.damping,
        rule=federation.robust,
    )
