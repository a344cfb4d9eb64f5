"""Stage 1 of HAPFNAS: clients train a knowledge model, the server distils their ensemble into a supernet.

Yang & Liu, Entropy 27(7) 759, 2025, Algorithm 1. Departures (docs/hapfnas.md): BN statistics of a client's
model are recomputed by the server, not by the client, which need not hold the server's images; all epochs
of a round see one augmented copy of them, so that the teacher's logits are computed once, client by client.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Weights
from corolla.federation import Federation
from corolla.settings import settings
from corolla.state import Keeps
from corolla.tasks import Reply
from corolla.types import Arrays, ClientId, shapes_of
from strategies.base import Deployment
from strategies.distiller import Distiller, DistillerSettings
from strategies.exchange import Order
from strategies.supernet_training import SupernetRounds, SupernetTraining
from strategies.updates import updates_of


@settings
class DistilledSettings(SupernetRounds, DistillerSettings):
    """Stage 1's settings; those of the server's training are the distiller's."""

    knowledge: (
        str | Sequence[int]
    )  # the clients' model: smallest | middle | largest | choice indices
    weights: Weights  # of clients, in the average and in the ensemble


class Distilled(SupernetTraining):
    """State: the knowledge model, and the optimiser that trains the supernet."""

    keeps: ClassVar[Keeps] = {"_arrays": "knowledge/", "_distiller": ""}
    settings: DistilledSettings

    def __init__(self, *, settings: DistilledSettings, federation: Federation) -> None:
        super().__init__(settings=settings, federation=federation)
        self._distiller = Distiller(
            settings=settings, federation=federation, rounds=settings.rounds
        )
        self._knowledge = self.space.named(settings.knowledge, key="knowledge")
        self._arrays = self.space.cut(self.space.initial_state(federation.seed), self._knowledge)
        self._regions = leading_regions(shapes_of(self._arrays))

    def orders(self, weights: Arrays, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the knowledge model."""
        return [
            Order.both_ways(self.task(server_round, client, self._knowledge), self._arrays)
            for client in cohort
        ]

    def absorb(
        self, weights: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> tuple[Arrays, dict[str, float]]:
        """Average the knowledge models; distil their ensemble into the supernet."""
        if not replies:
            return weights, {}
        updates = updates_of(replies, self._regions, self.settings.weights)
        started = time.perf_counter()
        own = {reply.client: self._knowledge for reply in replies}
        teacher = self._distiller.teacher(server_round, self._arrays, updates, own)
        if teacher is None:
            return weights, {}
        rule = self.federation.robust
        self._arrays = coverage_average(self._arrays, teacher.heard, rule=rule)
        weights, metrics = self._distiller.distilled(weights, server_round, teacher)
        seconds = {"distillation_s": time.perf_counter() - started} if metrics else {}
        return weights, {**metrics, **seconds}

    def deployed(self, weights: Arrays) -> Deployment:
        """Return the knowledge model: what clients train in this stage."""
        return Deployment(self._knowledge, self._arrays)
