"""kNN-Per: FedAvg's training; each client mixes the model with the neighbours among its own images.

Marfoq et al., ICML 2022, https://arxiv.org/abs/2111.09360. The server knows nothing of datastores and
lambdas: they are built and chosen by the client (`clients.knn_per`) whenever it is evaluated.
"""

from __future__ import annotations

from typing import ClassVar

from corolla.errors import refuse
from corolla.federation import Federation
from strategies.fedavg import FedAvg, FedAvgSettings
from strategies.metrics import SHARE, Metrics, prefixed
from strategies.new_clients import FrozenFedAvg
from strategies.search_faults import validation_faults


class KnnPer(FedAvg):
    """FedAvg whose personalised model is the mixture, not the fine-tuned model."""

    summary_metrics = ("knn_lambda",)
    reply_metrics: ClassVar[Metrics] = {
        **prefixed("global_"),
        "knn_lambda": SHARE,
        "fine_tuned_knn_lambda": SHARE,
    }

    def __init__(self, *, federation: Federation, settings: FedAvgSettings) -> None:
        problem = "validation images choose lambda and would be their own neighbours"
        refuse(validation_faults(federation, problem))
        super().__init__(federation=federation, settings=settings)


class FrozenKnnPer(KnnPer, FrozenFedAvg):
    """The finished model for clients that were not in its training: all they need is a datastore."""
