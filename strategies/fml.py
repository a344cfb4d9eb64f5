"""FML: private models and one shared "meme" model learn from each other, client by client.

Shen et al., "Federated Mutual Learning", 2020, https://arxiv.org/abs/2006.16765. The server averages the
shared models; private ones, of any architecture, never leave. What clients do is in `clients.fml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from corolla.aggregation.updates import Weights
from corolla.federation import Federation
from corolla.settings import settings
from corolla.state import Keeps
from corolla.tasks import Reply
from corolla.types import ClientId
from strategies.base import Deployment, Outcome
from strategies.exchange import Order
from strategies.fedavg import FedAvg, FedAvgSettings
from strategies.metrics import GLOBAL_METRICS, Metrics
from strategies.private_architectures import PrivateArchitectures, PrivateArchitecturesSettings


@settings
class FMLSettings(PrivateArchitecturesSettings):
    """The server's settings of FML."""

    knowledge: str | Sequence[int]  # architecture of the shared network, the same for everybody
    weights: Weights  # of clients in the average


class FML(FedAvg):
    """FedAvg of the shared networks, beside clients' own models of architectures of their own."""

    settings: FMLSettings  # type: ignore[assignment]  # the average's are derived
    has_global = False  # clients report the shared network's scores apart from their own's
    clients_keep_models = True
    returns_models = False  # private models never leave the client
    keeps: ClassVar[Keeps] = {"_private": "architectures/"}
    reply_metrics: ClassVar[Metrics] = GLOBAL_METRICS

    def __init__(self, *, federation: Federation, settings: FMLSettings) -> None:
        self._private = PrivateArchitectures(
            federation,
            settings.architectures,
            candidates=settings.candidates,
            shared=federation.space.named(settings.knowledge, key="knowledge"),
        )
        average = FedAvgSettings(
            architecture=settings.knowledge, weights=settings.weights, server_momentum=0.0
        )
        super().__init__(federation=federation, settings=average)

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the shared network, and say which architecture the private model has."""
        return [
            Order.both_ways(
                self.task(server_round, client, self._private.of(self.federation, client)),
                self._arrays,
                of=self._architecture,
            )
            for client in cohort
        ]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average the shared networks."""
        self._private.settle(replies)
        return super().absorb(server_round, replies)

    def deployed(self, client: ClientId) -> Deployment:
        """Return the private model's architecture, and the shared network; weights are the client's."""
        own = self._private.of(self.federation, client)
        return Deployment(own, self._arrays, of=self._architecture)
