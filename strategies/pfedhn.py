"""pFedHN: the server keeps no model but a hypernetwork, which writes every client its own.

Shamsian, Navon, Fetaya & Chechik, ICML 2021, https://arxiv.org/abs/2103.04628. theta_k = h(z_k; psi) goes
down, theta~_k, trained from there, comes back; the step of (psi, z_k) is the vector-Jacobian product of h
with theta_k - theta~_k, the gradient of 1/2 ||h(z_k; psi) - theta~_k||^2. Personalised model: h(z_k; psi).

Departures: what h writes is added to the common initial weights (`corolla.training.hypernetwork`); several
clients train in a round; only a client's own steps move its z_k and decay it; BN statistics are averaged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from corolla.aggregation.regions import leading_regions
from corolla.aggregation.statistics import is_statistic
from corolla.aggregation.updates import Weights, update_weight
from corolla.federation import Federation
from corolla.settings import settings
from corolla.state import Keeps, State
from corolla.tasks import Reply
from corolla.training.hypernetwork import Hypernetwork, HypernetworkSettings, clipped, stepped
from corolla.types import Arrays, ClientId, client_order, client_seed, generator, shapes_of
from strategies.base import Deployment, Outcome
from strategies.exchange import Order
from strategies.fedavg import FedAvg

_LOG = logging.getLogger("corolla")
_LARGEST_DRAWN = 10.0  # of an embedding; no normal draw is further out
_EMBEDDING = 0xE3BED  # keeps the draws of embeddings apart from others of the same seed and client
_KEY = "method.hypernetwork"
_Z = "z"  # a client's embedding, beside the names of the hypernetwork's weights


@settings
class PFedHNSettings:
    """pFedHN's settings."""

    architecture: str | Sequence[int]  # largest | smallest | middle | choice indices
    # of clients in the mean of what is averaged, and with steps=mean of gradients
    weights: Weights
    # sequential: a step for each client, in their order | mean: one step by the mean of all
    steps: Literal["sequential", "mean"]
    hypernetwork: HypernetworkSettings
    server_momentum: ClassVar[float] = 0.0  # of the average of what h does not write


class PFedHN(FedAvg):
    """FedAvg's server for what is averaged, and a hypernetwork for what is personal."""

    settings: PFedHNSettings  # type: ignore[assignment]  # of the average without momentum
    has_global = False
    takes_robust = False
    keeps: ClassVar[Keeps] = {
        "_weights": "hypernetwork/",
        "_momenta": "hypernetwork_momenta/",
        "_embeddings": "embedding/",
        "_embedding_momenta": "embedding_momenta/",
    }

    def __init__(self, *, federation: Federation, settings: PFedHNSettings) -> None:
        super().__init__(federation=federation, settings=settings)  # type: ignore[arg-type]
        shapes = shapes_of(self._arrays)
        personal = {n: s for n, s in shapes.items() if n in self._personal_names()}
        self._start = {name: self._arrays[name] for name in personal}  # never averaged: they stay
        shared = {name: shape for name, shape in shapes.items() if name not in personal}
        self._regions = leading_regions(shared)
        hyper = settings.hypernetwork
        self._hyper = Hypernetwork(hyper, personal, hyper.embedding or 1 + federation.clients // 4)
        self._hyper.require_memory(_KEY)
        self._weights = self._hyper.initial(federation.seed)
        self._momenta: Arrays = {}
        self._embeddings: Arrays = {}  # of clients that took part
        self._embedding_momenta: Arrays = {}

    def _personal_names(self) -> list[str]:
        """Return the names of the arrays that the hypernetwork writes."""
        return [
            name
            for name, array in self._arrays.items()
            if array.dtype.kind == "f"
            and not is_statistic(name)
            and name not in self._private_names
        ]

    def summary(self) -> None:
        """Log what is about to run, and how large the hypernetwork is."""
        super().summary()
        _LOG.info("hypernetwork: %s entries of every client's model", self._hyper.size)

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the model that the hypernetwork writes for it."""
        orders = super().orders(server_round, cohort)
        return [replace(order, arrays=self._model(order.task.client)) for order in orders]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average what is shared, and move the hypernetwork towards the models that came back."""
        if not replies:
            return Outcome()
        replies = sorted(replies, key=lambda reply: client_order(reply.client))
        shared = [replace(r, arrays={n: r.arrays[n] for n in self._regions}) for r in replies]
        outcome = super().absorb(server_round, shared)
        if self.settings.steps == "sequential":
            for reply in replies:
                self._step([reply])
        else:
            self._step(replies)
        largest = max([_LARGEST_DRAWN, *(float(abs(z).max()) for z in self._embeddings.values())])
        if not self._hyper.bounded(self._weights, largest):
            raise ArithmeticError("the hypernetwork could write NaN or infinite values")
        return outcome

    def deployed(self, client: ClientId) -> Deployment:
        """Return what the hypernetwork writes for the client now, whether it ever took part or not."""
        return Deployment(self._architecture, self._model(client))

    def _embedding(self, client: ClientId) -> NDArray[np.floating]:
        """Return z_k: as it was trained; before that as it is drawn, once for all, for this client."""
        if client in self._embeddings:
            return self._embeddings[client]
        rng = generator(self.federation.seed, client_seed(client), _EMBEDDING)
        return rng.standard_normal(self._hyper.embedding, dtype=np.float32)

    def _personal(self, client: ClientId) -> Arrays:
        """Return theta_k, by the hypernetwork as it is now."""
        written = self._hyper.written(self._weights, self._embedding(client))
        return {name: start + written[name] for name, start in self._start.items()}

    def _model(self, client: ClientId) -> Arrays:
        return {**self._arrays, **self._personal(client)}  # in the order of the model's names

    def _step(self, replies: Sequence[Reply]) -> None:
        """Move the hypernetwork, and the embeddings of those who answered, by one step."""
        shares = [update_weight(self.settings.weights, r.num_examples) for r in replies]
        total = sum(shares)
        gradient = {name: np.zeros_like(array) for name, array in self._weights.items()}
        embeddings = {reply.client: self._embedding(reply.client) for reply in replies}
        for reply, share in zip(replies, shares, strict=True):
            # From what is written now, not from what was sent: in sequence, others came in between.
            change = {n: a - reply.arrays[n] for n, a in self._personal(reply.client).items()}
            z = embeddings[reply.client]
            by_weights, by_z = self._hyper.gradients(self._weights, z, change)
            for name, part in by_weights.items():
                gradient[name] += np.float32(share / total) * part
            gradient[f"{_Z}/{reply.client}"] = np.float32(share / total) * by_z
        own = self.settings.hypernetwork
        gradient = clipped(gradient, own.clip_norm)
        self._weights, self._momenta = stepped(self._weights, self._momenta, gradient, own)
        moved, moving = stepped(
            embeddings, self._embedding_momenta, State(gradient).part(f"{_Z}/"), own
        )
        self._embeddings = _in_order({**self._embeddings, **moved})
        self._embedding_momenta = _in_order({**self._embedding_momenta, **moving})


def _in_order(of_clients: Arrays) -> Arrays:
    return {client: of_clients[client] for client in sorted(of_clients, key=client_order)}
