"""The client that trains the subnet it receives and keeps nothing between rounds.

PerFedRLNAS, FedAvg and every other method whose clients hold no model of their own.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from torch import nn

from clients.client import Client
from clients.deploy import deploy, scores, training_metrics
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Answer, Task
from corolla.training.results import TrainResult
from corolla.types import Arrays


class SubnetClient(Client):
    """Evaluate what arrives, train it, evaluate what leaves: one exchange."""

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train the received subnet for the task's epochs."""
        model = self._load(task, arrays)
        metrics = self._scores_before(model, task)
        result = self._train(model, task)
        metrics |= scores(self._site, model, shared=False, loss=task.extra.get("loss"))
        metrics |= training_metrics(result)
        return Answer(num_examples=result.num_examples, arrays=to_arrays(model), metrics=metrics)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the received subnet."""
        model = self._load(task, arrays)
        return self._answer(scores(self._site, model, shared=True, loss=task.extra.get("loss")))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy the received subnet."""
        return deploy(self._site, task, self._load(task, arrays), shared=True)

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


class PersonalClient(SubnetClient):
    """Makes what it receives its own before it scores or deploys it, and keeps none of that."""

    @abstractmethod
    def _personal(self, model: nn.Module, task: Task) -> tuple[int, bool, str | None]:
        """Change ``model``; return images gone through, whether it is still as it came, and its loss.

        A loss of None: that of the trainer.
        """

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the received model as it is, and made the client's own."""
        model = self._load(task, arrays)
        alone = scores(self._site, model, shared=True, prefix="global_")
        _, shared, loss = self._personal(model, task)
        return self._answer(scores(self._site, model, shared=shared, loss=loss) | alone)

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy what the client makes of the received model; the images that it takes are counted."""
        model = self._load(task, arrays)
        alone = scores(self._site, model, shared=True, prefix="global_")
        samples, shared, loss = self._personal(model, task)
        told = task if loss is None else replace(task, extra={**task.extra, "loss": loss})
        answer = deploy(self._site, told, model, shared=shared)
        samples += answer.metrics.get("samples_processed", 0)
        return answer.saying(alone | {"samples_processed": samples})
