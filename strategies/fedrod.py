"""FedRoD: a generic model for all, and beside its head a personal one of every client's own.

Chen & Chao, ICLR 2022, https://arxiv.org/abs/2107.00778. The generic model is trained by balanced softmax
(``trainer.loss``, of conf/method_trainer/fedrod.yaml) and averaged as FedAvg's; personal heads stay with the
clients (`clients.fedrod`). Departure: personal heads are linear, the first of the paper's two kinds; the
hypernetwork that makes them from a client's class frequencies is not offered.
"""

from __future__ import annotations

from typing import ClassVar

from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from strategies.fedavg import FedAvg, FedAvgSettings
from strategies.metrics import GLOBAL_METRICS, Metrics


class FedRoD(FedAvg):
    """FedAvg of generic models; the personalised model's logits are the sum of both heads'."""

    has_global = False  # clients report the generic model's scores apart from their own's
    clients_keep_models = True
    reply_metrics: ClassVar[Metrics] = GLOBAL_METRICS

    def __init__(self, *, federation: Federation, settings: FedAvgSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        if self._private_names & set(self.space.parts["head"]):
            problem = (
                "FedRoD: its generic head would never be averaged; its personal one is another"
            )
            remedy = "Leave head out, or use method=fedper"
            raise RefusedError(Fault("private", list(federation.private), problem, remedy))

    def loss_of_deployed(self) -> str | None:
        """Return the loss of the sum: the personal head knows how frequent its client's classes are."""
        return "cross_entropy"
