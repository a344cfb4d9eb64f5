"""How a supernet is trained before anybody searches in it: stage 1 of HAPFNAS, and the arms of it.

Yang & Liu, Entropy 27(7) 759, 2025, Algorithm 1 (`Distilled`). A training holds what is its own; the
supernet's weights are handed in and come back, so that the stages share one set of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Weights, update_weight
from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.state import State
from corolla.tasks import Reply, Task
from corolla.types import Arrays, ClientId
from strategies.base import Deployment
from strategies.exchange import Order
from strategies.updates import updates_of


class SupernetTraining(ABC):
    """Rounds of a federation that train a supernet. Classes are ``_target_`` of conf/supernet_training."""

    rounds: int

    def __init__(self, *, federation: Federation, rounds: int) -> None:
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            remedy = "Use 1 or more; supernet_training=none trains none"
            raise RefusedError(
                Fault("supernet_training.rounds", rounds, "is no number of rounds", remedy)
            )
        self.federation, self.space, self.rounds = federation, federation.space, rounds

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

    def state(self) -> State:
        """Return what the training knows besides the supernet's weights."""
        return State({}, {})

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        return

    def learning_rate(self, server_round: int) -> float:
        """Return the clients' step; the schedule is over this stage's rounds."""
        return self.federation.trainer.learning_rate(server_round, self.rounds)


class Untrained(SupernetTraining):
    """No stage 1: the search meets freshly initialised weights, as a control."""

    def __init__(self, *, federation: Federation) -> None:
        self.federation, self.space, self.rounds = federation, federation.space, 0

    def orders(self, weights: Arrays, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Ask nobody."""
        return []

    def absorb(
        self, weights: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> tuple[Arrays, dict[str, float]]:
        """Change nothing."""
        return weights, {}


class OneShot(SupernetTraining):
    """One-shot federated supernet: clients train all of it (sandwich rule), the server averages it.

    The baseline that HAPFNAS is compared with. ``aware``: each client draws only architectures within its
    own limits; otherwise everybody trains all of them, whatever its device can do.
    """

    def __init__(
        self,
        *,
        federation: Federation,
        rounds: int,
        aware: bool,
        random_subnets: int,
        weights: Weights,
    ) -> None:
        super().__init__(federation=federation, rounds=rounds)
        update_weight(weights, 1)  # refuses an unknown one
        self._aware, self._random_subnets, self._weights = aware, random_subnets, weights
        shapes = self.space.supernet_shapes
        self._shapes, self._regions = shapes, leading_regions(shapes, shapes)

    def orders(self, weights: Arrays, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the whole supernet."""
        settings, orders = self.federation, []
        for client in cohort:
            limits = settings.limits(client).to_extra() if self._aware else {}
            task = Task(
                client=client,
                round=server_round,
                architecture=self.space.largest(),
                epochs=settings.local_epochs,
                lr=self.learning_rate(server_round),
                extra={"work": "sandwich", "random_subnets": self._random_subnets, **limits},
            )
            orders.append(Order(task=task, arrays=weights, returns=self._shapes))
        return orders

    def absorb(
        self, weights: Arrays, server_round: int, replies: Sequence[Reply]
    ) -> tuple[Arrays, dict[str, float]]:
        """Average the supernets that came back."""
        updates = updates_of(replies, self._regions, self._weights)
        return coverage_average(weights, updates, rule=self.federation.robust), {}
