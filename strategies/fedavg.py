"""FedAvg: one model of a fixed architecture, the weighted mean of its clients' models.

McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629. With fine-tuning (evaluation.fine_tune_epochs)
the personalised model is the global one trained on by the client, all layers, and thrown away after its
evaluation. Departure: means are running means (`corolla.aggregation.running_mean`), equal to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from corolla.aggregation.coverage import momentum_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Weights
from corolla.federation import Federation
from corolla.settings import Decay, settings
from corolla.state import Keeps
from corolla.tasks import Reply
from corolla.types import Arrays, ClientId, shapes_of
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.updates import updates_of


@settings
class FedAvgSettings:
    """FedAvg's settings."""

    architecture: str | Sequence[int]  # largest | smallest | middle | choice indices
    weights: Weights  # of clients in the average
    server_momentum: Decay  # 0: plain averaging


class FedAvg(CorollaStrategy):
    """Everybody trains the same architecture; the server holds its weights."""

    has_global = True
    takes_robust = True
    keeps: ClassVar[Keeps] = {"_arrays": "model/", "_velocity": "velocity/"}
    settings: FedAvgSettings

    def __init__(self, *, federation: Federation, settings: FedAvgSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        self._architecture = self.space.named(settings.architecture)
        whole = self.space.initial_state(federation.seed)
        self._arrays = self.space.cut(whole, self._architecture)
        self._regions = leading_regions(shapes_of(self._arrays))
        self._velocity: Arrays = {}

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the global model."""
        return [
            Order.both_ways(self.task(server_round, client, self._architecture), self._arrays)
            for client in cohort
        ]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average what came back."""
        updates = updates_of(replies, self._regions, self.settings.weights)
        self._arrays, self._velocity = momentum_average(
            self._arrays,
            updates,
            self._velocity,
            momentum=self.settings.server_momentum,
            rule=self.federation.robust,
        )
        return Outcome()

    def deployed(self, client: ClientId) -> Deployment:
        """Return the global model."""
        return Deployment(self._architecture, self._arrays)
