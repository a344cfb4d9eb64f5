"""How a supernet is trained before anybody searches in it: stage 1 of HAPFNAS, and the arms of it.

Yang & Liu, Entropy 27(7) 759, 2025, Algorithm 1 (`Distilled`). A training holds what is its own; the
supernet's weights are handed in and come back, so that the stages share one set of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Weights
from corolla.federation import Federation
from corolla.settings import Count, CountOrNone, settings
from corolla.spaces.architecture import Architecture
from corolla.state import Stateful
from corolla.tasks import Reply, Task
from corolla.types import Arrays, ClientId
from strategies.base import Deployment
from strategies.exchange import Order
from strategies.updates import updates_of


@settings
class SupernetRounds:
    """How long a supernet is trained."""

    rounds: Count


class SupernetTraining(Stateful, ABC):
    """Rounds of a federation that train a supernet. ``_target_`` of conf/method/supernet_training."""

    settings: SupernetRounds

    def __init__(self, *, settings: SupernetRounds, federation: Federation) -> None:
        self.settings = settings
        self.federation, self.space = federation, federation.space

    @property
    def rounds(self) -> int:
        """How many rounds it takes."""
        return self.settings.rounds

    @abstractmethod
    def orders(self, weights: Arrays, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Return what each client of the cohort trains."""

    @abstractmethod
    def absorb(
        self, weights: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> tuple[Arrays, dict[str, float]]:
        """Return the supernet's next weights and entries for the records; ``weights`` stay as they are."""

    def deployed(self, weights: Arrays) -> Deployment:
        """Return what a client would run in the middle of this stage."""
        smallest = self.space.smallest()
        return Deployment(smallest, self.space.cut(weights, smallest))

    def task(self, server_round: int, client: ClientId, architecture: Architecture) -> Task:
        """Return a client's task in this stage; the step's schedule is over the stage's rounds."""
        return Task(
            client=client,
            round=server_round,
            architecture=architecture,
            epochs=self.federation.local_epochs,
            lr=self.federation.trainer.learning_rate(server_round, self.rounds),
        )


class Untrained(SupernetTraining):
    """No stage 1: the search meets freshly initialised weights, as a control."""

    settings: None  # type: ignore[assignment]

    def __init__(self, *, federation: Federation) -> None:
        self.federation, self.space = federation, federation.space

    @property
    def rounds(self) -> int:
        """None."""
        return 0

    def orders(self, weights: Arrays, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Return no orders."""
        return []

    def absorb(
        self, weights: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> tuple[Arrays, dict[str, float]]:
        """Change nothing."""
        return weights, {}


@settings
class OneShotSettings(SupernetRounds):
    """How clients train the whole supernet."""

    aware: bool  # each client draws only architectures within its own limits
    random_subnets: CountOrNone  # per batch, besides the smallest and the largest
    weights: Weights  # of clients in the average


class OneShot(SupernetTraining):
    """One-shot federated supernet: clients train all of it (sandwich rule), the server averages it.

    The baseline that HAPFNAS is compared with.
    """

    settings: OneShotSettings

    def __init__(self, *, settings: OneShotSettings, federation: Federation) -> None:
        super().__init__(settings=settings, federation=federation)
        self._regions = leading_regions(self.space.supernet_shapes)

    def orders(self, weights: Arrays, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the whole supernet."""
        orders = []
        for client in cohort:
            limits = self.federation.limits(client).to_extra() if self.settings.aware else {}
            work = {"work": "sandwich", "random_subnets": self.settings.random_subnets}
            task = self.task(server_round, client, self.space.largest())
            orders.append(Order.both_ways(replace(task, extra={**work, **limits}), weights))
        return orders

    def absorb(
        self, weights: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> tuple[Arrays, dict[str, float]]:
        """Average the supernets that came back."""
        updates = updates_of(replies, self._regions, self.settings.weights)
        return coverage_average(weights, updates, rule=self.federation.robust), {}
