"""Per-FedAvg: one model from which a step of every client's own gradient leads to a good one.

Fallah et al., NeurIPS 2020, https://arxiv.org/abs/2002.07948. The server's side is FedAvg's, with the
uniform mean by default; training and adaptation are the client's (`clients.per_fedavg`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from corolla.federation import Federation
from corolla.training.meta import MetaSettings
from strategies.fedavg import FedAvg
from strategies.metrics import Metrics, prefixed
from strategies.new_clients import FrozenFedAvg


class PerFedAvg(FedAvg):
    """FedAvg of meta-trained models; the personalised model is the adapted one."""

    reply_metrics: ClassVar[Metrics] = prefixed("global_")

    def __init__(
        self,
        *,
        federation: Federation,
        architecture: str | Sequence[int],
        weights: Literal["uniform", "examples"],
        server_momentum: float,
        alpha: float,
        beta: float | None,
        variant: Literal["fo", "hf", "exact"],
        delta: float,
        adapt_epochs: int,
    ) -> None:
        # Built here only to refuse bad values before anything starts: clients get the same ones.
        MetaSettings(
            alpha=alpha, beta=beta, variant=variant, delta=delta, adapt_epochs=adapt_epochs
        )
        super().__init__(
            federation=federation,
            architecture=architecture,
            weights=weights,
            server_momentum=server_momentum,
        )


class FrozenPerFedAvg(PerFedAvg, FrozenFedAvg):
    """The finished model for clients that were not in its training: they adapt it to their images."""
