"""The client that trains a model of its own and never sends it."""

from __future__ import annotations

from typing import Any

from torch import nn

from clients.client import Client
from clients.deploy import deploy, scores, training_metrics
from clients.own_model import pack_model, unpack_model
from clients.site import Site, require_store
from corolla.tasks import Answer, Task
from corolla.training.results import Evaluation, OptimizerState, TrainResult
from corolla.types import Arrays, client_seed


class LocalClient(Client):
    """Model and optimiser state are files of the client's own; a repeated round starts where it started."""

    def __init__(self, *, site: Site) -> None:
        super().__init__(site=site)
        self._store = require_store(site)

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train on from where the client stopped; with a patience, until validation stops improving."""
        site = self._site
        model, optimizer_state = self._load(task)
        data = site.data
        common: dict[str, Any] = {
            "batch_size": site.config.batch_size,
            "lr": task.lr,
            "seed": (site.config.seed, task.round, client_seed(site.client)),
        }
        if "patience_epochs" in task.extra:
            result: TrainResult = site.trainer.train_until_converged(
                model,
                data.train,
                validate=self._validate,
                patience_epochs=int(task.extra["patience_epochs"]),
                max_epochs=task.epochs,
                **common,
            )
        else:
            result = site.trainer.train(
                model,
                data.train,
                epochs=task.epochs,
                optimizer_state=optimizer_state,
                keep_optimizer_state=True,
                **common,
            )
        self._save(task, model, result.optimizer_state)
        metrics = scores(site, model, shared=False) | training_metrics(result)
        return Answer(num_examples=result.num_examples, metrics=metrics)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the client's own model as it is after the task's round."""
        model, _ = self._load(task, after=True)
        return self._answer(scores(self._site, model, shared=False))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy the client's own model as it is after the task's round."""
        model, _ = self._load(task, after=True)
        return deploy(self._site, task, model, shared=False)

    def _validate(self, model: nn.Module) -> Evaluation:
        """Return the validation score of what ``model`` would be, were it deployed."""
        site, data = self._site, self._site.data
        with site.scoring.applied(model, shared=False):
            return site.trainer.evaluate(model, data.validation)

    def _load(self, task: Task, *, after: bool = False) -> tuple[nn.Module, OptimizerState | None]:
        """Return the newest model of an earlier round (or of this one), or the common initial one."""
        site = self._site
        found = self._store.load(site.client, task.round + 1 if after else task.round)
        if found is None:
            whole = site.space.initial_state(site.config.seed)
            arrays, optimizer_state = site.space.cut(whole, task.architecture), None
        else:
            arrays, optimizer_state = unpack_model(found[1])
        return site.space.load(task.architecture, arrays).to(site.trainer.device), optimizer_state

    def _save(self, task: Task, model: nn.Module, optimizer_state: OptimizerState | None) -> None:
        self._store.save(self._site.client, task.round, pack_model(model, optimizer_state))
