"""The client that trains a local model of its own beside the global one: Ditto and SPIDER.

Each batch is loaded once and makes two steps, one of the global model that came and goes, one of the local
model, which is pulled towards the received weights and stays with the client. With a `search` the local model
also becomes smaller: SPIDER (TMLR), algorithms 1 and 2; without one this is Ditto (Li et al., ICML 2021).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional

from clients.deploy import deploy, scores
from clients.own_state import OwnState
from clients.site import Site, require_store
from clients.subnet import SubnetClient
from corolla.config.build import build
from corolla.errors import RefusedError
from corolla.records.errors import CorruptStateError
from corolla.search.decisions import Search
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_mixed import MixedDartsSpace
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Answer, Task
from corolla.training.batches import EndlessBatches
from corolla.training.learner import Hook, Trainee
from corolla.training.pull import Pull
from corolla.training.variants import VariantScorer
from corolla.types import Arrays, client_seed, generator

_LOG = logging.getLogger("corolla")
_SEARCH, _VALIDATION = 0x5EA7C4, 0xA1FA  # keep the search's draws apart from others


class LocalGlobalClient(SubnetClient):
    """Global model out of the message, local model out of the client's own files.

    Args:
        lambda_local: lambda, the pull of the local model towards the received one; 0: none.
        local_lr_scale: eta_v / eta_w: the local step as a multiple of the round's.
        global_optimizer: ``reset`` each round, or ``keep`` its momenta although the weights change.
        search: the node of a `corolla.search.decisions.Search`; None: the architecture stays.
        share: tell the server the local architecture, its size and the decisions: true, false, or
            ``auto``: in simulation. A real node decides for itself: ``share-architecture=true`` in its
            node configuration. Weights are not told in any case.

    """

    def __init__(
        self,
        *,
        site: Site,
        lambda_local: float,
        local_lr_scale: float,
        global_optimizer: Literal["keep", "reset"],
        search: Mapping[str, Any] | None,
        share: bool | Literal["auto"],
    ) -> None:
        super().__init__(site=site)
        self._store = require_store(site)
        self._lambda, self._lr_scale = lambda_local, local_lr_scale
        self._keep_global = global_optimizer == "keep"
        self._search = cast(Search, build(search, "search")) if search else None
        own_word = site.shares_architecture
        self._share = share is not False if own_word is None else own_word

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Search if it is time, train both models, keep the local one, return the global one."""
        site = self._site
        own = self._own(task, arrays)
        decided = self._step(own, task)
        data = self._data(own)
        pull = Pull(strength=self._lambda, targets=arrays)  # before training writes to them
        model = self._load(task, arrays)
        outer, inner = site.trainer.train_together(
            [
                Trainee(model=model, lr=task.lr, optimizer_state=own.global_optimizer),
                Trainee(
                    model=own.network,
                    lr=task.lr * self._lr_scale,
                    optimizer_state=own.optimizer,
                    after_backward=self._hook(own, task, pull),
                ),
            ],
            data.train,
            epochs=task.epochs,
            batch_size=site.config.batch_size,
            seed=(site.config.seed, task.round, client_seed(site.client)),
            keep_optimizer_state=True,
        )
        own.optimizer = inner.optimizer_state
        own.global_optimizer = outer.optimizer_state if self._keep_global else None
        own.participations += 1
        metrics = scores(site, own.network, shared=False) | self._told(own, decided)
        self._store.save(site.client, task.round, own.to_state())
        metrics |= {
            "train_loss": inner.train_loss,
            "global_train_loss": outer.train_loss,
            "train_s": inner.train_s,
            "samples_processed": inner.samples_processed + outer.samples_processed,
            "peak_memory_mib": inner.peak_memory_mib,
        }
        return Answer(num_examples=inner.num_examples, arrays=to_arrays(model), metrics=metrics)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the local model as it is after the task's round, and the received global one."""
        own = self._own(task, arrays, after=True)
        metrics = scores(self._site, own.network, shared=False) | self._told(own, [])
        return self._answer(metrics | self._global_scores(task, arrays))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy the local model as it is after the task's round; score the received global one."""
        own = self._own(task, arrays, after=True)
        known = self._global_scores(task, arrays) | self._told(own, [])
        site = replace(self._site, data=self._data(own), model_dir=self._site.own_model_dir)
        private = self._search is not None
        changed = replace(
            task,
            architecture=own.architecture,
            return_arrays=task.return_arrays and not private,
        )
        return deploy(site, changed, own.network, shared=False).saying(known)

    def _global_scores(self, task: Task, received: Arrays) -> dict[str, Any]:
        model = self._load(task, received)
        return scores(self._site, model, shared=True, prefix="global_")

    # --- the search -------------------------------------------------------------------------------------

    def _step(self, own: OwnState, task: Task) -> list[dict[str, Any]]:
        """Make the step of the search that is due, if one is; return what was decided."""
        search = self._search
        if search is None or not search.undecided(_darts(own.network)):
            return []
        if not own.participations and task.round > 1:
            return []  # who joins late, by the federation's clock, trains once before it decides
        elapsed = own.participations if search.clock == "participations" else task.round - 1
        if not search.due(elapsed, own.last_step):
            return []
        site, data, network = self._site, self._site.data, _darts(own.network)
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

    def _hook(self, own: OwnState, task: Task, pull: Pull) -> Hook:
        if self._search is None or not self._search.undecided(_darts(own.network)):
            return pull
        batches: list[EndlessBatches] = []  # made when a search first asks for one
        offset = self._site.scoring.offset(shared=False)
        if offset is not None:
            offset = offset.to(self._site.trainer.device)

        def validation_loss(network: nn.Module) -> Tensor:
            if not batches:
                batches.append(self._validation_batches(task))
            images, labels = next(batches[0])
            logits = network(images).float()
            return functional.cross_entropy(logits if offset is None else logits + offset, labels)

        extra = self._search.hook(own.memory, validation_loss)
        if extra is None:
            return pull

        def both(network: nn.Module) -> None:
            extra(network)
            pull(network)

        return both

    def _validation_batches(self, task: Task) -> EndlessBatches:
        site, data = self._site, self._site.data
        floats = site.trainer.floats(data.validation)
        seed = (site.config.seed, task.round, client_seed(site.client), _VALIDATION)
        return EndlessBatches(floats, batch_size=site.config.batch_size, seed=seed)

    def _data(self, own: OwnState) -> Any:
        """Return the client's data: after the last decision validation images are trained on too."""
        return self._site.data.train_on_validation() if self._merged(own) else self._site.data

    def _merged(self, own: OwnState) -> bool:
        search = self._search
        return search is not None and not search.undecided(_darts(own.network))

    def _told(self, own: OwnState, decided: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what is told of the local model: how far it is, and, where shared, what it is."""
        facts: dict[str, Any] = {"state_restarted": float(own.restarted)}
        if self._search is None:
            return facts
        undecided = self._search.undecided(_darts(own.network))
        facts["phase"] = 3.0 if not undecided else (1.0 if not own.steps else 2.0)
        facts["validation_in_training"] = float(not undecided)
        if self._share:
            space = self._mixed_space()
            costs = space.costs(own.architecture, batch_size=self._site.config.batch_size)
            facts |= {
                "own_architecture": own.architecture.to_list(),
                "decisions": json.dumps(decided),
                "params": costs.params,
                "macs": costs.macs,
                "undecided": float(undecided),
            }
        return facts

    # --- the client's own files ---------------------------------------------------------------------------

    def _own(self, task: Task, received: Arrays, *, after: bool = False) -> OwnState:
        """Return the newest state of an earlier round (or of this one), or a new one."""
        site, space = self._site, self._site.space
        try:
            found = self._store.load(site.client, task.round + 1 if after else task.round)
            if found is None:
                arrays = space.cut(space.initial_state(site.config.seed), task.architecture)
                own = OwnState.begin(space, task.architecture, arrays)
            else:
                own = OwnState.from_state(space, found[1])
        except RefusedError:  # of another experiment, or of a newer release: nothing is overwritten
            raise
        except (CorruptStateError, KeyError, ValueError) as error:
            _LOG.error(
                "client %s: its saved state is damaged; the local model STARTS ANEW from the global "
                "one, search included: %s",
                site.client,
                error,
            )
            own = OwnState.begin(space, task.architecture, received)
            own.restarted = True
        own.network.to(site.trainer.device)
        if self._search is not None and self._search.undecided(_darts(own.network)):
            self._search.begin(_darts(own.network), own.memory)
        return own

    def _mixed_space(self) -> MixedDartsSpace:
        return cast(MixedDartsSpace, self._site.space)


def _darts(network: nn.Module) -> DartsNetwork:
    return cast(DartsNetwork, network)


def _of_living(state: Any, network: nn.Module) -> Any:
    """Return an optimiser's state without the entries of deleted parameters."""
    names = {name for name, _ in network.named_parameters()}
    return state and {name: entries for name, entries in state.items() if name in names}
