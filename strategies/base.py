"""The Flower side of all Corolla strategies: rounds and evaluations as messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from corolla.aggregation.statistics import is_statistic
from corolla.federation import Federation
from corolla.limits.learning import learn_limits
from corolla.spaces.architecture import Architecture
from corolla.tasks import AS_IS, STATISTICS, Failure, Reply, Task
from corolla.types import ClientId, client_order
from strategies.absorbing import absorbed
from strategies.durations import Durations
from strategies.exchange import Exchange, Order, Outgoing, Terms
from strategies.method import Deployment, Method, Outcome
from strategies.metrics import ACCURACIES
from strategies.reading import Shapes
from strategies.roster import Roster, leave_out_short

__all__ = ["CorollaStrategy", "Deployment", "Outcome", "RoundReport"]

_LOG = logging.getLogger("corolla")


@dataclass(frozen=True)
class RoundReport:
    """What one round did: replies in the order of their clients, failures, the method's entries."""

    replies: list[Reply]
    failures: list[Failure]
    outcome: Outcome


class CorollaStrategy(Method, Strategy):
    """A method as a Flower Strategy. A subclass implements what `Method` leaves open."""

    order_type: str = MessageType.TRAIN  # what a round asks of its participants

    def __init__(self, *, federation: Federation, settings: Any = None) -> None:
        super().__init__(federation=federation, settings=settings)
        self.roster: Roster | None = None
        self.spill_to: Path | None = None  # for replies that memory has no room for
        self.report: RoundReport | None = None
        self._admission = self.declared()
        self._exchange: Exchange | None = None
        self._durations = Durations()
        self._restarted: set[ClientId] = set()  # known to have lost their models: told once

    # --- Flower's hooks -------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Give every participant its own task and its own arrays; ``arrays`` and ``config`` are unused."""
        roster = self._roster()
        nodes = self._learn_limits(roster.nodes(grid))
        orders = self.orders(server_round, self.cohort(server_round, list(nodes)))
        return self._messages(
            orders, nodes, kind=self.order_type, link_mbit_s=self.federation.link_mbit_s
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Drop what cannot be used, fold the rest into the state; the round's `report` holds both."""
        valid, failures = self.sorted_replies(replies)
        self._say_who_restarted(server_round, valid)
        self.learn_failures(server_round, failures)
        valid, unusable, outcome = absorbed(self, server_round, valid)
        failures = sorted(failures + unusable, key=lambda failure: client_order(failure.client))
        for failure in failures:
            _LOG.warning(
                "round %d: client %s dropped: %s", server_round, failure.client, failure.reason
            )
        if not valid and failures:
            _LOG.warning("round %d: no valid reply, nothing changes", server_round)
        self.report = RoundReport(valid, failures, outcome)
        return None, MetricRecord({"participants": len(valid), "failures": len(failures)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every connected client to evaluate what it would run now."""
        roster = self._roster()
        nodes = roster.nodes(grid)
        return self.start_evaluation(server_round, sorted(nodes, key=client_order), nodes)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the mean accuracies over the clients that answered."""
        valid, _ = self.sorted_replies(replies)
        if not valid:
            return None
        return MetricRecord(
            {key: float(np.mean([reply.metrics[key] for reply in valid])) for key in ACCURACIES}
        )

    # --- evaluation of chosen clients -------------------------------------------------------------------

    def start_evaluation(
        self,
        server_round: int,
        clients: Sequence[ClientId],
        nodes: Mapping[ClientId, int],
        *,
        fine_tune_epochs: int = 0,
        return_arrays: bool = False,
        extra: Mapping[str, Any] | None = None,
        as_is: Deployment | None = None,
        statistics: bool = False,
    ) -> Outgoing:
        """Return messages that have ``clients`` evaluate, and then fine-tune, their deployed models.

        With ``as_is`` they evaluate that model instead, with nothing of their own added to it; with
        ``statistics`` they return what their images make of its BatchNorm's, and evaluate nothing.
        """
        self._learn_limits(nodes)  # what a node that joined since deploys depends on its limits
        orders = []
        return_arrays = return_arrays and self.returns_models
        loss = self.loss_of_deployed()
        told = dict(extra or {}) | ({} if loss is None else {"loss": loss})
        if statistics:
            told[STATISTICS] = True
        prefixes = [""] if as_is is not None else ["", "global_"]
        prefixes += ["fine_tuned_"] * (fine_tune_epochs > 0)
        needs = () if statistics else self._needed_scores(prefixes)
        for client in clients:
            deployment = self.deployed(client) if as_is is None else as_is
            task = Task(
                client=client,
                round=server_round,
                architecture=deployment.architecture,
                epochs=fine_tune_epochs,
                lr=self.federation.last_lr,
                return_arrays=return_arrays,
                extra={**told, **deployment.extra, **({} if as_is is None else {AS_IS: True})},
            )
            returns = self._returned(deployment, all_of_it=return_arrays, statistics=statistics)
            orders.append(
                Order(
                    task=task,
                    arrays=deployment.sent,
                    returns=returns,
                    needs=needs,
                    of=deployment.of,
                )
            )
        trains = fine_tune_epochs > 0 or return_arrays or statistics or bool(extra)
        kind = MessageType.TRAIN if trains else MessageType.EVALUATE
        return self._messages(orders, nodes, kind=kind)

    def _returned(self, deployment: Deployment, *, all_of_it: bool, statistics: bool) -> Shapes:
        if not (all_of_it or statistics):
            return {}
        shapes = self.space.shapes(deployment.architecture)
        return {name: shapes[name] for name in shapes if all_of_it or is_statistic(name)}

    def summary(self) -> None:
        """Log what is about to run."""
        _LOG.info(
            "%s on %s: %d rounds, %d participants",
            type(self).__name__,
            self.space.name,
            self.federation.rounds,
            self.federation.participants,
        )

    def _say_who_restarted(self, server_round: int, replies: Sequence[Reply]) -> None:
        lost = {reply.client for reply in replies if reply.metrics.get("state_restarted")}
        for client in sorted(lost - self._restarted):
            _LOG.warning(
                "round %d: the saved state of client %s was damaged: its own model started anew",
                server_round,
                client,
            )
        self._restarted |= lost

    def _learn_limits(self, nodes: Mapping[ClientId, int]) -> Mapping[ClientId, int]:
        """Take over the limits of nodes that joined after the start; return the nodes that stay.

        One that not even the smallest architecture fits is left out, with a warning.
        """
        roster, known = self._roster(), self.federation
        if roster.interchangeable:  # simulated clients are known from the start
            return nodes
        said = {c: roster.facts(c) for c in nodes if c not in known.budgets or c not in known.caps}
        joined = learn_limits(
            said,
            rule=known.cap_rule,
            space=self.space,
            sizes=known.examples,
            batch_size=known.batch_size,
        )
        self.federation = known.joined_by(joined.limits)
        leave_out_short(roster, joined.shortfalls)
        gone = {one.client for one in joined.shortfalls}
        return {client: node for client, node in nodes.items() if client not in gone}

    def _messages(
        self,
        orders: Sequence[Order],
        nodes: Mapping[ClientId, int],
        *,
        kind: str,
        link_mbit_s: float | None = None,
    ) -> Outgoing:
        """Begin an exchange; return its messages."""
        terms = Terms(
            admission=self._admission,
            most_examples=self._most_examples,
            check=self._usable,
            link_mbit_s=link_mbit_s,
        )
        self._exchange = Exchange(
            orders,
            nodes,
            message_type=kind,
            work=self._expected,
            interchangeable=self._roster().interchangeable,
            terms=terms,
            private=self._private_names,
            spill_to=self.spill_to,
        )
        return self._exchange.messages()

    def _usable(self, architecture: Architecture) -> Architecture:
        """Return an architecture that a client names; ValueError where it cannot be built or recorded."""
        checked = self.space.check(architecture)
        self.space.costs(checked, batch_size=self.federation.batch_size)
        self.space.values(checked)
        return checked

    def _most_examples(self, client: ClientId) -> int | None:
        """Return how many training images a client may claim: all that it, or the partition, said.

        Its validation images count, since methods may train on them in the end.
        """
        said = self._roster().facts(client).get("num_examples", {})
        known = [int(said[split]) for split in ("train", "validation") if split in said]
        limits = [sum(known)] if known else []
        if self.federation.max_examples is not None:
            limits.append(self.federation.max_examples)
        return min(limits, default=None)

    def _needed_scores(self, prefixes: Sequence[str]) -> tuple[str, ...]:
        """Return the accuracies that an evaluation must bring."""
        names = [prefix + name for prefix in prefixes for name in ACCURACIES]
        return tuple(name for name in names if name in self._admission.metrics)

    def sorted_replies(self, replies: Iterable[Message]) -> tuple[list[Reply], list[Failure]]:
        """Return the valid replies of the exchange that was begun last, and who gave none."""
        if self._exchange is None:
            raise RuntimeError("replies before anything was asked")
        valid, failures = self._exchange.sort(replies)
        for reply in valid:
            seconds = reply.metrics.get("handling_s", 0.0)
            self._durations.learn(reply.task, self._work(reply.task), seconds)
        return valid, failures

    def _expected(self, task: Task) -> float:
        """Return how long ``task`` will take."""
        return self._durations.expected(task, self._work(task))

    def _work(self, task: Task) -> float:
        """Return what ``task`` takes, in multiply-accumulates of one epoch's forward passes."""
        costs = self.space.costs(task.architecture, batch_size=self.federation.batch_size)
        return costs.macs * self.federation.examples.get(task.client, 1)

    def _roster(self) -> Roster:
        if self.roster is None:
            raise RuntimeError("the strategy has no roster: set strategy.roster before it starts")
        return self.roster
