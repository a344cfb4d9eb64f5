"""FedBABU: only the body is trained in the federation; personalisation fine-tunes it with its head.

Oh, Kim & Yun, ICLR 2022, https://arxiv.org/abs/2106.06042. The head is the common initial one: a private part
of the model (``private: [head]``) that clients never train, so that it need not travel. Bodies are FedAvg's
mean. What is personal is the client's (`clients.fedbabu`).
"""

from __future__ import annotations

from typing import ClassVar

from corolla.federation import Federation
from strategies.fedavg import FedAvgSettings
from strategies.fedrep import HeadsAtClients
from strategies.metrics import Metrics, prefixed
from strategies.new_clients import FrozenFedAvg


class FedBABU(HeadsAtClients):
    """FedAvg of bodies; the personalised model is the fine-tuned one, ``global`` the one before."""

    reply_metrics: ClassVar[Metrics] = prefixed("global_")

    def __init__(self, *, federation: Federation, settings: FedAvgSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        self.private_is_common = self._private_names <= {*self.space.parts["head"]}


class FrozenFedBABU(FedBABU, FrozenFedAvg):
    """The finished body for clients that were not in its training: they fine-tune it."""
