"""A model in training: its optimiser, its forward passes and its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corolla.training.execution_mode import autocast, lay_out
from corolla.training.memory import MemoryCount, backward
from corolla.training.optimizers import build_optimizer, export_state, restore_state, trainable
from corolla.training.results import OptimizerState
from corolla.training.settings import LoopSettings, TrainerSettings

Hook = Callable[[nn.Module], None]
"""Called after backward, before clipping and the optimiser's step: adds to the gradients."""


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """A model to train in place, and what is its own of a training.

    ``lr``: step. ``optimizer_state``: of an earlier training, to carry on from; None: start afresh.
    ``after_backward`` gets the model after each backward pass, before clipping and the step. ``sparse``: a
    step may leave parameters without gradients, which then rest.
    """

    model: nn.Module
    lr: float
    optimizer_state: OptimizerState | None = None
    after_backward: Hook | None = None
    sparse: bool = False


class Learner:
    """A trainee with its optimiser. A step frees its gradients, so several share the peak of memory.

    Raises:
        ValueError: a step size that is out of range.

    """

    def __init__(
        self,
        trainee: Trainee,
        *,
        settings: TrainerSettings,
        loop: LoopSettings,
        device: torch.device,
    ) -> None:
        if not (math.isfinite(trainee.lr) and trainee.lr >= 0):
            raise ValueError(f"lr={trainee.lr}: need a finite number, 0 or more")
        self.model, self.lr = trainee.model, trainee.lr
        lay_out(self.model, loop, device)
        self._clip_norm, self._loop, self._device = settings.clip_norm, loop, device
        self._after_backward = trainee.after_backward
        self._parameters = trainable(self.model)
        self._optimizer = build_optimizer(self.model, settings=settings, loop=loop, lr=self.lr)
        self.memory = MemoryCount(self.model, self._optimizer, device)
        if trainee.optimizer_state is not None:
            restore_state(self.model, self._optimizer, trainee.optimizer_state)
        if trainee.sparse and settings.optimizer == "sgd" and settings.momentum:
            self.start_momentum()
        self._optimizer.zero_grad()  # whatever the caller left there

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes) in float32."""
        with self.memory.first_forward(), autocast(self._loop, self._device):
            logits: Tensor = self.model(images)
        return logits.float()

    def step(self, loss: Tensor) -> Tensor:
        """Make one step down ``loss`` and return it."""
        backward(loss)
        self.update()
        return loss.detach()

    def update(self) -> None:
        """Make the step that the gradients ask for."""
        if self._after_backward is not None:
            self._after_backward(self.model)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()
        self.memory.after_first_step()
        self._optimizer.zero_grad()  # frees the gradients before the next forward pass

    def set_lr(self, lr: float) -> None:
        """Take another step size from now on."""
        self.lr = lr
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def start_momentum(self) -> None:
        """Begin SGD's momentum at 0 for every parameter: the same as at its first gradient.

        torch's fused SGD cannot take a parameter whose first gradient comes in a later step than others'.
        """
        for parameter in self._parameters:
            state = self._optimizer.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)

    def optimizer_state(self) -> OptimizerState:
        """Return a copy of the optimiser's state, from which another training carries on."""
        return export_state(self.model, self._optimizer)
