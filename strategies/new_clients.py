"""Clients that were not in training: the supernet is frozen, only their policies are searched.

PerFedRLNAS (Yao & Li, AAAI 2024), section "Generalization Ability". A new client evaluates the subnets
that its policy draws, round after round; it trains nothing and uploads no weights. Ours: a policy may
start from the average of the old clients' policies instead of from the uniform one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from flwr.app import MessageType

from corolla.federation import Federation
from corolla.settings import settings
from corolla.state import State
from corolla.tasks import Reply
from corolla.types import ClientId, client_seed
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.fedavg import FedAvg
from strategies.perfednas import PerFedNAS, SubnetRounds
from strategies.perfedrlnas import PerFedRLNAS, PerFedRLNASSettings

_OLD = "trained_clients"  # in the state: who took part in the training that the stage started from


class NewClientsOnly(CorollaStrategy):
    """Leave out clients that took part in training: real sites may stay connected. A mixin: name it first."""

    takes_robust = False  # nothing is averaged
    _trained: list[ClientId]

    def state(self) -> State:
        """Return the method's state, and who took part in training."""
        state = super().state()
        return State(state.arrays, {**state.meta, _OLD: self._trained})

    def load_state(self, state: State) -> None:
        """Invert `state`; those who took part in training are left out from now on."""
        super().load_state(state)
        self._trained = list(
            state.meta.get(_OLD, [])
        )  # a checkpoint of an older release names no clients
        if self.roster is not None:
            self.roster.leave_out(self._trained)


@settings
class PolicySearchSettings(PerFedRLNASSettings):
    """The run's settings, and how the search of new clients begins and goes on."""

    start: Literal["uniform", "average"]  # average: of the old clients' policies
    # random: a drawn subnet is deployed; none: the start's most probable one
    search: Literal["policy", "random", "none"]


class PolicySearch(NewClientsOnly, PerFedRLNAS):
    """Search for the policies of new clients over the supernet of a finished PerFedRLNAS run."""

    order_type = MessageType.EVALUATE
    settings: PolicySearchSettings

    def __init__(self, *, federation: Federation, settings: PolicySearchSettings) -> None:
        only_search = replace(
            settings, warmup_rounds=0, settle=0.0, prescreen=None, final_draws=0, damping=0.0
        )
        super().__init__(federation=federation, settings=only_search)

    def begin_from(self, state: State) -> None:
        """Take supernet and policies of the finished run; new clients start as configured."""
        self.load_state(state)
        self._velocity = {}
        self.policies.begin_new(average=self.settings.start == "average")
        self._reward.forget()

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send each client a subnet that its policy draws, to evaluate."""
        if self.settings.search != "policy":
            return []
        return [
            replace(order, task=replace(order.task, epochs=0, return_arrays=False), returns={})
            for order in super().orders(server_round, cohort)
        ]

    def finished(self, clients: Sequence[ClientId]) -> bool:
        """There is nothing to do where nothing is searched."""
        return self.settings.search != "policy"

    def deployed(self, client: ClientId) -> Deployment:
        """Return the most probable subnet, or one that was drawn where the search is ``random``."""
        if self.settings.search != "random":
            return super().deployed(client)
        rng = self.rng(0, client_seed(client))
        for _ in range(self.settings.max_draws):
            architecture = self.space.sample(rng)
            if self.federation.fits(client, architecture):
                return self._slice(architecture)
        return self._slice(self.space.smallest())

    def _aggregate(self, server_round: int, replies: Sequence[Reply]) -> dict[str, float]:
        """Leave the supernet as it is."""
        return {}


class Frozen(NewClientsOnly):
    """What a finished run would deploy to clients that it did not train with. A mixin: name it first."""

    def begin_from(self, state: State) -> None:
        """Take the finished run's state."""
        self.load_state(state)

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Return no orders: nothing is trained here."""
        return []

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Change nothing."""
        return Outcome()

    def finished(self, clients: Sequence[ClientId]) -> bool:
        """There is nothing to do."""
        return True


class FrozenFedAvg(Frozen, FedAvg):
    """FedAvg's finished model for clients that were not in its training."""


class FrozenPerFedNAS(Frozen, PerFedNAS):
    """Slices of the finished supernet: what the proposals choose for a client that they do not know."""

    def __init__(self, *, federation: Federation, settings: SubnetRounds) -> None:
        nothing = replace(settings, warmup_rounds=0, settle=0.0, prescreen=None, final_draws=0)
        super().__init__(federation=federation, settings=nothing)
