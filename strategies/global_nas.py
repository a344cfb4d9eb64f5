"""Global NAS: FedAvg of one mixed DARTS network that the server prunes on images of its own.

SPIDER (TMLR), appendix D.1: FedNAS (He et al., 2020) with the searcher of SPIDER. All clients train the same
network; before the rounds that the search names, the server scores it without each candidate on its
validation images and deletes what was not chosen. docs/baselines.md has the departures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Weights
from corolla.config.build import build
from corolla.errors import Fault, RefusedError, refuse
from corolla.federation import Federation
from corolla.search.decisions import Search
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_mixed import MixedDartsSpace
from corolla.state import State, below
from corolla.tasks import Reply
from corolla.training.variants import Variant, VariantScore
from corolla.types import Arrays, ClientId, generator
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.search_faults import search_faults
from strategies.updates import updates_of

_LOG = logging.getLogger("corolla")
_SEARCH = 0x61084A5  # keeps the search's draws apart from others of the same seed


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The global network, and how far its search has come."""

    architecture: Architecture
    arrays: Arrays
    undecided: int  # edges and nodes
    trained: int = 0  # rounds in which it was trained
    steps: int = 0  # of the search
    last_step: int | None = None  # by the search's clock
    decisions: tuple[dict[str, Any], ...] = ()


@settings
class GlobalNasSettings:
    """Settings of global NAS."""

    search: Mapping[str, Any]  # a node of conf/method/search: perturbation | random
    weights: Weights  # of clients in the average


class GlobalNas(CorollaStrategy):
    """Everybody trains the same network; the server holds its weights and makes it smaller."""

    has_global = True
    takes_robust = True
    refuses_private = ("its server scores the whole network", "Use private=[]")

    settings: GlobalNasSettings

    def __init__(self, *, federation: Federation, settings: GlobalNasSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        faults = []
        if federation.server is None:
            problem = "global NAS scores on images of the server's own, and it has none"
            remedy = (
                "Use server_set=held_out, or server_set=dataset with images of the same classes"
            )
            faults.append(Fault("server_set", "none", problem, remedy))
        elif not federation.server.labelled:
            problem = "global NAS scores on labels, and the server's images have none"
            remedy = "Use server_set=held_out, or server_set=dataset with server_set.labelled=true"
            faults.append(Fault("server_set", "unlabelled", problem, remedy))
        try:
            self._search: Search = build(settings.search, "search")
        except RefusedError as error:
            raise RefusedError(faults + list(error.faults)) from error
        # A search that acts between backward passes would have to run on the clients.
        if self._search.hook({}, lambda network: torch.zeros(())) is not None:
            problem = "learns while clients train; the server of global NAS only scores"
            remedy = "Use method/search=perturbation or method/search=random"
            faults.append(Fault("search", settings.search.get("_target_"), problem, remedy))
        else:
            faults += search_faults(federation, self._search, at_server=True)
        refuse(faults)
        largest = self.space.largest()
        arrays = self.space.cut(self.space.initial_state(federation.seed), largest)
        undecided = self._search.undecided(self._network(largest, arrays))
        self._now = Progress(architecture=largest, arrays=arrays, undecided=undecided)
        self._ahead: tuple[int, Progress] | None = None  # what `_at` found last: no state

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody the network, pruned as this round's step of the search decides."""
        network = self._at(server_round)
        return [
            Order.both_ways(self.task(server_round, client, network.architecture), network.arrays)
            for client in cohort
        ]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average what came back. Without any answer the round's decisions are left to the next one."""
        before = len(self._now.decisions)
        if replies:
            network = self._at(server_round)
            regions = leading_regions(self.space.shapes(network.architecture))
            updates = updates_of(replies, regions, self.settings.weights)
            averaged = coverage_average(network.arrays, updates, rule=self.federation.robust)
            self._now = replace(network, arrays=averaged, trained=network.trained + 1)
        self._ahead = None
        metrics: dict[str, Any] = {
            "decisions": list(self._now.decisions[before:]),
            "undecided": self._now.undecided,
        }
        return Outcome(metrics)

    def deploys(self, server_round: int) -> bool:
        """A network with undecided edges is never chosen by validation."""
        return not self._now.undecided

    def deployed(self, client: ClientId) -> Deployment:
        """Return the global network."""
        return Deployment(self._now.architecture, self._now.arrays)

    def state(self) -> State:
        """Return the network, its architecture, and how far the search has come."""
        now = dict(vars(self._now))
        arrays, architecture = now.pop("arrays"), now["architecture"].to_list()
        meta = {**now, "architecture": architecture, "decisions": list(now["decisions"])}
        return State(below("model/", arrays), meta)

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        architecture = Architecture.of(state.meta["architecture"])
        decisions = tuple(state.meta["decisions"])
        own = {"architecture": architecture, "decisions": decisions, "arrays": state.part("model/")}
        self._now, self._ahead = Progress(**{**state.meta, **own}), None

    # --- the search -------------------------------------------------------------------------------------

    def _at(self, server_round: int) -> Progress:
        """Return the network as the round trains it: a function of state and round, kept while both last."""
        if self._ahead is None or self._ahead[0] != server_round:
            self._ahead = (server_round, self._searched(server_round))
        return self._ahead[1]

    def _searched(self, server_round: int) -> Progress:
        """Return the network after the step that is due before the round, if one is."""
        now, search, server = self._now, self._search, self.federation.server
        elapsed = server_round - 1 if search.clock == "rounds" else now.trained
        if server is None or not now.undecided or not search.due(elapsed, now.last_step):
            return now
        _LOG.info("round %d: search step %d at the server", server_round, now.steps + 1)

        def judge(network: nn.Module, variants: Sequence[Variant]) -> list[VariantScore]:
            # Only when asked for: a search by lot never reads an image.
            return server.scorer(search.statistics)(network, variants)

        rng = generator(self.federation.seed, now.steps, _SEARCH)
        network = self._network(now.architecture, now.arrays).to(server.trainer.device)
        made = search.step(network, memory={}, judge=judge, rng=rng, round=server_round)
        architecture = cast(MixedDartsSpace, self.space).of_alive(network.alive())
        return replace(
            now,
            architecture=architecture,
            arrays={name: now.arrays[name] for name in self.space.shapes(architecture)},
            undecided=search.undecided(network),
            steps=now.steps + 1,
            last_step=elapsed,
            decisions=now.decisions + tuple(decision.to_dict() for decision in made),
        )

    def _network(self, architecture: Architecture, arrays: Arrays) -> DartsNetwork:
        return cast(DartsNetwork, self.space.load(architecture, arrays))
