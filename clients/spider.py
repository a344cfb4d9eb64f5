"""The client of SPIDER (TMLR), algorithms 1 and 2: as Ditto's, and its local model becomes smaller."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from clients.ditto import Pair, PairClient
from clients.site import Site
from clients.validation_loss import validation_loss_of
from corolla.config.build import build
from corolla.data.client_data import ClientData
from corolla.search.decisions import Search
from corolla.settings import settings
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_mixed import MixedDartsSpace
from corolla.spaces.supernet import Supernet
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.learner import Hook
from corolla.training.pull import Pull, PullSettings
from corolla.training.variants import VariantScorer
from corolla.types import Arrays, client_seed, generator

_LOG = logging.getLogger("corolla")
_SEARCH, _VALIDATION = 0x5EA7C4, 0xA1FA  # keep the search's draws apart from others


@dataclass(kw_only=True)
class Searched(Pair):
    """Both models, and how far the search has come.

    There is no generator state: every draw follows from seed, round or step, and client.
    """

    participations: int = 0
    steps: int = 0  # of the search
    last_step: int | None = None  # by the search's clock
    decisions: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)  # the search's own tensors
    decided: list[dict[str, Any]] = field(default_factory=list)  # in this round; not kept

    def to_state(self) -> State:
        """Return what goes to the disk."""
        state = super().to_state()
        memory = {
            f"memory/{name}": tensor.detach().cpu().numpy().copy()
            for name, tensor in self.memory.items()
        }
        meta = {
            "participations": self.participations,
            "steps": self.steps,
            "last_step": self.last_step,
            "decisions": self.decisions,
        }
        return State(state.arrays | memory, state.meta | meta)

    @classmethod
    def _fields(cls, space: Supernet, state: State) -> dict[str, Any]:
        memory = state.part("memory/")
        return super()._fields(space, state) | {
            "participations": int(state.meta["participations"]),
            "steps": int(state.meta["steps"]),
            "last_step": state.meta["last_step"],
            "decisions": list(state.meta["decisions"]),
            "memory": {name: torch.from_numpy(array) for name, array in memory.items()},
        }


@settings
class SpiderClientSettings(PullSettings):
    """Settings of SPIDER's clients."""

    search: Mapping[str, Any]  # a node of conf/method/search
    # Tell the server the local architecture, its size and the decisions: true, false, or auto: in
    # simulation. A real node decides for itself: share-architecture=true in its node configuration. Weights
    # are not told in any case.
    share: bool | Literal["auto"]


class SpiderClient(PairClient[Searched]):
    """A pair whose local model is searched."""

    kept = Searched

    settings: SpiderClientSettings

    def __init__(self, *, site: Site, settings: SpiderClientSettings) -> None:
        super().__init__(site=site, settings=settings)
        self._search = cast(Search, build(settings.search, "search"))
        own_word = site.shares_architecture
        self._share = settings.share is not False if own_word is None else own_word

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Search if it is time, train both models, keep the local one, return the global one."""
        own = self._own(task, arrays)
        own.decided = self._step(own, task)
        own.participations += 1
        return self._trained(task, arrays, own, self._data(own).train)

    def _step(self, own: Searched, task: Task) -> list[dict[str, Any]]:
        """Make the step of the search that is due, if one is; return what was decided."""
        search = self._search
        if not search.undecided(_darts(own.model)):
            return []
        if not own.participations and task.round > 1:
            return []  # who joins late, by the federation's clock, trains once before it decides
        elapsed = own.participations if search.clock == "participations" else task.round - 1
        if not search.due(elapsed, own.last_step):
            return []
        site, data, network = self._site, self._site.data, _darts(own.model)
        judge = VariantScorer(
            site.trainer,
            data.validation,
            batch_size=site.trainer.settings.eval_batch_size,
            statistics=search.statistics,
        )
        rng = generator(site.config.seed, own.steps, client_seed(site.client), _SEARCH)
        with site.scoring.with_prior(network, shared=False):
            made = search.step(network, memory=own.memory, judge=judge, rng=rng, round=task.round)
        own.architecture = self._mixed_space().of_alive(network.alive())
        own.optimizer = _of_living(own.optimizer, network)
        own.steps, own.last_step = own.steps + 1, elapsed
        for made_here in made:
            _LOG.info("client %s, round %d: %s", site.client, task.round, made_here)
        records = [decision.to_dict() for decision in made]
        own.decisions += records
        return records

    def _hook(self, task: Task, own: Searched, pull: Pull) -> Hook:
        if not self._search.undecided(_darts(own.model)):
            return pull
        validation_loss = validation_loss_of(self._site, task, _VALIDATION, shared=False)
        extra = self._search.hook(own.memory, validation_loss)
        if extra is None:
            return pull

        def both(network: nn.Module) -> None:
            extra(network)
            pull(network)

        return both

    def _data(self, own: Searched) -> ClientData:
        """Return the client's data: after the last decision validation images are trained on too."""
        return self._site.data.train_on_validation() if self._merged(own) else self._site.data

    def _merged(self, own: Searched) -> bool:
        return not self._search.undecided(_darts(own.model))

    def _deploying(self, own: Searched) -> Site:
        return replace(super()._deploying(own), data=self._data(own))

    def _told(self, own: Searched) -> dict[str, Any]:
        """Return what is told of the local model: how far it is, and, where shared, what it is."""
        undecided = self._search.undecided(_darts(own.model))
        told = super()._told(own) | {
            "phase": 3.0 if not undecided else (1.0 if not own.steps else 2.0),
            "validation_in_training": float(not undecided),
        }
        if self._share:
            space = self._mixed_space()
            costs = space.costs(own.architecture, batch_size=self._site.config.batch_size)
            told |= {
                "own_architecture": own.architecture.to_list(),
                "decisions": json.dumps(own.decided),
                "params": costs.params,
                "macs": costs.macs,
                "undecided": float(undecided),
            }
        return told

    def _own(self, task: Task, arrays: Arrays, *, after: bool = False) -> Searched:
        own = super()._own(task, arrays, after=after)
        if self._search.undecided(_darts(own.model)):
            self._search.begin(_darts(own.model), own.memory)
        return own

    def _read(self, task: Task, state: State) -> Searched:
        return Searched.from_state(self._site.space, state)  # its architecture is the client's own

    def _mixed_space(self) -> MixedDartsSpace:
        return cast(MixedDartsSpace, self._site.space)


def _darts(network: nn.Module) -> DartsNetwork:
    return cast(DartsNetwork, network)


def _of_living(state: Any, network: nn.Module) -> Any:
    """Return an optimiser's state without the entries of deleted parameters."""
    names = {name for name, _ in network.named_parameters()}
    return state and {name: entries for name, entries in state.items() if name in names}
