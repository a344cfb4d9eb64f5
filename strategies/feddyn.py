"""FedDyn: FedAvg whose clients are regularised by how far they went before, and a server that knows it.

Acar et al., ICLR 2021, https://arxiv.org/abs/2111.04263, algorithm 1. S: the clients that answered, of K:

    h <- h - alpha / K * sum of (theta_k - w) over S        w <- mean of theta_k over S - h / alpha

Kept is -h / alpha, the mean of all clients' q_k (`clients.feddyn`). BN statistics have no dual, they are
averaged. Departure: alpha = 0 is FedAvg. That is not the limit: h / alpha does not vanish with alpha, so for
a tiny one clients train as FedAvg's do, and the server adds all steps so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from clients.feddyn import MEAN_EXAMPLES, DynamicSettings, dual_names
from corolla.aggregation.coverage import coverage_average
from corolla.errors import refuse
from corolla.federation import Federation
from corolla.settings import settings
from corolla.state import Keeps, State
from corolla.tasks import Reply
from corolla.types import ClientId
from strategies.base import Deployment, Outcome
from strategies.exchange import Order
from strategies.fedavg import FedAvg, FedAvgSettings
from strategies.new_clients import FrozenFedAvg
from strategies.updates import updates_of

_MEAN = "mean/"  # of the mean model, in the state


@settings
class FedDynSettings(DynamicSettings, FedAvgSettings):
    """FedAvg's settings, the clients', and what is deployed."""

    deploys: Literal["server", "mean"]  # w | the mean of the models that came back last


class FedDyn(FedAvg):
    """FedAvg's server, with the mean dual of all clients beside the model."""

    keeps: ClassVar[Keeps] = {"_dual": "dual/", "_mean": _MEAN}
    settings: FedDynSettings
    refuses_private = (
        "its dual variables pull clients towards one model, all of which is shared",
        "Use private=[] or method=fedavg",
    )

    def __init__(self, *, federation: Federation, settings: FedDynSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        self._dual = {n: np.zeros_like(self._arrays[n]) for n in dual_names(self._arrays)}
        self._mean = self._arrays
        sizes = federation.examples.values()
        if settings.form == "authors" and sizes:
            # The smallest client's alpha is the largest.
            most = sum(sizes) / len(sizes) / min(sizes)
            refuse(settings.step_faults(federation.trainer, most=most))

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the model; in the authors' form also how many images a client has on average."""
        orders, sizes = super().orders(server_round, cohort), self.federation.examples.values()
        if self.settings.form == "common" or not sizes:
            return orders
        extra = {MEAN_EXAMPLES: sum(sizes) / len(sizes)}
        return [replace(order, task=replace(order.task, extra=extra)) for order in orders]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average what came back, and go on by the mean dual; clients that are absent keep theirs."""
        if not replies:
            return Outcome()
        before = self._arrays
        outcome = super().absorb(server_round, replies)
        self._mean = self._arrays
        if not self.settings.alpha:
            return outcome
        updates = updates_of(replies, self._regions, "uniform")
        uniform = coverage_average(before, updates, rule=self.federation.robust)
        share = len(replies) / max(self.federation.clients, len(replies))  # others may have joined
        self._dual = {
            name: (dual + share * (uniform[name] - before[name])).astype(dual.dtype, copy=False)
            for name, dual in self._dual.items()
        }
        self._arrays = {
            name: mean + self._dual[name] if name in self._dual else mean
            for name, mean in self._mean.items()
        }
        return outcome

    def deployed(self, client: ClientId) -> Deployment:
        """Return the server's model, or the mean that it came from."""
        own = self.settings.deploys == "server"
        return Deployment(self._architecture, self._arrays if own else self._mean)


class FrozenFedDyn(FrozenFedAvg):
    """What a finished FedDyn deploys, for clients that were not in its training."""

    settings: FedDynSettings

    def begin_from(self, state: State) -> None:
        """Take the finished run's model, or mean."""
        super().begin_from(state)
        if self.settings.deploys == "mean":
            self._arrays = state.part(_MEAN)
