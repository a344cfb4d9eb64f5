"""Ditto: FedAvg's global model, and on every client a model of its own that is pulled towards it.

Li et al., ICML 2021, https://arxiv.org/abs/2012.04221. Both models step on the same batches, the pull is
towards the received weights, clients are drawn uniformly and averaged by images (FedAvg's settings). The
personalised model is the client's own and stays on its disk.
"""

from __future__ import annotations

from typing import ClassVar

from strategies.fedavg import FedAvg
from strategies.metrics import GLOBAL_METRICS, Metrics


class Ditto(FedAvg):
    """The server's part is FedAvg's; what differs happens in `clients.ditto`."""

    has_global = False  # clients report the global model's scores apart from their own's
    clients_keep_models = True
    reply_metrics: ClassVar[Metrics] = GLOBAL_METRICS
