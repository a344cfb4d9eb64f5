"""The client of FedRoD: trains the generic model, and beside its head one that never leaves.

Chen & Chao, ICLR 2022, https://arxiv.org/abs/2107.00778; arithmetic in `corolla.training.second_head`.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import nn

from clients.deploy import deploy, scores, training_metrics
from clients.own_model import kept_arrays
from clients.site import Site, require_store
from clients.subnet import SubnetClient
from corolla.spaces.supernet import to_arrays
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.learner import Trainee
from corolla.training.second_head import SecondHead, add_head, blank_head, train_both
from corolla.types import Arrays

_LOSS = "cross_entropy"  # of the sum, and as what both are scored: the paper's generic model has no prior


class FedRodClient(SubnetClient):
    """Keeps its personal head by round; before its first training that is 0: the generic model alone."""

    def __init__(self, *, site: Site, settings: Any = None) -> None:
        super().__init__(site=site, settings=settings)
        self._store = require_store(site)

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train both on the same batches; keep the head, return the generic model."""
        site = self._site
        model = self._load(task, arrays)
        metrics = self._scores_before(model, _without_prior(task))
        own = self._own(task, model, before=task.round)
        head = SecondHead(own.arrays)
        generic, personal = train_both(
            Trainee(model=model, lr=task.lr),
            head,
            site.data.train,
            classes=site.space.num_classes,
            trainer=site.trainer,
            **site.passes(task),
        )
        kept = State(head.arrays(), own.meta)
        self._store.save(site.client, task.round, kept)
        both = self._sum(deepcopy(model), kept)
        metrics |= scores(site, both, shared=False, loss=_LOSS) | _told(kept)
        metrics |= training_metrics(personal, beside=generic)
        # The head takes no pass of its own.
        metrics["samples_processed"] = generic.samples_processed
        return Answer(num_examples=generic.num_examples, arrays=to_arrays(model), metrics=metrics)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the sum of the received generic model and the client's head, and the former alone."""
        model = self._load(task, arrays)
        alone = scores(self._site, model, shared=True, loss=_LOSS, prefix="global_")
        own = self._own(task, model, before=task.round + 1)
        both = scores(self._site, self._sum(model, own), shared=False, loss=_LOSS)
        return self._answer(both | alone | _told(own))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy that sum, one network of the generic model's architecture."""
        model = self._load(task, arrays)
        alone = scores(self._site, model, shared=True, loss=_LOSS, prefix="global_")
        own = self._own(task, model, before=task.round + 1)
        both = self._sum(model, own)
        answer = deploy(self._site, _without_prior(task), both, shared=False)
        return answer.saying(alone | _told(own))

    def _sum(self, model: nn.Module, own: State) -> nn.Module:
        add_head(model, own.arrays, self._site.space.num_classes)
        return model

    def _own(self, task: Task, model: nn.Module, *, before: int) -> State:
        """Return the personal head of the newest round before this one; 0 where there was none."""
        blank = blank_head(model, self._site.space.num_classes)
        return kept_arrays(self._store, self._site.client, before, blank, what="its personal head")


def _without_prior(task: Task) -> Task:
    return replace(task, extra={**task.extra, "loss": _LOSS})


def _told(own: State) -> dict[str, Any]:
    return {"state_restarted": float(own.meta["restarted"])}
