"""A supernet that all train, then one architecture per tier of devices: SuperFedNAS, DeepFedNAS, FedorAS.

PerFedNAS (`strategies.perfednas`) up to the last rounds; then the server searches an architecture for every
tier (`corolla.search.tiers`), and the clients of a tier, where rounds are left for it, train it on together.
A client belongs to the highest tier whose architecture fits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.errors import Fault, gathered, refuse
from corolla.federation import Federation
from corolla.search.tiers import Tiers, TierSettings
from corolla.server_side import ServerSide
from corolla.settings import Count, CountOrNone, Positive, settings
from corolla.spaces.architecture import Architecture
from corolla.state import State
from corolla.tasks import Reply
from corolla.training.subnet_scorer import SubnetScorer
from corolla.types import Arrays, ClientId, shapes_of
from strategies.base import Deployment, Outcome
from strategies.exchange import Order
from strategies.perfednas import PerFedNAS, PerFedNASSettings, SubnetRounds
from strategies.updates import updates_of


@settings
class FineTuning:
    """The last rounds, in which every tier trains its architecture."""

    rounds: CountOrNone
    lr: Positive | None  # step of the clients; None: the round's
    epochs: Count | None  # of a client in a round; None: the run's


@settings
class TieredSettings(PerFedNASSettings):
    """Settings of `Tiered`."""

    tiers: TierSettings
    fine_tuning: FineTuning


class Tiered(PerFedNAS):
    """State: PerFedNAS's; from the search on the tiers' architectures, and the weights that they train."""

    settings: TieredSettings

    def __init__(self, *, federation: Federation, settings: TieredSettings) -> None:
        faults = _faults(federation, settings)
        with gathered(faults):
            self._tiers = Tiers(federation.space, settings.tiers, seed=federation.seed)
        with gathered(faults):
            super().__init__(federation=federation, settings=settings)
        refuse(faults)
        self._found: list[Architecture] = []  # a tier's architecture each; empty before the search
        self._models: list[Arrays] = []  # likewise, once they were trained on
        self._ahead: tuple[Arrays, list[Architecture]] | None = (
            None  # what the search gave: no state
        )

    def supernet_rounds(self, federation: Federation, settings: SubnetRounds) -> int:
        """Return how many rounds are left for the supernet."""
        own = settings.fine_tuning.rounds if isinstance(settings, TieredSettings) else 0
        return max(federation.rounds - own, 1)

    # --- rounds -----------------------------------------------------------------------------------------

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Ask for subnets of the supernet; after the search, for the client's tier."""
        if not self._tunes(server_round):
            return super().orders(server_round, cohort)
        orders = []
        for client in cohort:
            model = self._slice_of(client)
            task = self.task(server_round, client, model.architecture)
            own = self.settings.fine_tuning
            task = replace(task, lr=own.lr or task.lr, epochs=own.epochs or task.epochs)
            orders.append(Order.both_ways(task, model.arrays))
        return orders

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Train the supernet; after the search average each tier's models among themselves."""
        if not self._tunes(server_round):
            return super().absorb(server_round, replies)
        if not replies:
            return Outcome()
        found = self._architectures()
        models = [self._model(tier) for tier in range(len(found))]
        for tier, architecture in enumerate(found):
            own = [reply for reply in replies if reply.task.architecture == architecture]
            regions = leading_regions(shapes_of(models[tier]))
            updates = updates_of(own, regions, self.settings.weights)
            models[tier] = coverage_average(models[tier], updates, rule=self.federation.robust)
        self._found, self._models = found, models
        return Outcome({}, {reply.client: {"tier": self.tier(reply.client)} for reply in replies})

    def conclude(self) -> bool:
        """Search the tiers' architectures, where no round was left to train them."""
        if self._found:
            return False
        self._found = self._architectures()
        return True

    def _tunes(self, server_round: int) -> bool:
        return server_round > self.supernet_rounds(self.federation, self.settings)

    # --- tiers ------------------------------------------------------------------------------------------

    def tier(self, client: ClientId) -> int | None:
        """Return the highest tier, from 1, whose architecture fits the client; None: not even the first."""
        found = self._architectures()
        fitting = [n for n, one in enumerate(found, start=1) if self.federation.fits(client, one)]
        return max(fitting, default=None)

    def _architectures(self) -> list[Architecture]:
        """Return what the search found, or finds now: a function of the supernet and the seed."""
        if self._found:
            return list(self._found)
        if self._ahead is None or self._ahead[0] is not self._supernet:
            by = self.settings.tiers.by
            self._ahead = (
                self._supernet,
                self._tiers.found(self._score() if by == "validation" else None),
            )
        return list(self._ahead[1])

    def _score(self) -> Any:
        """Return what gives losses of architectures on the server's images."""
        scorer = self._scorer(_server(self.federation))

        def losses(architectures: Sequence[Architecture]) -> NDArray[np.float64]:
            return np.array([scorer(architecture).loss for architecture in architectures])

        return losses

    def _scorer(self, server: ServerSide) -> SubnetScorer:
        own = server.images.images
        return SubnetScorer(
            self.space,
            self._supernet,
            server.trainer,
            validation=own,
            recalibration=own,
            batch_size=server.trainer.settings.eval_batch_size,
        )

    def _model(self, tier: int) -> Arrays:
        """Return a tier's weights, counted from 0."""
        if self._models:
            return self._models[tier]
        return self.space.cut(self._supernet, self._architectures()[tier])

    def _slice_of(self, client: ClientId) -> Deployment:
        tier = self.tier(client)
        if tier is None:
            return self._slice(self.space.smallest())
        return Deployment(self._architectures()[tier - 1], self._model(tier - 1))

    # --- deployment and state ---------------------------------------------------------------------------

    def deploys(self, server_round: int) -> bool:
        """What rounds of the supernet deploy is no tier's yet: validation cannot choose it."""
        return self._tunes(server_round)

    def deployed(self, client: ClientId) -> Deployment:
        """Return the model of the client's tier; before the search, what the proposals would choose."""
        return self._slice_of(client) if self._found else super().deployed(client)

    def global_models(self) -> dict[str, Deployment]:
        """Return each tier's model."""
        return {
            f"tier {tier}": Deployment(architecture, self._model(tier - 1))
            for tier, architecture in enumerate(self._architectures(), start=1)
        }

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Add the client's tier."""
        return {**super().describe(client), "tier": self.tier(client)}

    def state(self) -> State:
        """Return PerFedNAS's state, the architectures found and their weights."""
        state = super().state()
        models = {
            f"tier/{tier}/{name}": array
            for tier, model in enumerate(self._models)
            for name, array in model.items()
        }
        found = [architecture.to_list() for architecture in self._found]
        return State({**state.arrays, **models}, {**state.meta, "tiers": found})

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        super().load_state(state)
        self._ahead = None
        self._found = [Architecture.of(choices) for choices in state.meta["tiers"]]
        models = [state.part(f"tier/{tier}/") for tier in range(len(self._found))]
        self._models = models if any(models) else []


