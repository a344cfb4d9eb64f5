"""FedNAS: clients train weights and alpha of one DARTS network, the server averages both; then the genotype.

He, Annavaram & Avestimehr, 2020, https://arxiv.org/abs/2004.08546. A search stage, then a training stage with
the network that alpha names. Without a training stage, and with operations drawn instead of mixed, Direct
FedNAS (https://arxiv.org/abs/2010.06223), whose searched weights are deployed as they are.
docs/fednas_family.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from clients.fednas import ALPHA
from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Weights
from corolla.errors import Fault, refuse
from corolla.federation import Federation
from corolla.search.architect import shape_of
from corolla.search.milenas import MilenasSearch, MilenasSettings
from corolla.settings import Count, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_genotype import KINDS
from corolla.spaces.darts_mixed import MixedDartsSpace
from corolla.state import State
from corolla.tasks import Reply
from corolla.types import Arrays, ClientId, generator, shapes_of
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.search_faults import validation_faults
from strategies.updates import updates_of

_LOT, _FRESH = 0xFED9A5, 1  # keep the lots of equals, and the second stage's initial weights, apart


@settings
class FedNasSettings:
    """Settings of FedNAS's server."""

    search_rounds: Count | None  # of the search stage; None: all, and what was searched is deployed
    train_epochs: Count | None  # of a client in a round of the training stage; None: the run's
    fresh: bool  # the training stage starts from weights of its own, else from those of the search
    topology: bool  # also choose the edges of every node
    in_edges: Count  # that a node keeps
    weights: Weights  # of clients in the averages


@dataclass(frozen=True)
class Decided:
    """The network that alpha named, and its weights."""

    architecture: Architecture
    arrays: Arrays
    decisions: tuple[dict[str, Any], ...]


