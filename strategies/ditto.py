"""Ditto: FedAvg's global model, and on every client a model of its own that is pulled towards it.

Li et al., ICML 2021, https://arxiv.org/abs/2012.04221. Both models step on the same batches, the pull is
towards the received weights, clients are drawn uniformly and averaged by images (FedAvg's settings). The
personalised model is the client's own and stays on its disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from corolla.federation import Federation
from strategies.fedavg import FedAvg


class Ditto(FedAvg):
    """The server's part is FedAvg's; what differs happens in `clients.local_global`."""

    has_global = False  # clients report the global model's scores apart from their own's

    def __init__(
        self,
        *,
        federation: Federation,
        architecture: str | Sequence[int],
        weights: Literal["uniform", "examples"],
        server_momentum: float,
    ) -> None:
        super().__init__(
            federation=federation,
            architecture=architecture,
            weights=weights,
            server_momentum=server_momentum,
        )
        self.declares_fine_tuned = False
