"""The client that trains the subnet it receives and keeps nothing between rounds.

PerFedRLNAS, FedAvg and every other method whose clients hold no model of their own.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from clients.client import Client
from clients.deploy import deploy, plain_scores, scores, training_metrics
from corolla.aggregation.statistics import is_statistic
from corolla.spaces.supernet import to_arrays
from corolla.tasks import AS_IS, STATISTICS, Answer, Task
from corolla.training.results import TrainResult
from corolla.types import Arrays


class SubnetClient(Client):
    """Evaluate what arrives, train it, evaluate what leaves: one exchange."""

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train the received subnet for the task's epochs; or return its statistics, if these are wanted."""
        model = self._load(task, arrays)
        if task.extra.get(STATISTICS):
            return self._statistics(model)
        metrics = self._scores_before(model, task)
        result = self._train(model, task)
        metrics |= scores(self._site, model, shared=False, loss=task.extra.get("loss"))
        metrics |= training_metrics(result)
        return Answer(num_examples=result.num_examples, arrays=to_arrays(model), metrics=metrics)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the received subnet."""
        model = self._load(task, arrays)
        if task.extra.get(AS_IS):
            return self._answer(plain_scores(self._site, model))
        return self._answer(scores(self._site, model, shared=True, loss=task.extra.get("loss")))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy the received subnet."""
        return deploy(self._site, task, self._load(task, arrays), shared=True)

    def _statistics(self, model: nn.Module) -> Answer:
        images = self._site.data.train
        self._site.trainer.recalibrate(model, images, batch_size=self._site.config.batch_size)
        arrays = {name: array for name, array in to_arrays(model).items() if is_statistic(name)}
        return Answer(num_examples=len(images), arrays=arrays, metrics={})

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        """Train the received model in place; what a method does otherwise, it does here."""
        return self._site.train(model, task, loss=task.extra.get("loss"))

    def _scores_before(self, model: nn.Module, task: Task) -> dict[str, Any]:
        """Return the scores of the received model, where they are wanted; it stays as it is."""
        wanted = self._site.config.evaluation.received
        if not (task.extra.get("received", False) if wanted == "auto" else wanted):
            return {}
        loss = task.extra.get("loss")
        return scores(self._site, model, shared=True, loss=loss, prefix="received_")

    def _load(self, task: Task, arrays: Arrays) -> nn.Module:
        return self._site.space.load(task.architecture, arrays).to(self._site.trainer.device)
