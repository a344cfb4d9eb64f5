"""APFL's local training: a model of the client's own steps by its gradient between it and the shared one.

Deng, Kamani & Mahdavi, "Adaptive Personalized Federated Learning", 2020, https://arxiv.org/abs/2003.13461,
algorithm 1. On every batch the shared w makes its step first, by its own loss; then

    u = alpha v + (1 - alpha) w        v <- v - lr alpha grad f(u)

and, once a round, at the first batch, alpha <- alpha - alpha_lr <v - w, grad f(u)>, within 0 and 1. w takes
no gradient from u. Mixed are parameters; in training BN's statistics are those of the passes of u, and v's.

``outputs`` is what the authors' code mixes: u(x) = alpha v(x) + (1 - alpha) w(x), both before their steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.settings import NonNegative, Share, settings
from corolla.training.batch_loader import Passes
from corolla.training.learner import Trainee
from corolla.training.losses import LabelLoss
from corolla.training.results import OptimizerState, TrainResult
from corolla.training.trainer import LocalTrainer


@settings
class InterpolationSettings:
    """How a client's own model and the shared one are mixed."""

    alpha: Share  # of the own model, at first; 1: Local beside FedAvg, 0: the shared model alone
    alpha_lr: NonNegative  # step of alpha, once a round; 0: it stays as it is
    mix: Literal["weights", "outputs"]  # weights: the paper | outputs: the authors' code


class Mixing:
    """What is mixed in one training; ``alpha`` afterwards is the next one."""

    def __init__(self, settings: InterpolationSettings, alpha: float) -> None:
        self.alpha = alpha
        self._used = alpha  # by the batches up to the first step of alpha
        self._lr = settings.alpha_lr
        self._due = settings.alpha_lr > 0

    def _learn(self, slope: Tensor) -> None:
        self._due = False
        self.alpha = min(max(self.alpha - self._lr * float(slope), 0.0), 1.0)


class WeightMixing(Mixing):
    """Puts u into the own model for each forward pass, and v back for its step."""

    def __init__(
        self, settings: InterpolationSettings, alpha: float, *, own: nn.Module, shared: nn.Module
    ) -> None:
        super().__init__(settings, alpha)
        self._own, self._shared = own, shared
        self._before: list[Tensor] = []  # v, while u is in its place

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Have forward passes of the own model be those of u inside the ``with``."""
        with self._own.register_forward_pre_hook(self._put):
            yield

    def _put(self, model: nn.Module, inputs: Any) -> None:
        self._used = self.alpha
        if self.alpha == 1 and not self._due:  # no bit may change
            return
        with torch.no_grad():
            self._before = [v.clone() for v, _ in self._pairs()]
            if self.alpha == 1:
                return
            for v, w in self._pairs():
                v.copy_(self.alpha * v + (1 - self.alpha) * w)

    def after_backward(self, model: nn.Module) -> None:
        """Put v back, and make of u's gradient v's."""
        if not self._before:
            return
        with torch.no_grad():
            slope: list[Tensor] = []
            for (v, w), before in zip(self._pairs(), self._before, strict=True):
                v.copy_(before)
                if v.grad is None:
                    continue
                if self._due:
                    slope.append(((v - w) * v.grad).sum())
                if self._used != 1:
                    v.grad.mul_(self._used)
            if self._due:
                self._learn(torch.stack(slope).sum())
        self._before = []

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        both = zip(self._own.parameters(), self._shared.parameters(), strict=True)
        return [(v, w) for v, w in both if v.requires_grad]


class OutputMixing(Mixing):
    """Loss of the mixed logits, for the own model; of its own logits, for the shared one."""

    def __init__(
        self,
        settings: InterpolationSettings,
        alpha: float,
        *,
        images: Images,
        trainer: LocalTrainer,
    ) -> None:
        super().__init__(settings, alpha)
        self._loss = LabelLoss(images.labels, trainer.settings, trainer.device)

    def losses(self, logits: Sequence[Tensor], where: Tensor) -> Sequence[Tensor]:
        """Return both models' losses on the images at positions ``where``."""
        shared, own = logits
        alpha = self.alpha
        if self._due:
            difference = (own - shared).detach()
            u = (shared + alpha * (own - shared)).detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._loss(u, where), u)
            self._learn((slope * difference).sum())
        u = own if alpha == 1 else alpha * own + (1 - alpha) * shared.detach()
        return self._loss(shared, where), self._loss(u, where)


class OutputMixture(nn.Module):
    """alpha v(x) + (1 - alpha) w(x), to be scored."""

    def __init__(self, own: nn.Module, shared: nn.Module, alpha: float) -> None:
        super().__init__()
        self.own, self.shared, self.alpha = own, shared, alpha

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        mixture: Tensor = self.alpha * self.own(images) + (1 - self.alpha) * self.shared(images)
        return mixture


def train_interpolated(
    own: nn.Module,
    shared: nn.Module,
    images: Images,
    *,
    alpha: float,
    settings: InterpolationSettings,
    trainer: LocalTrainer,
    lr: float,
    optimizer_state: OptimizerState | None = None,
    **passes: Unpack[Passes],
) -> tuple[TrainResult, TrainResult, float]:
    """Train both models in place; return the own one's result, the shared one's, and the next alpha.

    ``optimizer_state``: the own model's, of an earlier training. The own one's ``train_loss`` is that of u.
    The shared model is trained as alone, to the bit. Errors are those of `LocalTrainer.train_together`.
    """
    first = Trainee(model=shared, lr=lr)
    second = Trainee(model=own, lr=lr, optimizer_state=optimizer_state)
    if settings.mix == "outputs":
        outputs = OutputMixing(settings, alpha, images=images, trainer=trainer)
        outer, inner = trainer.train_together(
            [first, second], images, losses=outputs.losses, keep_optimizer_state=True, **passes
        )
        return inner, outer, outputs.alpha
    weights = WeightMixing(settings, alpha, own=own, shared=shared)
    second = replace(second, after_backward=weights.after_backward)
    with weights.attached():
        outer, inner = trainer.train_together(
            [first, second], images, keep_optimizer_state=True, **passes
        )
    return inner, outer, weights.alpha
