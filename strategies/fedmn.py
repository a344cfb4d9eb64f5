"""FedMN: a pool of modules, and a router that assembles a network for every client's data.

Wang et al., "Personalized Federated Learning via Heterogeneous Modular Networks", 2022,
https://arxiv.org/abs/2210.14830. The server has a network some of whose layers have several
alternatives, and a small routing network; both travel. A client's router chooses modules by a summary of its
images and labels; what it trained comes back. Every array is averaged over the clients that sent it; a module
that nobody had on keeps its weights.

Departures: docs/baselines.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from clients.fedmn import ROUTER, TEMPERATURE
from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Update, Weights, update_weight
from corolla.federation import Federation
from corolla.settings import Positive, Share, settings
from corolla.spaces.modular import require_modular
from corolla.spaces.supernet import to_arrays
from corolla.state import Keeps
from corolla.tasks import Reply
from corolla.training.routing import RouterSettings, router_of
from corolla.types import ClientId, shapes_of
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.metrics import CHOICES, Notes

_ROUTER_SEED = 0x20B7E5


@settings
class FedMNSettings(RouterSettings):
    """FedMN's settings."""

    weights: Weights  # of clients
    temperature: Positive  # T of the first round's draws
    temperature_end: Positive  # of the last with draws; between them by equal factors
    frozen_share: Share  # of the rounds, the last ones: nothing is drawn, the router does not learn


class FedMN(CorollaStrategy):
    """State: the network with all modules, and the router."""

    settings: FedMNSettings
    takes_robust = True
    clients_keep_models = True  # which modules are theirs, clients find out themselves
    returns_models = False
    refuses_private = (
        "the router travels with the network, and clients do not keep what others choose",
        "Use private=[]",
    )
    keeps: ClassVar[Keeps] = {"_arrays": "model/"}
    reply_notes: ClassVar[Notes] = {"own_architecture": CHOICES}

    def __init__(self, *, federation: Federation, settings: FedMNSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        space = self._modular = require_modular(federation.space, type(self).__name__)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(federation.seed ^ _ROUTER_SEED)
            router = to_arrays(router_of(space, settings.router_hidden))
        named = {ROUTER + name: array for name, array in router.items()}
        self._arrays = space.initial_state(federation.seed) | named
        self._drawing_rounds = round(federation.rounds * (1 - settings.frozen_share))

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody all modules and the router."""
        temperature = self._temperature(server_round)
        extra = {} if temperature is None else {TEMPERATURE: temperature}
        whole = self._modular.largest()
        return [
            Order.both_ways(
                self.task(server_round, client, whole, extra=extra),
                self._arrays,
                may_lack=self._in_pools(),
            )
            for client in cohort
        ]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average every array over those who sent it."""
        if not replies:
            return Outcome()
        space = self._modular
        updates, columns, on = [], {}, []
        shapes = shapes_of(self._arrays)
        for reply in replies:
            sent = {name: shapes[name] for name in reply.arrays}
            used = space.modules_in([name for name in sent if not name.startswith(ROUTER)])
            updates.append(
                Update(
                    arrays=reply.arrays,
                    regions=leading_regions(sent, shapes),
                    weight=update_weight(self.settings.weights, reply.num_examples),
                    client=reply.client,
                )
            )
            on.append(sum(len(numbers) for numbers in space.on(used)))
            columns[reply.client] = {"modules_trained": on[-1]}
        self._arrays = coverage_average(self._arrays, updates, rule=self.federation.robust)
        return Outcome({"modules_trained": float(np.mean(on))}, columns)

    def deployed(self, client: ClientId) -> Deployment:
        """Return all modules and the router, by which the client chooses."""
        return Deployment(self._modular.largest(), self._arrays)

    def _temperature(self, server_round: int) -> float | None:
        """Return T of the round's draws; None where nothing is drawn."""
        if server_round > self._drawing_rounds:
            return None
        first, last = self.settings.temperature, self.settings.temperature_end
        share = (server_round - 1) / max(self._drawing_rounds - 1, 1)
        return float(first * (last / first) ** share)

    def _in_pools(self) -> frozenset[str]:
        layers = tuple(f"{layer}.alternatives." for layer in self._modular.layers)
        return frozenset(name for name in self._arrays if name.startswith(layers))
