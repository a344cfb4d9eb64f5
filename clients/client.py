"""What every client is: it answers tasks, and says what it has. No transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from clients.deploy import plain_scores
from clients.site import Site
from corolla.aggregation.statistics import is_statistic
from corolla.config.build import build_cap
from corolla.limits.client_limits import CAP
from corolla.spaces.supernet import to_arrays
from corolla.tasks import STATISTICS, Answer, Task
from corolla.types import Arrays


class Client(ABC):
    """One way of training. ``arrays`` are what came with the task; an answer's are named alike.

    A client lives for one task. What it keeps between rounds goes through `clients.site.require_store`.
    """

    settings: Any = None  # a subclass names its settings class here; YAML is checked against it

    def __init__(self, *, site: Site, settings: Any = None) -> None:
        self._site = site
        self.settings = settings

    @abstractmethod
    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train for the task's round."""

    @abstractmethod
    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Score what this client would run now; ``val_loss`` is among the metrics."""

    @abstractmethod
    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Make, score, fine-tune and keep the model that this client runs."""

    def as_it_is(self, task: Task, arrays: Arrays) -> Answer:
        """Score the model that came, with nothing of this client's own in it: no statistics, no class prior.

        Or return its BatchNorm statistics on these training images, where the task says so. The same for
        every method: it is not about what the client would run.
        """
        site, model = self._site, self._load(task, arrays)
        if not task.extra.get(STATISTICS):
            return self._answer(plain_scores(site, model))
        site.trainer.recalibrate(model, site.data.train, batch_size=site.config.batch_size)
        found = {name: array for name, array in to_arrays(model).items() if is_statistic(name)}
        return Answer(num_examples=len(site.data.train), arrays=found)

    def facts(self) -> dict[str, Any]:
        """Return what this client says about itself: sizes, limits, perhaps speed; no labels."""
        site = self._site
        data = site.data
        known: dict[str, Any] = {
            "client": site.client,
            "num_examples": [len(data.train), len(data.validation), len(data.test)],
            **site.limits.to_extra(),
        }
        rule = build_cap(site.config)
        if rule is not None and CAP not in known:
            known |= rule.measured(site.space, device=site.trainer.device.type)
        return known

    def _load(self, task: Task, arrays: Arrays) -> nn.Module:
        return self._site.space.load(task.architecture, arrays).to(self._site.trainer.device)

    def _answer(self, metrics: dict[str, Any]) -> Answer:
        """Return an answer without arrays, from this client's training images."""
        return Answer(num_examples=len(self._site.data.train), metrics=metrics)
