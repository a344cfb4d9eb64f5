"""Per-FedAvg: one model from which a step of every client's own gradient leads to a good one.

Fallah et al., NeurIPS 2020, https://arxiv.org/abs/2002.07948. The server's side is FedAvg's, with the
uniform mean by default; training and adaptation are the client's (`clients.per_fedavg`).
"""

from __future__ import annotations

from typing import ClassVar

from strategies.fedavg import FedAvg
from strategies.metrics import Metrics, prefixed
from strategies.new_clients import FrozenFedAvg


class PerFedAvg(FedAvg):
    """FedAvg of meta-trained models; the personalised model is the adapted one."""

    reply_metrics: ClassVar[Metrics] = prefixed("global_")


class FrozenPerFedAvg(PerFedAvg, FrozenFedAvg):
    """The finished model for clients that were not in its training: they adapt it to their images."""
