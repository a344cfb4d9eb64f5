"""Optimisers from settings, and their state going from one training into the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from corolla.training.no_compiler import do_without_compiler
from corolla.training.results import OptimizerState
from corolla.training.settings import LoopSettings, TrainerSettings


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that take gradients, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def build_optimizer(
    model: nn.Module, *, settings: TrainerSettings, loop: LoopSettings, lr: float
) -> Optimizer:
    """Return the optimiser of all trainable parameters of ``model``.

    Unless ``decay_norm_and_bias``, vectors and scalars (BatchNorm's gamma and beta, biases) form a
    second group without weight decay.
    """
    do_without_compiler()
    parameters = trainable(model)
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": settings.weight_decay}]
    if settings.weight_decay and not settings.decay_norm_and_bias:
        weights = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups = [
            {"params": weights, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
    kernels: dict[str, Any] = {"fused": loop.fused, "foreach": loop.foreach}
    if settings.optimizer == "adamw":
        return AdamW(groups, lr=lr, betas=settings.betas, **kernels)
    return SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov, **kernels)


def export_state(model: nn.Module, optimizer: Optimizer) -> OptimizerState:
    """Return a copy of the optimiser's state by parameter, in plain memory layout, on the CPU."""
    return {
        name: {entry: _plain(value) for entry, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def restore_state(model: nn.Module, optimizer: Optimizer, saved: OptimizerState) -> None:
    """Carry on from ``saved``, as `export_state` gave it; settings and lr stay the present ones.

    Parameters that ``saved`` does not name start afresh.

    Raises:
        ValueError: the state belongs to other parameters than the model's.

    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unknown = [name for name in saved if name not in parameters]
    if unknown:
        raise ValueError(
            f"optimizer_state has entries for {len(unknown)} parameters that the model does not "
            f"train; the first: {unknown[0]}"
        )
    fused = bool(optimizer.defaults.get("fused"))
    for name, entries in saved.items():
        parameter = parameters[name]
        state = optimizer.state[parameter]
        for entry, value in entries.items():
            if isinstance(value, Tensor) and entry == "step":  # AdamW's counter
                value = value.detach().to(parameter.device if fused else "cpu", copy=True)
            elif isinstance(value, Tensor):
                value = _like(parameter, value, f"optimizer_state[{name!r}].{entry}")
            state[entry] = value


def _like(parameter: nn.Parameter, value: Tensor, where: str) -> Tensor:
    if value.shape != parameter.shape:
        raise ValueError(
            f"{where} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}"
        )
    # Fused kernels walk weight and momentum side by side in memory: both need the same layout,
    # which Optimizer.load_state_dict would not see to.
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def _plain(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
