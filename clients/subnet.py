"""The client that trains the subnet it receives and keeps nothing between rounds.

PerFedRLNAS, FedAvg and every other method whose clients hold no model of their own.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from clients.adapter import NumPyClient
from clients.deploy import deploy, scores, training_metrics
from clients.site import Site
from corolla.config.build import build_cap
from corolla.limits import BUDGET, CAP
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Task
from corolla.training.results import TrainResult
from corolla.types import Arrays, client_seed


class SubnetClient(NumPyClient):
    """Evaluate what arrives, train it, evaluate what leaves: one exchange."""

    def __init__(self, *, site: Site) -> None:
        self._site = site

    def get_properties(self, config: Any) -> dict[str, Any]:
        """Return who this is and how many images it holds."""
        return facts(self._site)

    def fit(self, parameters: list[Any], config: Any) -> tuple[list[Any], int, dict[str, Any]]:
        """Train the received subnet for the task's epochs; or, when asked to deploy, fine-tune it."""
        site, task = self._site, Task.from_config(config)
        model = self._load(task, dict(zip(config["names"], parameters, strict=True)))
        if "deploy" in task.extra:
            return deploy(site, task, model, shared=True)
        metrics = self._scores_before(model, task)
        result = self._train(model, task)
        metrics |= scores(site, model, shared=False, loss=task.extra.get("loss"))
        metrics |= training_metrics(result)
        return list(to_arrays(model).values()), result.num_examples, metrics

    def evaluate(self, parameters: list[Any], config: Any) -> tuple[float, int, dict[str, Any]]:
        """Evaluate the received subnet."""
        site, task = self._site, Task.from_config(config)
        model = self._load(task, dict(zip(config["names"], parameters, strict=True)))
        metrics = scores(site, model, shared=True, loss=task.extra.get("loss"))
        return metrics["val_loss"], len(site.data.train), metrics

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        """Train the received model in place; what a method does otherwise, it does here."""
        site, data = self._site, self._site.data
        trainer = site.trainer
        if "loss" in task.extra:  # of this task alone
            trainer = trainer.replaced(loss=str(task.extra["loss"]))
        return trainer.train(
            model,
            data.train,
            mean=data.mean,
            std=data.std,
            epochs=task.epochs,
            batch_size=site.config.batch_size,
            lr=task.lr,
            seed=(site.config.seed, task.round, client_seed(site.client)),
        )

    def _scores_before(self, model: nn.Module, task: Task) -> dict[str, Any]:
        """Return the scores of the received model, where they are wanted; it stays as it is."""
        wanted = self._site.config.evaluation.received
        if not (task.extra.get("received", False) if wanted == "auto" else wanted):
            return {}
        loss = task.extra.get("loss")
        return scores(self._site, model, shared=True, loss=loss, prefix="received_")

    def _load(self, task: Task, arrays: Arrays) -> nn.Module:
        return self._site.space.load(task.architecture, arrays).to(self._site.trainer.device)


def facts(site: Site) -> dict[str, Any]:
    """Return what a node says of itself: sizes, limits, speed where caps are made of it; no labels."""
    data = site.data
    known: dict[str, Any] = {
        "client": site.client,
        "num_examples": [len(data.train), len(data.validation), len(data.test)],
    }
    if site.memory_budget_mib is not None:
        known[BUDGET] = site.memory_budget_mib
    cap, rule = site.max_macs, build_cap(site.config)
    if cap is not None:
        known[CAP] = cap
    elif rule is not None:
        known |= rule.measured(site.space, device=site.trainer.device.type)
    return known