def _server(federation: Federation) -> ServerSide:
    if federation.server is None:
        raise RuntimeError("tiers are searched on the server's images, and it has none")
    return federation.server


def _faults(federation: Federation, own: TieredSettings) -> list[Fault]:
    faults = []
    if own.tiers.by == "validation" and (
        federation.server is None or not federation.server.labelled
    ):
        has = "none" if federation.server is None else "unlabelled"
        problem = "tiers are searched on labelled images of the server's own, and it has none"
        remedy = (
            "Use server_set=held_out, server_set=dataset with server_set.labelled=true, or "
            "method.tiers.by=fitness"
        )
        faults.append(Fault("server_set", has, problem, remedy))
    if own.fine_tuning.rounds >= federation.rounds:
        problem = f"leaves none of {federation.rounds} rounds to train the supernet in"
        remedy = "Lower method.fine_tuning.rounds, or raise rounds"
        faults.append(Fault("fine_tuning.rounds", own.fine_tuning.rounds, problem, remedy))
    if own.settle or own.final_draws:
        problem = "has no effect here: every client deploys the architecture of its tier"
        key, value = ("settle", own.settle) if own.settle else ("final_draws", own.final_draws)
        faults.append(Fault(key, value, problem, f"Use method.{key}=0"))
    return faults
