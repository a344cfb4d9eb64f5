"""Corolla's own method: one nested family of architectures, trained together, deployed with fitted heads.

PerFedNAS (`strategies.perfednas`) whose orders also say which architectures the others of the round train,
so that larger clients can teach smaller ones' slices (`clients.corolla`). What there is, and what each
part is worth: docs/corolla.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import ClassVar

from corolla.settings import Positive, settings
from corolla.types import ClientId
from strategies.exchange import Order
from strategies.metrics import GLOBAL_METRICS, Metrics
from strategies.new_clients import FrozenPerFedNAS
from strategies.perfednas import PerFedNAS, PerFedNASSettings


@settings
class CorollaSettings(PerFedNASSettings):
    """Settings of Corolla's own method; the client's are `clients.corolla.CorollaClientSettings`."""

    head_l2: Positive | None  # the client's


class Corolla(PerFedNAS):
    """State: PerFedNAS's."""

    clients_keep_models = True  # `deployed` gives the slice without the fitted head
    settings: CorollaSettings
    reply_metrics: ClassVar[Metrics] = GLOBAL_METRICS  # of the slice without the fitted head

    def loss_of_deployed(self) -> str | None:
        """Return the loss of the fitted head: it knows how frequent its client's classes are."""
        return None if self.settings.head_l2 is None else "cross_entropy"

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Return PerFedNAS's orders, each with the architectures of all."""
        orders = super().orders(server_round, cohort)
        slices = sorted({order.task.architecture.choices for order in orders})
        if len(slices) < 2:
            return orders
        told = {"slices": list(chain.from_iterable(slices))}
        return [
            replace(order, task=replace(order.task, extra={**order.task.extra, **told}))
            for order in orders
        ]


class FrozenCorolla(FrozenPerFedNAS, Corolla):
    """The family's member that fits a new client, with a head that is fitted to it."""