class FedNas(CorollaStrategy):
    """State: the mixed network with alpha; from the training stage on the network that was decided."""

    takes_robust = True
    refuses_private = ("its clients return alpha beside the whole network", "Use private=[]")
    settings: FedNasSettings

    def __init__(self, *, federation: Federation, settings: FedNasSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        refuse(_faults(federation, settings))
        self._search = MilenasSearch(
            settings=MilenasSettings(  # what it decides by alpha; its own training is not used
                search_rounds=1,
                lr=1.0,
                validation_weight=0.0,
                clock="rounds",
                topology=settings.topology,
                in_edges=settings.in_edges,
            )
        )
        self._largest = self.space.largest()
        arrays = self.space.cut(self.space.initial_state(federation.seed), self._largest)
        alpha = np.zeros(shape_of(cast(DartsNetwork, self.space.blank(self._largest))), np.float32)
        self._mixed: Arrays = {**arrays, **{ALPHA + kind: alpha for kind in KINDS}}
        self._decided: Decided | None = None
        self._ahead: tuple[Arrays, Decided] | None = None  # what alpha names now: no state

    # --- rounds -----------------------------------------------------------------------------------------

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the network: mixed, with alpha, or decided."""
        epochs = self.federation.local_epochs
        if self._searches(server_round):
            architecture, arrays = self._largest, self._mixed
        else:
            decided = self._named()
            architecture, arrays = decided.architecture, decided.arrays
            epochs = self.settings.train_epochs or epochs
        return [
            Order.both_ways(
                self.task(server_round, client, architecture, epochs=epochs), arrays, of=None
            )
            for client in cohort
        ]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average the weights and, in the search, every client's alpha."""
        searches = self._searches(server_round)
        metrics: dict[str, Any] = {"stage": 1 if searches else 2}
        if not replies:
            return Outcome(metrics)
        if searches:
            self._mixed = self._averaged(self._mixed, replies)
            return Outcome({**metrics, "alpha_entropy": self._entropy()})
        before, decided = self._decided, self._named()
        if before is None:
            metrics["decisions"] = list(decided.decisions)
        arrays = self._averaged(decided.arrays, replies)
        self._decided = Decided(decided.architecture, arrays, decided.decisions)
        return Outcome(metrics)

    def _averaged(self, arrays: Arrays, replies: Sequence[Reply]) -> Arrays:
        regions = leading_regions(shapes_of(arrays))
        updates = updates_of(replies, regions, self.settings.weights)
        return coverage_average(arrays, updates, rule=self.federation.robust)

    def _searches(self, server_round: int) -> bool:
        rounds = self.settings.search_rounds
        return rounds is None or server_round <= rounds

    def _entropy(self) -> float:
        """Return how undecided alpha is: the mean entropy of its rows over that of equal weights."""
        rows = torch.cat([torch.tensor(self._mixed[ALPHA + kind]) for kind in KINDS])
        p = rows.double().softmax(1)
        most = np.log(rows.shape[1])
        return float(-(p * p.log()).sum(1).mean() / most) if most else 0.0

    # --- what alpha names -------------------------------------------------------------------------------

    def _named(self) -> Decided:
        """Return the decided network: a function of the mixed one and the seed, until it is trained."""
        if self._decided is not None:
            return self._decided
        if self._ahead is None or self._ahead[0] is not self._mixed:
            self._ahead = (self._mixed, self._decide())
        return self._ahead[1]

    def _decide(self) -> Decided:
        own = {name: a for name, a in self._mixed.items() if not name.startswith(ALPHA)}
        copies = {name: array.copy() for name, array in own.items()}
        network = cast(DartsNetwork, self.space.load(self._largest, copies))
        memory = {kind: torch.tensor(self._mixed[ALPHA + kind]) for kind in KINDS}
        made = self._search.step(
            network,
            memory=memory,
            judge=lambda network, variants: [],  # alpha alone decides
            rng=generator(self.federation.seed, _LOT),
            round=(self.settings.search_rounds or self.federation.rounds) + 1,
        )
        architecture = cast(MixedDartsSpace, self.space).of_alive(network.alive())
        weights = own
        if self.settings.fresh and self.settings.search_rounds is not None:
            weights = self.space.initial_state(self.federation.seed + _FRESH)
        arrays = self.space.cut(weights, architecture)
        return Decided(architecture, arrays, tuple(decision.to_dict() for decision in made))

    # --- deployment and state ---------------------------------------------------------------------------

    def deploys(self, server_round: int) -> bool:
        """A mixed network is never chosen by validation."""
        return self.settings.search_rounds is None or not self._searches(server_round)

    def conclude(self) -> bool:
        """Decide, where no round of the training stage was answered."""
        if self._decided is not None:
            return False
        self._decided = self._named()
        return True

    def deployed(self, client: ClientId) -> Deployment:
        """Return the decided network; in a search stage that another one follows, the mixed one."""
        if self._decided is None and self.settings.search_rounds is not None:
            own = {name: a for name, a in self._mixed.items() if not name.startswith(ALPHA)}
            alphas = {name: a for name, a in self._mixed.items() if name.startswith(ALPHA)}
            return Deployment(self._largest, own, beside=alphas)
        decided = self._named()
        return Deployment(decided.architecture, decided.arrays)

    def global_models(self) -> dict[str, Deployment]:
        """Return the one model."""
        decided = self._named()
        return {"global": Deployment(decided.architecture, decided.arrays)}

    def state(self) -> State:
        """Return the mixed network with alpha, and the decided one."""
        arrays = {f"mixed/{name}": array for name, array in self._mixed.items()}
        meta: dict[str, Any] = {}
        if self._decided is not None:
            arrays |= {f"model/{name}": array for name, array in self._decided.arrays.items()}
            meta["architecture"] = self._decided.architecture.to_list()
            meta["decisions"] = list(self._decided.decisions)
        return State(arrays, meta)

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        self._mixed, self._decided, self._ahead = state.part("mixed/"), None, None
        if "architecture" in state.meta:
            architecture = Architecture.of(state.meta["architecture"])
            decisions = tuple(state.meta["decisions"])
            self._decided = Decided(architecture, state.part("model/"), decisions)


def _faults(federation: Federation, own: FedNasSettings) -> list[Fault]:
    space = federation.space
    if not isinstance(space, MixedDartsSpace):
        remedy = "Use space=darts_s2_mixed or another of the mixed DARTS spaces"
        return [Fault("space", space.name, "holds no mixed networks to search in", remedy)]
    faults = []
    if own.search_rounds is not None:
        problem = "alpha would be chosen on images that are trained on"
        faults += validation_faults(federation, problem)
    if own.search_rounds is not None and own.search_rounds >= federation.rounds:
        problem = f"leaves none of {federation.rounds} rounds to train what was found"
        remedy = f"Use {max(federation.rounds - 1, 1)} or fewer, or raise rounds"
        faults.append(Fault("search_rounds", own.search_rounds, problem, remedy))
    return faults
