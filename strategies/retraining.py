"""heteroFedAvg: models of different architectures trained together, as slices of one set of weights.

Stage 3 of HAPFNAS (Yang & Liu, Entropy 27(7) 759, 2025, section 4.3): each entry is averaged over the clients
that hold it, and each client receives its own slice of the averages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from corolla.aggregation.damping import damping_faults
from corolla.aggregation.hetero import hetero_average
from corolla.aggregation.statistics import Statistics
from corolla.aggregation.updates import Weights, update_weight
from corolla.errors import Fault, RefusedError, nearest
from corolla.federation import Federation
from corolla.spaces.architecture import Architecture
from corolla.tasks import Reply, Task
from corolla.training.settings import LOSSES
from corolla.types import Arrays, ClientId
from strategies.exchange import Order
from strategies.updates import updates_of


@dataclass(frozen=True, kw_only=True)
class RetrainingSettings:
    """How searched models are trained together. RefusedError for values that are not known."""

    lr: float | None  # of the clients in this stage; None: the trainer's
    loss: str | None  # likewise: the trainer's, or one of `LOSSES`
    uncovered: Literal[
        "keep", "zero"
    ]  # entries that nobody holds: their value (ours) | 0 (published)
    statistics: Statistics  # BN's running statistics: aggregate | keep (the supernet's)
    weights: Weights  # examples | uniform
    server_momentum: float
    damping: float = 0.0  # of entries that not everybody holds; runs of older releases do not say

    def __post_init__(self) -> None:
        faults = []
        for key, known in (("uncovered", ("keep", "zero")), ("statistics", ("aggregate", "keep"))):
            value = getattr(self, key)
            if value not in known:
                faults.append(Fault(key, value, "is not known", nearest(str(value), known)))
        if self.loss is not None and self.loss not in LOSSES:
            remedy = f"{nearest(str(self.loss), LOSSES)}, or null for the trainer's"
            faults.append(Fault("loss", self.loss, "is not known", remedy))
        if self.lr is not None and not self.lr > 0:
            faults.append(Fault("lr", self.lr, "is out of range", "Use a number above 0, or null"))
        if not 0 <= self.server_momentum < 1:
            problem = "is outside [0, 1)"
            faults.append(Fault("server_momentum", self.server_momentum, problem, "Use 0 for none"))
        faults += damping_faults(self.damping, "retraining.damping")
        if faults:
            raise RefusedError(faults)
        update_weight(self.weights, 1)  # refuses an unknown one


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
        returns = {name: array.shape for name, array in arrays.items()}
        orders.append(Order(task=task, arrays=arrays, returns=returns))
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
    updates = updates_of(replies, federation.space.regions, settings.weights)
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
