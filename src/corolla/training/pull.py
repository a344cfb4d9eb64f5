"""Pulls a model's parameters towards fixed values: Ditto's and SPIDER's regulariser, as a gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from corolla.errors import Fault
from corolla.settings import NonNegative, Positive, settings
from corolla.training.settings import TrainerSettings
from corolla.types import Arrays


@settings
class PullSettings:
    """How a client trains its own model beside the global one: Ditto, SPIDER."""

    # lambda, the pull of the local model towards the received one; 0: none
    lambda_local: NonNegative
    local_lr_scale: Positive  # eta_v / eta_w: the local step as a multiple of the round's
    # momenta of the global model: start at 0 each round, or outlive it although the weights change
    global_optimizer: Literal["keep", "reset"]

    def step_faults(self, trainer: TrainerSettings) -> list[Fault]:
        """Return what is wrong with the local model's step along its pull."""
        strength = self.lambda_local * self.local_lr_scale
        return overshoot("lambda_local", self.lambda_local, trainer.gradient_lr, strength=strength)


def overshoot(
    key: str,
    value: float,
    lr: float,
    *,
    lr_key: str = "trainer.lr",
    strength: float | None = None,
) -> list[Fault]:
    """Return what is wrong with a step that takes a model as far as what it is pulled to, or beyond it.

    ``step_faults`` of a client's settings returns it; `corolla.config.unbuilt` asks before the start.

    Args:
        key: of the pull; the fault is its.
        value: of ``key``.
        lr: what the pull's gradient is multiplied by.
        lr_key: whose value that is.
        strength: of the pull, where it is not ``value`` alone but grows with it.

    """
    strength = value if strength is None else strength
    if strength * lr < 1:
        return []
    problem = (
        f"pulls by {strength:g}; times {lr_key}={lr:g} that is {strength * lr:.3g}, "
        "and with 1 or more a step goes beyond what it is pulled to"
    )
    remedy = f"Use less than {value / (strength * lr):.3g}, or a smaller {lr_key}"
    return [Fault(key, value, problem, remedy)]


class Pull:
    """An ``after_backward`` hook that adds strength * (parameter - target) to each gradient.

    That is the gradient of strength/2 * ||v - w||^2 (Ditto: Li et al., ICML 2021; SPIDER, eq. 4), added
    before clipping and the optimiser's step, for the parameters that ``targets`` names alone; buffers
    are not pulled. Targets stay what they were: the received model, not one that is trained on.

    Args:
        strength: lambda, 0 or more.
        targets: name -> array; names that the model has no parameter for are ignored.

    Raises:
        ValueError: at the first call, where a target's shape is not its parameter's.

    """

    def __init__(self, *, strength: float, targets: Arrays) -> None:
        self._strength = strength
        self._arrays = {name: array.copy() for name, array in targets.items()} if strength else {}
        self._of: nn.Module | None = None
        self._parameters: list[Tensor] = []
        self._targets: list[Tensor] = []

    def __call__(self, model: nn.Module) -> None:
        """Add the pull to the gradients of ``model``."""
        if self._strength == 0:  # not even 0 * difference: with lambda = 0 no bit may change
            return
        if self._of is not model:
            self._bind(model)
        with torch.no_grad():
            gradients: list[Tensor] = []
            for parameter in self._parameters:
                if parameter.grad is None:  # not part of this pass: the pull is all it gets
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
            differences = torch._foreach_sub(self._parameters, self._targets)
            torch._foreach_add_(gradients, differences, alpha=self._strength)

    def _bind(self, model: nn.Module) -> None:
        """Find the pulled parameters, and lay the targets out as they are: kernels then run side by side."""
        named = {n: p for n, p in model.named_parameters() if n in self._arrays and p.requires_grad}
        for name, parameter in named.items():
            if parameter.shape != self._arrays[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(parameter.shape)}, what it is pulled to "
                    f"{self._arrays[name].shape}"
                )
        self._of, self._parameters = model, list(named.values())
        self._targets = [
            torch.empty_like(parameter).copy_(torch.from_numpy(self._arrays[name]))
            for name, parameter in named.items()
        ]
