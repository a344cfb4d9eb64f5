"""SFL: the server keeps every client's model, and sends each its own, smoothed over a graph of clients.

Chen, Long, Wu, Zhou & Jiang, IJCAI 2022, https://arxiv.org/abs/2203.00829. V: the last model of each client;
A: the graph (`corolla.aggregation.client_graph`); u_k: client k's smoothed model; w: the read-out.

    V_k <- what client k returned        U <- alpha A^L V + (1 - alpha) V        w <- mean of all u_k

The personalised model is u_k, the global one w. Departures: the graph is made of cosine similarities of what
clients learned (``graph=sfl_code``: the authors' learner); clients that never took part are in neither V nor
A, and get w; clients are pulled by the squared distance, not by the distance.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from clients.sfl import READOUT, PullsSettings
from corolla.aggregation.client_graph import (
    Matrix,
    blended,
    mixing,
    products,
    published_graph,
    similarity_graph,
    weighted,
)
from corolla.federation import Federation
from corolla.settings import Count, Positive, Share, settings
from corolla.spaces.model_parts import end_of
from corolla.state import Keeps, below
from corolla.tasks import Reply
from corolla.training.available_memory import require_memory
from corolla.types import Arrays, ClientId, client_order
from strategies.base import Deployment, Outcome
from strategies.exchange import Order
from strategies.fedavg import FedAvg
from strategies.metrics import Metrics, prefixed

_LOG = logging.getLogger("corolla")
_GRAPH = 0x96A9  # keeps the draws of graphs apart from others of the same seed and round
_MIB = 2**20


@settings
class SflSettings(PullsSettings):
    """SFL's settings."""

    architecture: str | Sequence[int]  # largest | smallest | middle | choice indices
    # similarity: of what the clients learned | sfl_code: learned as in the authors' code
    graph: Literal["similarity", "sfl_code"]
    neighbours: Count  # of a client, at most
    temperature: Positive  # of the softmax over similarities; similarity
    self_loop: Share  # of a client itself in its row; similarity
    blend: Share  # of the new graph in the next one; sfl_code
    layers: Count  # L: how far models travel over the graph
    alpha: Share  # of what is smoothed; 0: every client on its own


class Sfl(FedAvg):
    """FedAvg's server with a row of the graph in the place of its mean."""

    settings: SflSettings  # type: ignore[assignment]  # there is no other mean
    has_global = False  # clients report the read-out's scores apart from their own's
    takes_robust = False
    keeps: ClassVar[Keeps] = {"_own": "own/", "_graph": "graph", "_mixing": "mixing"}
    reply_metrics: ClassVar[Metrics] = prefixed("global_")
    refuses_private = (
        "its server compares and smooths whole models of clients",
        "Use private=[] or method=fedavg",
    )

    def __init__(self, *, federation: Federation, settings: SflSettings) -> None:
        super().__init__(federation=federation, settings=settings)  # type: ignore[arg-type]
        end = end_of(self.space.blank(self._architecture), self.space.num_classes)
        self._end = np.concatenate(
            [np.full(array.size, name in end) for name, array in self._arrays.items()]
        )
        self._own: Arrays = {}  # V: client -> its last model, flat
        self._graph: Matrix = np.zeros((0, 0))  # A, in the order of V
        self._mixing: Matrix = np.zeros((0, 0))
        require_memory(
            2 * self._kept_mib,  # with what is being changed and written
            what=f"SFL's server keeps a model of each of {federation.clients} clients",
            key="method.architecture",
            value=settings.architecture,
            remedy="Use a smaller network, or fewer clients",
        )

    @property
    def _kept_mib(self) -> float:
        return 4 * self.federation.clients * len(self._end) / _MIB

    def summary(self) -> None:
        """Log what is about to run, and what the server will hold."""
        super().summary()
        count = self.federation.clients
        _LOG.info("the server keeps %d models: %.0f MiB at the end", count, self._kept_mib)

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody its smoothed model and the read-out."""
        beside = self._beside()
        return [
            replace(order, arrays={**self._smoothed(order.task.client), **beside}, of=None)
            for order in super().orders(server_round, cohort)
        ]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Take the models over, and make graph and read-out anew."""
        if not replies:
            return Outcome()
        before = list(self._own)
        came = {r.client: _flat({n: r.arrays[n] for n in self._arrays}) for r in replies}
        own = self._own | came
        self._own = {client: own[client] for client in sorted(own, key=client_order)}
        self._graph = self._next_graph(server_round, before)
        self._mixing = mixing(self._graph, layers=self.settings.layers, alpha=self.settings.alpha)
        self._arrays = self._model(self._mixing.mean(axis=0))
        return Outcome()

    def deployed(self, client: ClientId) -> Deployment:
        """Return the client's smoothed model, with the read-out beside it."""
        return Deployment(
            self._architecture, self._smoothed(client), of=None, beside=self._beside()
        )

    def _next_graph(self, server_round: int, before: Sequence[ClientId]) -> Matrix:
        """Return the graph of the models as they are now; ``before``: whose graph the old one is."""
        own, models, readout = self.settings, list(self._own.values()), _flat(self._arrays)
        if own.graph == "similarity":
            return similarity_graph(
                products(models, readout, self._end),
                neighbours=own.neighbours,
                temperature=own.temperature,
                self_loop=own.self_loop,
            )
        seed = (self.federation.seed, server_round, _GRAPH)
        new = published_graph(products(models, readout), neighbours=own.neighbours, seed=seed)
        clients = list(self._own)
        places = [clients.index(client) for client in before]
        return blended(self._graph, new, places=places, share=own.blend)

    def _smoothed(self, client: ClientId) -> Arrays:
        """Return u_k; the read-out where the client never took part."""
        if client not in self._own:
            return self._arrays
        return self._model(self._mixing[list(self._own).index(client)])

    def _model(self, weights: Matrix) -> Arrays:
        """Return the model that has this share of each client's."""
        flat, start, found = weighted(list(self._own.values()), weights), 0, {}
        for name, array in self._arrays.items():
            part = flat[start : start + array.size].reshape(array.shape)
            found[name] = part.astype(array.dtype, copy=False)
            start += array.size
        return found

    def _beside(self) -> Arrays:
        return below(READOUT, self._arrays)


def _flat(arrays: Arrays) -> NDArray[np.float32]:
    """Return all entries in one row."""
    rows = [array.reshape(-1).astype(np.float32, copy=False) for array in arrays.values()]
    return np.concatenate(rows)
