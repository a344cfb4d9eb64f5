"""Ditto: FedAvg's global model, and on every client a model of its own that is pulled towards it.

Li et al., ICML 2021, https://arxiv.org/abs/2012.04221. Both models step on the same batches, the pull is
towards the received weights, clients are drawn uniformly and averaged by images (FedAvg's settings). The
personalised model is the client's own and stays on its disk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar, Literal

from corolla.errors import Fault, RefusedError, is_number
from corolla.federation import Federation
from strategies.fedavg import FedAvg
from strategies.metrics import GLOBAL_METRICS, Metrics

_LOG = logging.getLogger("corolla")


class Ditto(FedAvg):
    """The server's part is FedAvg's; what differs happens in `clients.ditto`."""

    has_global = False  # clients report the global model's scores apart from their own's
    clients_keep_models = True
    reply_metrics: ClassVar[Metrics] = GLOBAL_METRICS

    def __init__(
        self,
        *,
        federation: Federation,
        architecture: str | Sequence[int],
        weights: Literal["uniform", "examples"],
        server_momentum: float,
        lambda_local: float,
        local_lr_scale: float,
        global_optimizer: Literal["keep", "reset"],
    ) -> None:
        """Take FedAvg's settings, and those of the clients: only to refuse bad ones before the start."""
        faults = _faults(lambda_local, local_lr_scale, global_optimizer)
        if faults:
            raise RefusedError(faults)
        super().__init__(
            federation=federation,
            architecture=architecture,
            weights=weights,
            server_momentum=server_momentum,
        )


def _faults(lambda_local: float, local_lr_scale: float, global_optimizer: str) -> list[Fault]:
    faults = []
    if not is_number(lambda_local) or lambda_local < 0:
        remedy = "Use 0 or more, such as 0.01"
        faults.append(Fault("lambda_local", lambda_local, "is out of range", remedy))
    if not is_number(local_lr_scale) or local_lr_scale <= 0:
        remedy = "Use a number above 0; 1.0: both models take the same step"
        faults.append(Fault("local_lr_scale", local_lr_scale, "is out of range", remedy))
    if global_optimizer not in ("keep", "reset"):
        remedy = "Use keep or reset"
        faults.append(Fault("global_optimizer", global_optimizer, "is not known", remedy))
    return faults
