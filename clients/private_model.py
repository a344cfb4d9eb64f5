"""The client that keeps a model of its own, with its optimiser, which never leaves it: FedMD and FedKEMF."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from clients.client import Client
from clients.deploy import deploy, scores
from clients.own_model import pack_model, unpack_model
from clients.site import Site, require_store
from corolla.errors import RefusedError
from corolla.records.errors import CorruptStateError
from corolla.spaces.architecture import Architecture
from corolla.tasks import Answer, Task
from corolla.training.results import OptimizerState
from corolla.types import Arrays

_LOG = logging.getLogger("corolla")


@dataclass(frozen=True, kw_only=True)
class PrivateModel:
    """The client's model as it was before a round, or after it."""

    model: nn.Module
    optimizer: OptimizerState | None = None
    fresh: bool = False  # it was never trained
    restarted: bool = False  # what was saved could not be used


class PrivateModelClient(Client):
    """Keeps its model by round: a repeated round starts where it first started."""

    def __init__(self, *, site: Site) -> None:
        super().__init__(site=site)
        self._store = require_store(site)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the private model as it is after the task's round."""
        own = self._private(task, after=True)
        metrics = scores(self._site, own.model, shared=False) | self._told(own)
        return self._answer(metrics | self._shared_scores(arrays))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Score and fine-tune the private model; it is kept at the site and not returned."""
        own = self._private(task, after=True)
        known = self._shared_scores(arrays) | self._told(own)
        site = replace(self._site, model_dir=self._site.own_model_dir)
        kept = replace(task, return_arrays=False)
        return deploy(site, kept, own.model, shared=False).saying(known)

    def _shared_scores(self, received: Arrays) -> dict[str, Any]:
        """Return the scores of what the server has, where it has a model, as ``global_...``."""
        return {}

    def _told(self, own: PrivateModel) -> dict[str, Any]:
        return {"state_restarted": float(own.restarted)}

    # --- the client's own files ---------------------------------------------------------------------------

    def _private(self, task: Task, *, after: bool = False) -> PrivateModel:
        """Return the newest model of an earlier round (or of this one), else the common initial one."""
        site, space = self._site, self._site.space
        restarted = False
        try:
            found = self._store.load(site.client, task.round + 1 if after else task.round)
            if found is not None:
                saved = Architecture.of(found[1].meta["architecture"])
                if saved != task.architecture:
                    raise ValueError(f"is of {saved.to_list()}, not {task.architecture.to_list()}")
                arrays, optimizer = unpack_model(found[1])
                model = space.load(task.architecture, arrays).to(site.trainer.device)
                return PrivateModel(model=model, optimizer=optimizer)
        except RefusedError:  # of another experiment, or of a newer release: nothing is overwritten
            raise
        except (CorruptStateError, KeyError, ValueError) as error:
            _LOG.error("client %s: its own model STARTS ANEW: %s", site.client, error)
            restarted = True
        arrays = space.cut(space.initial_state(site.config.seed), task.architecture)
        model = space.load(task.architecture, arrays).to(site.trainer.device)
        return PrivateModel(model=model, fresh=True, restarted=restarted)

    def _keep(self, task: Task, own: PrivateModel, optimizer: OptimizerState | None) -> None:
        """Save the model as it is after the task's round."""
        state = pack_model(own.model, optimizer)
        state.meta["architecture"] = task.architecture.to_list()
        self._store.save(self._site.client, task.round, state)
