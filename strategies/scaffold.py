"""SCAFFOLD: FedAvg whose clients' steps are corrected by control variates.

Karimireddy et al., ICML 2020, https://arxiv.org/abs/1910.06378, algorithm 1. S: the clients that answered,
of N; c: the server's control variate, c_i: a client's (`clients.scaffold`), both 0 at first.

    w <- w + server_lr * (mean of y_i over S - w)        c <- c + |S| / N * mean of (c_i' - c_i) over S

Departures: clients return y_i and not y_i - w, so that with server_lr = 1 the mean is FedAvg's to the bit; BN
statistics have no control variate and no server step, they are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from clients.scaffold import CONTROL, Form
from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.server_step import stepped
from corolla.aggregation.statistics import is_statistic
from corolla.federation import Federation
from corolla.settings import Positive, settings
from corolla.state import Keeps, State, below
from corolla.tasks import Reply
from corolla.types import ClientId, shapes_of
from strategies.base import Outcome
from strategies.exchange import Order
from strategies.fedavg import FedAvg, FedAvgSettings
from strategies.updates import updates_of


@settings
class ScaffoldSettings(FedAvgSettings):
    """FedAvg's settings, and the server's step."""

    server_lr: Positive  # eta_g; 1: the mean itself
    form: Form = (
        "paper"  # niid_bench: c starts at the weights, and changes are weighted as models are
    )


class Scaffold(FedAvg):
    """FedAvg's server, with a control variate beside the model."""

    keeps: ClassVar[Keeps] = {"_control": CONTROL}
    settings: ScaffoldSettings
    refuses_private = (
        "its control variates pull clients towards one model, all of which is shared",
        "Use private=[] or method=fedavg",
    )

    def __init__(self, *, federation: Federation, settings: ScaffoldSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        self._control = {
            name: array if settings.form == "niid_bench" else np.zeros_like(array)
            for name, array in self._arrays.items()
            if not is_statistic(name) and array.dtype.kind == "f"
        }
        self._control_regions = leading_regions(shapes_of(self._control))

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody model and c; ask for the trained model and the change of c_i."""
        control = below(CONTROL, self._control)
        arrays = {**self._arrays, **control}  # one object for all: it is serialised once
        orders = super().orders(server_round, cohort)
        return [replace(order, arrays=arrays, returns=shapes_of(arrays)) for order in orders]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Step towards the mean of the models; move c by the mean of all changes, absent clients' being 0."""
        if not replies:
            return Outcome()
        before = self._arrays
        models = [replace(r, arrays={n: r.arrays[n] for n in before}) for r in replies]
        outcome = super().absorb(server_round, models)
        self._arrays = stepped(before, self._arrays, self.settings.server_lr)
        changes = [replace(r, arrays=State(r.arrays).part(CONTROL)) for r in replies]
        weights = self.settings.weights if self.settings.form == "niid_bench" else "uniform"
        mean_change = coverage_average(
            {name: np.zeros_like(array) for name, array in self._control.items()},
            updates_of(changes, self._control_regions, weights),
            rule=self.federation.robust,
        )
        share = len(replies) / max(self.federation.clients, len(replies))  # others may have joined
        self._control = {
            name: (array + share * mean_change[name]).astype(array.dtype, copy=False)
            for name, array in self._control.items()
        }
        return outcome
