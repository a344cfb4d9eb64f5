"""FIARSE: every client trains the weights of one network that are largest, as many as it can hold.

Wu, Wang, Wang, Liu, Su & Gao, "FIARSE: Model-Heterogeneous Federated Learning via Importance-Aware Submodel
Extraction", NeurIPS 2024; its public code, https://github.com/HarliWu/FIARSE, was read. The server averages
every weight over the clients that held it. Departures (docs/baselines.md): who held a weight is known from
what was sent, not from whose weight moved; a client of size 1 has no threshold and is FedAvg's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np

from clients.fiarse import KEPT, SIZE, VALUES, ThresholdSettings
from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.magnitude import Kept, Layout, Vector, count_of, masked_mean, packed
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Weights, update_weight
from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.settings import settings
from corolla.state import Keeps
from corolla.tasks import Reply
from corolla.types import Arrays, ClientId, client_order, client_seed, shapes_of
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.metrics import GLOBAL_METRICS, Metrics
from strategies.updates import updates_of


@settings
class FIARSESettings(ThresholdSettings):
    """FIARSE's settings."""

    architecture: (
        str | Sequence[int]
    )  # of the network: largest | smallest | middle | choice indices
    sizes: Sequence[float]  # shares of the weights, in (0, 1]; also several times
    # fixed: dealt out to clients 0, 1, ... in turn; dynamic: by lot, per round and client; limits: the
    # largest whose share of the network's multiply-accumulates is within the client's cap, or the smallest
    assignment: Literal["fixed", "dynamic", "limits"]
    weights: Weights  # of clients

    def __post_init__(self) -> None:
        """Refuse invalid sizes."""
        wrong = [size for size in self.sizes if not 0 < size <= 1]
        if wrong or not self.sizes:
            problem = "are not shares of the weights, above 0 and at most 1"
            remedy = "Use sizes=[1.0,0.25,0.0625,0.015625]"
            raise RefusedError(Fault("sizes", list(self.sizes), problem, remedy))


class FIARSE(CorollaStrategy):
    """State: the whole network, and the last round that trained it."""

    settings: FIARSESettings
    clients_keep_models = True  # `deployed` gives the network that they cut their submodels from
    refuses_private = (
        "its submodels are weights from all over the network",
        "Use private=[], or method=heterofl",
    )
    keeps: ClassVar[Keeps] = {"_arrays": "model/", "_round": "round"}
    reply_metrics: ClassVar[Metrics] = GLOBAL_METRICS

    def __init__(self, *, federation: Federation, settings: FIARSESettings) -> None:
        super().__init__(federation=federation, settings=settings)
        self._architecture = self.space.named(settings.architecture)
        self._layout = Layout(self.space, self._architecture)
        self._arrays = self.space.cut(self.space.initial_state(federation.seed), self._architecture)
        self._macs = self.space.costs(self._architecture).macs
        self._round = 0

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send each the weights of its size; clients of one size get the same."""
        sent: dict[float, Arrays] = {}
        orders = []
        for client in cohort:
            size = self._size(server_round, client)
            if size not in sent:
                sent[size] = self._part(size)
            arrays = sent[size]
            returns = shapes_of(arrays)
            returns.pop(KEPT, None)
            task = self.task(server_round, client, self._architecture, extra={SIZE: size})
            orders.append(Order(task=task, arrays=arrays, returns=returns))
        return orders

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average every weight over those who held it."""
        if not replies:
            return Outcome()
        sizes = {reply.client: self._size(server_round, reply.client) for reply in replies}
        whole = min(sizes.values()) == 1
        names = list(self._arrays) if whole else self._layout.rest
        old = {name: self._arrays[name] for name in names}
        alike = [
            replace(reply, arrays={name: reply.arrays[name] for name in names}) for reply in replies
        ]
        regions = leading_regions(shapes_of(old))
        averaged = coverage_average(old, updates_of(alike, regions, self.settings.weights))
        if not whole:
            averaged |= self._layout.arrays(self._masked_mean(sizes, replies))
        self._arrays = {name: averaged[name] for name in self._arrays}
        self._round = server_round
        columns: dict[ClientId, dict[str, Any]] = {c: {SIZE: size} for c, size in sizes.items()}
        return Outcome({"size_mean": float(np.mean(list(sizes.values())))}, columns)

    def deployed(self, client: ClientId) -> Deployment:
        """Return the network, and the client's size in the last round that trained."""
        extra = {SIZE: self._size(self._round, client)}
        return Deployment(self._architecture, self._arrays, extra=extra)

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Return the size, and the parameters that the submodel has, those of normalisation included."""
        size, whole = self._size(self._round, client), sum(a.size for a in self._arrays.values())
        dropped = self._layout.size - sum(
            count_of(group.stop - group.start, size)
            for group in self._layout.groups(self.settings.threshold)
        )
        entry = {SIZE: size, "submodel_entries": whole - dropped}
        if self.settings.assignment == "limits":  # as on a device that leaves zeros out
            macs = size * self._macs
            entry |= {"macs": round(macs), "within_limits": macs <= self._cap(client)}
        return super().describe(client) | entry

    def _size(self, server_round: int, client: ClientId) -> float:
        sizes = self.settings.sizes
        if self.settings.assignment == "fixed":
            return float(sizes[client_seed(client) % len(sizes)])
        if self.settings.assignment == "limits":
            fitting = [size for size in sizes if size * self._macs <= self._cap(client)]
            return float(max(fitting, default=min(sizes)))
        return float(self.rng(server_round, client_seed(client)).choice(sizes))

    def _cap(self, client: ClientId) -> float:
        cap = self.federation.limits(client).macs_cap
        return math.inf if cap is None else cap

    def _part(self, size: float) -> Arrays:
        """Return what travels: the network, or the kept weights, where they belong, and normalisation."""
        if size == 1:
            return self._arrays
        vector = self._layout.vector(self._arrays)
        kept = self._layout.kept(vector, size, self.settings.threshold)
        rest = {name: self._arrays[name] for name in self._layout.rest}
        return {KEPT: packed(kept), VALUES: vector[kept], **rest}

    def _masked_mean(self, sizes: dict[ClientId, float], replies: Sequence[Reply]) -> Vector:
        old, kept = self._layout.vector(self._arrays), {}
        for size in sizes.values():
            if size not in kept:
                kept[size] = self._layout.kept(old, size, self.settings.threshold)
        parts: list[tuple[float, ClientId, Kept, Vector]] = []
        for reply in replies:
            size = sizes[reply.client]
            values = self._layout.vector(reply.arrays) if size == 1 else reply.arrays[VALUES]
            weight = update_weight(self.settings.weights, reply.num_examples)
            parts.append((weight, reply.client, kept[size], values))
        parts.sort(key=lambda part: (-part[0], client_order(part[1])))
        return masked_mean(old, [(held, values, weight) for weight, _, held, values in parts])
