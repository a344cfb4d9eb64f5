"""What a method is: arithmetic on plain arrays, without messages.

A method implements `orders`, `absorb` and `deployed`, and says in `keeps` what its state is; all of them work
on plain arrays, and `orders` changes nothing, so a round that is repeated after a crash is the same round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.spaces.architecture import Architecture
from corolla.state import State, Stateful
from corolla.tasks import Failure, Reply, Task
from corolla.types import Arrays, ClientId, client_order, generator
from strategies.metrics import (
    REPLY_METRICS,
    Admission,
    Metric,
    Metrics,
    Note,
    Notes,
)
from strategies.reading import Order
from strategies.withholding import private_names

_COHORT = 0xC0404  # keeps the cohort's draws apart from others of the same seed and round


@dataclass(frozen=True)
class Deployment:
    """What a client would run today. ``arrays`` is empty where the client keeps its own weights."""

    architecture: Architecture
    arrays: Arrays
    of: Architecture | Literal["task"] | None = "task"  # as in `strategies.reading.Order`
    extra: Mapping[str, Any] = field(default_factory=dict)  # the method's own, for the task
    beside: Arrays = field(default_factory=dict)  # goes along to be scored: no part of what is run

    @property
    def sent(self) -> Arrays:
        """What goes to the client; one object for all where they share one, which is serialised once."""
        return {**self.arrays, **self.beside} if self.beside else self.arrays


@dataclass(frozen=True)
class Outcome:
    """A method's own entries for metrics.jsonl, and per client for clients.jsonl."""

    metrics: dict[str, Any] = field(default_factory=dict)
    columns: dict[ClientId, dict[str, Any]] = field(default_factory=dict)


class Method(Stateful, ABC):
    """What a method does, and says about itself. Its draws depend on the seed alone."""

    has_global = False  # the method has one model that serves all clients, reported as ``global``
    clients_keep_models = False  # what `deployed` gives is not all that a client runs
    returns_models = True  # clients may be asked for the weights that they deploy
    private_is_common = False  # nobody trains what is private: a global model is still one for all
    takes_robust = False  # what it averages goes through `Federation.robust`
    # Why no part of its model can be private to clients, and what to do instead; None: any can.
    refuses_private: ClassVar[tuple[str, str] | None] = None
    # What this class' clients say beyond `strategies.metrics`; its subclasses' clients say it, too.
    reply_metrics: ClassVar[Metrics] = {}
    reply_notes: ClassVar[Notes] = {}
    # Metrics of the last replies that summary.json has per client; its subclasses', too.
    summary_metrics: ClassVar[tuple[str, ...]] = ("latency_ms", "state_restarted")
    may_be_infinite: tuple[str, ...] = ()  # beginnings of the names of arrays of `state`

    settings: Any = (
        None  # a subclass names its settings class here; YAML is checked against its fields
    )

    def __init__(self, *, federation: Federation, settings: Any = None) -> None:
        self.settings = settings
        if federation.robust is not None and not self.takes_robust:
            problem = f"{type(self).__name__} has no average of models that the rule could replace"
            rule = type(federation.robust).__name__
            raise RefusedError(Fault("robust", rule, problem, "Use robust=none"))
        self._private_names = private_names(
            federation, method=type(self).__name__, refused=self.refuses_private
        )
        if self._private_names:  # no model is whole without them, and they do not travel
            self.returns_models, self.clients_keep_models = False, True
            self.has_global = False
        self.federation = federation
        self.space = federation.space

    # --- what a method implements -------------------------------------------------------------------

    @abstractmethod
    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Return what each client of the cohort is asked to train. Must not change the state."""

    @abstractmethod
    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Fold valid replies (in the order of their clients, perhaps none) into the state."""

    @abstractmethod
    def deployed(self, client: ClientId) -> Deployment:
        """Return the model that ``client`` would run now."""

    # --- what a method may change ---------------------------------------------------------------------

    def learn_failures(self, server_round: int, failures: Sequence[Failure]) -> None:
        """Learn who failed in the round, in the order of the clients; `absorb` follows, for the others.

        Called before `absorb`, also without failures; what it says holds for its round alone. It changes no
        state: `absorb` does, which may be tried again from the state before.
        """

    def cohort(self, server_round: int, available: Sequence[ClientId]) -> list[ClientId]:
        """Draw this round's participants from those that are connected, without replacement."""
        available = sorted(available, key=client_order)
        count = min(self.federation.participants, len(available))
        rng = generator(self.federation.seed, server_round, _COHORT)
        return [available[i] for i in sorted(rng.choice(len(available), count, replace=False))]

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Return a method's own per-client entries for summary.json (limits, policy entropy ...)."""
        return {**self.federation.limits(client).to_extra()}

    def told_in_summary(self, reply: Reply) -> dict[str, float]:
        """Return what the client's last reply says that summary.json is to have."""
        classes = reversed(type(self).__mro__)
        keys = [key for kind in classes for key in vars(kind).get("summary_metrics", ())]
        return {key: reply.metrics[key] for key in keys if key in reply.metrics}

    def begin_from(self, state: State) -> None:
        """Start stage=new_clients from the state in which a training run ended."""
        raise NotImplementedError(f"{type(self).__name__} has no stage for new clients")

    def deploys(self, server_round: int) -> bool:
        """Tell whether `deployed` is the method's result in this round; else validation cannot choose it."""
        return True

    def conclude(self) -> bool:
        """Do what is due after the last round, before anybody deploys; tell whether the state changed."""
        return False

    def global_models(self) -> Mapping[str, Deployment]:
        """Return the models that serve more than one client, by name: one global model, or one per tier.

        Asked for after the last round. Every client that it fits scores each of them as it is, without
        statistics or class prior of its own; summary.json has their accuracies on these clients' test
        images, pooled. By default what all deploy, where ``has_global``: it is the same whoever asks.
        """
        return {"global": self.deployed("")} if self.has_global else {}

    def loss_of_deployed(self) -> str | None:
        """Return what deployed models were last trained by ; None: trainer.loss."""
        return None

    def finished(self, clients: Sequence[ClientId]) -> bool:
        """Tell whether the method has nothing left to do, though rounds remain."""
        return False

    # --- for methods ----------------------------------------------------------------------------------

    def task(
        self, server_round: int, client: ClientId, architecture: Architecture, **fields: Any
    ) -> Task:
        """Return the ordinary training task of a round, but for ``fields``."""
        settings = self.federation
        usual = {
            "epochs": settings.local_epochs,
            "lr": settings.trainer.learning_rate(server_round, settings.rounds),
        }
        return Task(
            client=client, round=server_round, architecture=architecture, **{**usual, **fields}
        )

    def rng(self, server_round: int, client_number: int) -> np.random.Generator:
        """Return the generator of one client's draws in one round."""
        return generator(self.federation.seed, server_round, client_number)

    def declared(self) -> Admission:
        """Return what replies may hold: the common table, and what each class of the method adds."""
        metrics: dict[str, Metric] = dict(REPLY_METRICS)
        notes: dict[str, Note] = {}
        for kind in reversed(type(self).__mro__):
            metrics |= vars(kind).get("reply_metrics", {})
            notes |= vars(kind).get("reply_notes", {})
        return Admission(metrics=metrics, notes=notes)
