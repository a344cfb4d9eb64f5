"""HeteroFL: every client trains the leading channels of one network, as many as it can.

Diao, Ding & Tarokh, ICLR 2021, https://arxiv.org/abs/2010.01264. The server averages each entry over the
clients that hold it; rows of classes only over those that have the class. Departures (docs/baselines.md):
BatchNorm's running statistics travel and are averaged, though nothing trains with them, and every client
computes its own before it scores (evaluation.statistics=recalibrate) instead of a query to all; the rate
can follow from a client's limits; the whole network is not scored at clients that could not run it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import Regions, cut
from corolla.aggregation.updates import Update, Weights, update_weight
from corolla.errors import Fault, refuse
from corolla.federation import Federation
from corolla.settings import Share, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.width_sliced import require_width_sliced
from corolla.state import Keeps
from corolla.tasks import Reply
from corolla.types import Arrays, ClientId, client_seed
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.metrics import CHOICES, Notes

_LOG = logging.getLogger("corolla")


@settings
class HeteroFLSettings:
    """HeteroFL's settings."""

    # Of rates. limits: the largest that fits the client; fixed: ``rates`` dealt out to clients 0, 1, ... in
    # turn; dynamic: one of ``rates`` by lot, per round and client. No client gets more than fits it.
    assignment: Literal["limits", "fixed", "dynamic"]
    rates: (
        Sequence[float] | None
    )  # of the space, also several times; None: all, once. Not for limits
    weights: Weights  # of clients
    mask_absent: bool  # clients' logits of classes that they lack are 0 (`clients.width_sliced`)
    class_rows: bool  # rows are averaged over those who have the class. Clients tell their classes
    damping: Share = 0.0  # of entries that not everybody holds (`corolla.aggregation.damping`)


class HeteroFL(CorollaStrategy):
    """State: the whole network, and the last round that trained it."""

    settings: HeteroFLSettings
    takes_robust = True
    keeps: ClassVar[Keeps] = {"_arrays": "model/", "_round": "round"}
    reply_notes: ClassVar[Notes] = {"classes": CHOICES}

    def __init__(self, *, federation: Federation, settings: HeteroFLSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        self._sliced = require_width_sliced(federation.space, type(self).__name__)
        faults = []
        known = [float(rate) for rate in self._sliced.dimensions[0].choices]
        given = known if settings.rates is None else list(settings.rates)
        wrong = [rate for rate in given if rate not in known]
        if wrong or not given:
            faults.append(
                Fault("rates", wrong, "are not rates of the space", f"Use some of {known}")
            )
        if settings.rates is not None and settings.assignment == "limits":
            remedy = "Use assignment=fixed or dynamic, or rates=null"
            problem = (
                "has no effect with method.assignment=limits: a client's limits decide its rate"
            )
            faults.append(Fault("rates", given, problem, remedy))
        loss = federation.trainer.loss
        if settings.mask_absent and loss != "cross_entropy":
            remedy = "Use trainer.loss=cross_entropy, or method.mask_absent=false"
            problem = "cannot leave out classes that a client lacks, as method.mask_absent asks"
            faults.append(Fault("trainer.loss", loss, problem, remedy))
        refuse(faults)
        self._given = [known.index(rate) for rate in given]
        self._arrays = self.space.initial_state(federation.seed)
        self._round = 0

    # --- which part of the network ----------------------------------------------------------------------

    def _shift(self, server_round: int) -> int:
        """Return how far the windows have moved on: HeteroFL's never do."""
        return 0

    def _regions(self, server_round: int, architecture: Architecture) -> Regions:
        return self._sliced.window(architecture, self._shift(server_round))

    def _architecture(self, server_round: int, client: ClientId) -> Architecture:
        """Return the client's rate in this round; the same for the same seed and limits."""
        wanted = len(self.space.dimensions[0]) - 1
        if self.settings.assignment == "fixed":
            wanted = self._given[client_seed(client) % len(self._given)]
        elif self.settings.assignment == "dynamic":
            wanted = int(self.rng(server_round, client_seed(client)).choice(self._given))
        while wanted and not self.federation.fits(client, Architecture((wanted,))):
            wanted -= 1
        return Architecture((wanted,))

    def _cut(self, server_round: int, architecture: Architecture) -> Arrays:
        return cut(self._arrays, self._regions(server_round, architecture))

    # --- a round ----------------------------------------------------------------------------------------

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Cut each client's part out of the network; clients of one rate get the same."""
        parts: dict[Architecture, Arrays] = {}
        orders = []
        for client in cohort:
            architecture = self._architecture(server_round, client)
            if architecture not in parts:
                parts[architecture] = self._cut(server_round, architecture)
            task = self.task(server_round, client, architecture)
            orders.append(Order.both_ways(task, parts[architecture]))
        return orders

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average every entry over those who hold it."""
        if not replies:
            return Outcome()
        updates = [self._update(server_round, reply) for reply in replies]
        self._arrays = coverage_average(
            self._arrays, updates, damping=self.settings.damping, rule=self.federation.robust
        )
        self._round = server_round
        rates = {reply.client: self._sliced.rate(reply.task.architecture) for reply in replies}
        columns = {client: {"rate": rate} for client, rate in rates.items()}
        return Outcome({"rate_mean": float(np.mean(list(rates.values())))}, columns)

    def _update(self, server_round: int, reply: Reply) -> Update:
        update = Update(
            arrays=reply.arrays,
            regions=self._regions(server_round, reply.task.architecture),
            weight=update_weight(self.settings.weights, reply.num_examples),
            client=reply.client,
        )
        told = reply.notes.get("classes")
        if (
            not self.settings.class_rows or told is None
        ):  # a client that does not say counts for all
            return update
        classes = _classes(told, self.space.num_classes)
        if classes is None:
            _LOG.warning(
                "client %s: classes=%r are not classes of this data set; it counts for all of them",
                reply.client,
                told,
            )
            return update
        if len(classes) == self.space.num_classes:
            return update
        arrays, regions = dict(update.arrays), dict(update.regions)
        for name in self._sliced.parts["head"]:
            arrays[name] = arrays[name][list(classes)]
            regions[name] = (classes, *regions[name][1:])
        return replace(update, arrays=arrays, regions=regions)

    # --- deployment and state ---------------------------------------------------------------------------

    def deployed(self, client: ClientId) -> Deployment:
        """Return the client's part as of the last round that trained."""
        architecture = self._architecture(self._round, client)
        return Deployment(architecture, self._cut(self._round, architecture))


def _classes(told: object, count: int) -> tuple[int, ...] | None:
    """Return the classes that a client reports, ascending; None where that is not a list of classes."""
    if not isinstance(told, list | tuple) or not told:
        return None
    if not all(type(one) is int and 0 <= one < count for one in told):
        return None
    classes = tuple(sorted(set(told)))
    return classes if len(classes) == len(told) else None
