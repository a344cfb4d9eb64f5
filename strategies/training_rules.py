"""How a supernet takes in what clients trained of it: a choice of every method of `strategies.perfednas`.

``_target_`` of conf/method/training. Mean over who holds an entry (PerFedRLNAS, HeteroFL), with a weight of
its own for the largest subnet (SuperFedNAS), by the samples that went through an operation (FedorAS), or that
mean taught by the ensemble of the clients' models (HAPFNAS; FedDF, Lin et al., NeurIPS 2020).
docs/perfednas.md
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from clients.paths import VISITS
from corolla.aggregation.coverage import momentum_average
from corolla.aggregation.largest_weight import largest_weight, weighed
from corolla.aggregation.operation_average import operation_average
from corolla.aggregation.updates import Update, Weights
from corolla.federation import Federation
from corolla.settings import Fraction, Share, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.paths import held_by
from corolla.state import Keeps, Stateful
from corolla.tasks import Reply
from corolla.types import Arrays
from strategies.distiller import Distiller, DistillerSettings
from strategies.updates import updates_of


class Averaging(NamedTuple):
    """How the method averages, whatever the rule."""

    weights: Weights
    momentum: float
    damping: float


class Trained(NamedTuple):
    """The next supernet and velocity of server momentum, and entries for metrics.jsonl."""

    supernet: Arrays
    velocity: Arrays
    metrics: dict[str, float]


class TrainingRule(Stateful, ABC):
    """Turns a round's replies into the next supernet.

    Args:
        federation: the run's.
        averaging: the method's.
        rounds: in which the supernet is trained; the method may do something else afterwards.

    """

    settings: Any = None

    def __init__(self, *, federation: Federation, averaging: Averaging, rounds: int) -> None:
        self.averaging, self.rounds = averaging, rounds
        self.federation, self.space = federation, federation.space

    @abstractmethod
    def trained(
        self, supernet: Arrays, velocity: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> Trained:
        """Return what becomes of ``supernet``, which is not written to; at least one reply."""

    def ordered(self, architectures: Sequence[Architecture]) -> None:
        """Hear what the round's clients are asked to train. No state: a repeated round says it again."""

    def updates(self, replies: Sequence[Reply]) -> list[Update]:
        """Return one update per reply, in their order."""
        return updates_of(replies, partial(held_by, self.space), self.averaging.weights)

    def averaged(self, supernet: Arrays, velocity: Arrays, updates: Sequence[Update]) -> Trained:
        """Return the mean over who holds an entry."""
        return Trained(
            *momentum_average(
                supernet,
                updates,
                velocity,
                momentum=self.averaging.momentum,
                damping=self.averaging.damping,
                rule=self.federation.robust,
            ),
            {},
        )


class Coverage(TrainingRule):
    """Every entry is the mean over the clients that hold it."""

    def trained(
        self, supernet: Arrays, velocity: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> Trained:
        """Return the mean."""
        return self.averaged(supernet, velocity, self.updates(replies))


@settings
class LargestSettings:
    """Settings of `Largest`."""

    start: Fraction  # beta(0), the largest subnet's say in the first round
    final: Fraction | None  # beta at the end; None: 1 / participants, the say of any other
    falling: Share  # share of the rounds in which it falls


class Largest(TrainingRule):
    """As `Coverage`, and the round's costliest subnet weighs beta(t), whatever its client's images.

    Several of the same cost share it. Where nobody answers for it, all weigh the same: a lesser one is not
    the largest. The method's own weights are not used.
    """

    settings: LargestSettings

    def __init__(
        self,
        *,
        federation: Federation,
        averaging: Averaging,
        rounds: int,
        settings: LargestSettings,
    ) -> None:
        super().__init__(federation=federation, averaging=averaging, rounds=rounds)
        self.settings = settings
        self._most = 0  # cost of the round's costliest order

    def ordered(self, architectures: Sequence[Architecture]) -> None:
        """Keep what the costliest costs."""
        self._most = max((self.space.cost(one) for one in architectures), default=0)

    def trained(
        self, supernet: Arrays, velocity: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> Trained:
        """Return the weighted mean."""
        costs = [self.space.cost(reply.task.architecture) for reply in replies]
        most, beta = max(self._most, *costs), self.weight(server_round)
        updates = weighed(self.updates(replies), [cost == most for cost in costs], beta)
        step = self.averaged(supernet, velocity, updates)
        return step._replace(metrics={"largest_weight": beta} if most in costs else {})

    def weight(self, server_round: int) -> float:
        """Return beta of a round, 1, 2 ..."""
        own, participants = self.settings, self.federation.participants
        return largest_weight(
            server_round - 1,
            falling=own.falling * self.rounds,
            start=own.start,
            final=1 / max(participants, 2) if own.final is None else own.final,
        )


class Operations(TrainingRule):
    """OPA: every array by the samples that went through it, as the clients tell.

    A client that tells nothing sent all its samples through all that it holds: then this is `Coverage`.
    """

    def trained(
        self, supernet: Arrays, velocity: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> Trained:
        """Return the mean. ValueError where a client tells another number of shares than it got arrays."""
        return Trained(
            *operation_average(
                supernet,
                self.updates(replies),
                [_visits(reply) for reply in replies],
                velocity,
                momentum=self.averaging.momentum,
                damping=self.averaging.damping,
                rule=self.federation.robust,
            ),
            {},
        )


def _visits(reply: Reply) -> Mapping[str, float]:
    told = reply.notes.get(VISITS)
    if told is None:
        return {}
    if len(told) != len(reply.arrays):
        raise ValueError(f"{len(told)} shares of samples are told for {len(reply.arrays)} arrays")
    return dict(zip(reply.arrays, told, strict=True))


class Distilled(TrainingRule):
    """`Coverage`; then the server teaches the supernet what the clients' models say of its own images.

    Ours, out of two published parts: the average that FedDF starts from, and stage 1 of HAPFNAS.
    """

    keeps: ClassVar[Keeps] = {"_distiller": ""}
    settings: DistillerSettings

    def __init__(
        self,
        *,
        federation: Federation,
        averaging: Averaging,
        rounds: int,
        settings: DistillerSettings,
    ) -> None:
        super().__init__(federation=federation, averaging=averaging, rounds=rounds)
        self._distiller = Distiller(settings=settings, federation=federation, rounds=rounds)

    def trained(
        self, supernet: Arrays, velocity: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> Trained:
        """Return the taught mean; where nobody can teach, nothing changes."""
        started = time.perf_counter()
        own = {reply.client: reply.task.architecture for reply in replies}
        teacher = self._distiller.teacher(server_round, supernet, self.updates(replies), own)
        if teacher is None:
            return Trained(supernet, velocity, {})
        step = self.averaged(supernet, velocity, teacher.heard)
        taught, metrics = self._distiller.distilled(step.supernet, server_round, teacher)
        seconds = time.perf_counter() - started
        return Trained(taught, step.velocity, {**metrics, "distillation_s": seconds})
