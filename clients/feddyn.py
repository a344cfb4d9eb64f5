"""The client of FedDyn: a regulariser that moves with the client makes all optima agree.

Acar et al., ICLR 2021, https://arxiv.org/abs/2111.04263, algorithm 1: theta_k is near the minimum of
f_k(theta) - <g_k, theta> + alpha/2 ||theta - w||^2; then g_k <- g_k - alpha (theta_k - w), 0 at first.

Kept is q_k = -g_k / alpha, as in the authors' code: q_k <- q_k + theta_k - w has no alpha in it. The
gradient of both terms is then alpha (theta - (w - q_k)): a pull, towards w - q_k.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from clients.own_model import kept_arrays
from clients.site import Site, require_store
from clients.subnet import SubnetClient
from corolla.aggregation.statistics import is_statistic
from corolla.errors import Fault
from corolla.settings import NonNegative, settings
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.pull import Pull, overshoot
from corolla.training.results import TrainResult
from corolla.training.settings import TrainerSettings
from corolla.types import Arrays

MEAN_EXAMPLES = "mean_examples"
"""In a task's ``extra``: training images of a client on average, where the method's form needs them."""


@settings
class DynamicSettings:
    """How clients are regularised."""

    alpha: NonNegative  # strength of both terms; 0: FedAvg
    # common: one alpha for all, clipped with the rest | authors: alpha by sizes, the quadratic not clipped
    form: Literal["common", "authors"]

    def step_faults(self, trainer: TrainerSettings, *, most: float = 1.0) -> list[Fault]:
        """Return what is wrong with a step along the pull; ``most``: times alpha, the strongest there is."""
        return overshoot("alpha", self.alpha, trainer.gradient_lr, strength=most * self.alpha)


def dual_names(arrays: Arrays) -> list[str]:
    """Return the names of the parameters: buffers have no dual."""
    return [n for n, array in arrays.items() if not is_statistic(n) and array.dtype.kind == "f"]


class UnclippedQuadratic:
    """An ``after_backward`` hook: the authors' form where gradients are clipped.

    Their alpha/2 ||theta||^2 is weight decay, which torch adds behind the clipping; the rest is part of the
    loss. So this clips by itself: the trainer must not do it again.
    """

    def __init__(self, pull: Pull, *, alpha: float, clip_norm: float) -> None:
        self._pull, self._alpha, self._clip_norm = pull, alpha, clip_norm

    def __call__(self, model: nn.Module) -> None:
        """Add both terms to the gradients of ``model``."""
        self._pull(model)
        pairs = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            for parameter, gradient in pairs:
                gradient.sub_(parameter, alpha=self._alpha)
            nn.utils.clip_grad_norm_([parameter for parameter, _ in pairs], self._clip_norm)
            for parameter, gradient in pairs:
                gradient.add_(parameter, alpha=self._alpha)


class FedDynClient(SubnetClient):
    """FedAvg's client with two more terms. It keeps q_k by round; before its first one q_k is 0."""

    settings: DynamicSettings
    _anchor: Arrays  # w - q_k

    def __init__(self, *, site: Site, settings: Any = None) -> None:
        super().__init__(site=site, settings=settings)
        self._store = require_store(site)

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train the received model, regularised; keep how far it went."""
        if not self.settings.alpha:  # FedAvg: no bit may differ, and there is nothing to keep
            return super().fit(task, arrays)
        client, received = self._site.client, {n: arrays[n].copy() for n in dual_names(arrays)}
        own = kept_arrays(self._store, client, task.round, received, what="its dual variable")
        self._anchor = {name: array - own.arrays[name] for name, array in received.items()}
        answer = super().fit(task, arrays)
        moved = {n: q + (answer.arrays[n] - received[n]) for n, q in own.arrays.items()}
        self._store.save(client, task.round, State(moved, own.meta))
        return answer.saying({"state_restarted": float(own.meta["restarted"])})

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        site, alpha, loss = self._site, self._alpha(task), task.extra.get("loss")
        if not alpha:
            return super()._train(model, task)
        pull, clip_norm = (
            Pull(strength=alpha, targets=self._anchor),
            site.trainer.settings.clip_norm,
        )
        if self.settings.form == "common" or clip_norm is None:
            return site.train(model, task, loss=loss, hook=pull)
        hook = UnclippedQuadratic(pull, alpha=alpha, clip_norm=clip_norm)
        site = replace(site, trainer=site.trainer.replaced(clip_norm=None))
        return site.train(model, task, loss=loss, hook=hook)

    def _alpha(self, task: Task) -> float:
        """Return alpha; in the authors' form alpha n / n_k, with the mean n of all clients."""
        mean = task.extra.get(MEAN_EXAMPLES)
        return self.settings.alpha * (1 if mean is None else mean / len(self._site.data.train))
