"""The client that trains a model of its own and never sends it."""

from __future__ import annotations

from typing import Any

from torch import nn

from clients.adapter import NumPyClient
from clients.deploy import deploy, scores, training_metrics
from clients.own_model import pack_model, unpack_model
from clients.site import Site, require_store
from clients.subnet import facts
from corolla.tasks import Task
from corolla.training.results import Evaluation, OptimizerState, TrainResult
from corolla.types import client_seed


class LocalClient(NumPyClient):
    """Model and optimiser state are files of the client's own; a repeated round starts where it started."""

    def __init__(self, *, site: Site) -> None:
        self._site = site
        self._store = require_store(site)

    def get_properties(self, config: Any) -> dict[str, Any]:
        """Return who this is and how many images it holds."""
        return facts(self._site)

    def fit(self, parameters: list[Any], config: Any) -> tuple[list[Any], int, dict[str, Any]]:
        """Train on from where the client stopped; with a patience, until validation stops improving."""
        site, task = self._site, Task.from_config(config)
        model, optimizer_state = self._load(task)
        if "deploy" in task.extra:
            return deploy(site, task, model, shared=False)
        data = site.data
        common: dict[str, Any] = {
            "mean": data.mean,
            "std": data.std,
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
        metrics = scores(site, model, shared=False) | training_metrics(result) | {"names": []}
        return [], result.num_examples, metrics

    def evaluate(self, parameters: list[Any], config: Any) -> tuple[float, int, dict[str, Any]]:
        """Evaluate the client's own model as it is after the task's round."""
        site, task = self._site, Task.from_config(config)
        model, _ = self._load(task, after=True)
        metrics = scores(site, model, shared=False)
        return metrics["val_loss"], len(site.data.train), metrics

    def _validate(self, model: nn.Module) -> Evaluation:
        """Return the validation score of what ``model`` would be, were it deployed."""
        site, data = self._site, self._site.data
        with site.scoring.applied(model, shared=False):
            return site.trainer.evaluate(model, data.validation, mean=data.mean, std=data.std)

    def _load(self, task: Task, *, after: bool = False) -> tuple[nn.Module, OptimizerState | None]:
        """Return the newest model of an earlier round (or of this one), or the common initial one."""
        site = self._site
        after = after or "deploy" in task.extra
        found = self._store.load(site.client, task.round + 1 if after else task.round)
        if found is None:
            whole = site.space.initial_state(site.config.seed)
            arrays, optimizer_state = site.space.cut(whole, task.architecture), None
        else:
            arrays, optimizer_state = unpack_model(found[1])
        return site.space.load(task.architecture, arrays).to(site.trainer.device), optimizer_state

    def _save(self, task: Task, model: nn.Module, optimizer_state: OptimizerState | None) -> None:
        self._store.save(self._site.client, task.round, pack_model(model, optimizer_state))
