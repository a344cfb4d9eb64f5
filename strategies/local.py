"""Local training: no weights travel, every client trains its own model of a fixed architecture.

Two budgets (specification of the baselines, section 2): ``matched`` trains whoever is drawn, as many epochs
as in the federation, optimiser state kept, one long training in pieces; ``converged`` lets every client
train once until its validation accuracy stops rising, in as many rounds as it takes to reach everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.settings import Count, settings
from corolla.spaces.architecture import Architecture
from corolla.state import Keeps
from corolla.tasks import Reply
from corolla.types import ClientId, client_order
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.private_architectures import PrivateArchitectures


@settings
class LocalSettings:
    """Local training's settings."""

    # largest | smallest | middle | choice indices, whatever the limits | fitting: the costliest that fits
    architecture: str | Sequence[int]
    budget: Literal["matched", "converged"]
    patience_epochs: Count  # converged: without improvement
    max_epochs: Count  # converged


class Local(CorollaStrategy):
    """The server only says whose turn it is; models stay on the clients' own disks."""

    refuses_private = ("none of its models' arrays are sent anyway", "Use private=[]")
    keeps: ClassVar[Keeps] = {"_trained": "trained", "_own": "architectures/"}
    settings: LocalSettings

    def __init__(self, *, federation: Federation, settings: LocalSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        turns = -(-federation.clients // federation.participants)
        self._converge = settings.budget == "converged"
        if self._converge and federation.rounds < turns:
            problem = (
                f"{federation.clients} clients, {federation.participants} a round, take {turns} rounds "
                "until each had its turn"
            )
            remedy = f"Use rounds={turns} or more, or raise clients_per_round"
            raise RefusedError(Fault("rounds", federation.rounds, problem, remedy))
        own = settings.architecture == "fitting"
        self._fixed = None if own else self.space.named(settings.architecture)
        self._own = PrivateArchitectures(federation, "costliest", candidates=0) if own else None
        self._trained: list[ClientId] = []  # converged: who has had its turn

    def cohort(self, server_round: int, available: Sequence[ClientId]) -> list[ClientId]:
        """Draw as any method does; when training to convergence, take those whose turn is still due."""
        if not self._converge:
            return super().cohort(server_round, available)
        due = sorted(set(available) - set(self._trained), key=client_order)
        return due[: self.federation.participants]

    def finished(self, clients: Sequence[ClientId]) -> bool:
        """When training to convergence: everybody has had a turn."""
        return self._converge and set(clients) <= set(self._trained)

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Say how long to train; nothing is sent and nothing comes back."""
        orders, how = [], dict[str, Any]()
        if self._converge:
            patience = {"patience_epochs": self.settings.patience_epochs}
            how = {"epochs": self.settings.max_epochs, "extra": patience}
        for client in cohort:
            architecture = self._architecture(client)
            task = self.task(server_round, client, architecture, return_arrays=False, **how)
            orders.append(Order(task=task, arrays={}, returns={}))
        return orders

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Note whose turn is over, and what each client's own model is."""
        if self._own is not None:
            self._own.settle(replies)
        if self._converge:
            self._trained += [reply.client for reply in replies]
        return Outcome({"clients_trained": float(len(self._trained))} if self._converge else {})

    def deployed(self, client: ClientId) -> Deployment:
        """Return the architecture; the weights are the client's own."""
        return Deployment(self._architecture(client), {})

    def _architecture(self, client: ClientId) -> Architecture:
        if self._own is not None:
            return self._own.of(self.federation, client)
        return cast(Architecture, self._fixed)
