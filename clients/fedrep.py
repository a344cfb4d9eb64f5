"""The client of FedRep: trains its head on the received body, then the body below the new head.

Collins et al., ICML 2021, https://arxiv.org/abs/2102.07078. Each phase has an optimiser of its own, and what
it does not train is in none. The head stays on the client's disk (`clients.private_parts`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from clients.deploy import deploy, scores
from clients.subnet import SubnetClient
from corolla.settings import Count, CountOrNone, settings
from corolla.tasks import Answer, Task
from corolla.training.head import frozen, train_classifier
from corolla.training.knn import embed
from corolla.training.results import TrainResult
from corolla.types import Arrays

_HEAD = 0x4EAD  # keeps the head's batch orders apart from the rounds'
_LEAST_FINAL_EPOCHS = 10  # of the authors' code


@settings
class RepSettings:
    """How clients of FedRep train."""

    head_epochs: Count  # tau_h
    body_epochs: Count | None  # tau_phi; None: the run's local_epochs
    # of the head, on the newest body, before every evaluation; None: max(10, head_epochs)
    final_head_epochs: CountOrNone | None
    # the body's BN in the head's epochs; eval: features are computed once | train: it moves, as published
    head_phase_bn: Literal["eval", "train"]


class FedRepClient(SubnetClient):
    """The personalised model is the newest body below the client's head, which was fitted to it."""

    settings: RepSettings

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        if not self._head:
            return super()._train(model, task)
        first = self._fit_head(model, task, self.settings.head_epochs)
        with frozen(model, self._head):
            second = self._site.train(model, task, epochs=self.settings.body_epochs)
        return replace(
            second,
            samples_processed=first.samples_processed + second.samples_processed,
            train_s=first.train_s + second.train_s,
            peak_memory_mib=max(first.peak_memory_mib, second.peak_memory_mib),
        )

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the received body below the client's head, after the head's last epochs."""
        if not self._head:
            return super().evaluate(task, arrays)
        model = self._load(task, arrays)
        self._fit_finally(model, task)
        return self._answer(scores(self._site, model, shared=False))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Fit the head for the last time, and deploy what comes of it."""
        if not self._head:
            return super().deploy(task, arrays)
        model = self._load(task, arrays)
        samples = self._fit_finally(model, task)
        answer = deploy(self._site, task, model, shared=False)
        samples += answer.metrics.get("samples_processed", 0)
        return answer.saying({"samples_processed": samples})

    @property
    def _head(self) -> frozenset[str]:
        """Names of the head's arrays; none where it is not private: there is no such phase then."""
        space = self._site.space
        return space.names_in(["head"]) & space.names_in(self._site.config.private)

    def _fit_finally(self, model: nn.Module, task: Task) -> int:
        """Train the head for its last epochs; return the images gone through."""
        epochs = self.settings.final_head_epochs
        if epochs is None:
            epochs = max(_LEAST_FINAL_EPOCHS, self.settings.head_epochs)
        return self._fit_head(model, task, epochs).samples_processed if epochs else 0

    def _fit_head(self, model: nn.Module, task: Task, epochs: int) -> TrainResult:
        site = self._site
        if self.settings.head_phase_bn == "train":
            body = {name for name, _ in model.named_parameters()} - self._head
            with frozen(model, body):
                return site.train(model, task, _HEAD, epochs=epochs)
        # With the BN statistics by which the model is scored: of the client's own images.
        with site.scoring.applied(model, shared=False, loss="cross_entropy"):
            seen = embed(
                model, site.data.train, trainer=site.trainer, classes=site.space.num_classes
            )
        passes = site.passes(task, _HEAD)
        passes["epochs"] = epochs
        return train_classifier(model, seen, trainer=site.trainer, lr=task.lr, **passes)
