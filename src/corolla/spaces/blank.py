"""Modules without values: built on the meta device, and copied where one like them was built before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Return what ``build`` makes, on the meta device: shapes without values, and nothing drawn."""
    with _WithoutInitialisation(), torch.device("meta"):
        return build()


def copied(module: nn.Module) -> nn.Module:
    """Return a module of its own around the same tensors; its submodules are copied likewise.

    Much quicker than to build it anew. What is put in place of one's tensors, submodules or plain
    attributes is not seen by the other; the tensors themselves are one.
    """
    twin = object.__new__(type(module))
    for key, value in vars(module).items():
        # Registries of parameters, buffers, hooks. An attribute that holds another object is shared.
        twin.__dict__[key] = value.copy() if isinstance(value, dict | set) else value
    children = twin.__dict__["_modules"]
    for name, child in children.items():
        children[name] = None if child is None else copied(child)
    return twin


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves parameters as they are made: on the meta device there are no values to draw.

    Torch would still walk through every draw, which is up to half of the time to build a module.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = kwargs or {}
        drawn = func in (Tensor.normal_, Tensor.uniform_)
        if drawn or getattr(func, "__module__", None) == "torch.nn.init":
            return known["tensor"] if "tensor" in known else args[0]
        return func(*args, **known)


class ShapesOnly(TorchFunctionMode):
    """Runs modules of the meta device without walking through each BatchNorm's arithmetic.

    Torch has it in Python, for tensors without values too, and takes most of a network's time for it. What
    BatchNorm returns and keeps for the backward pass has the same shapes.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.batch_norm and args[0].is_meta:
            return _NormShapes.apply(args[0], *args[1:], *(kwargs or {}).values())
        return func(*args, **(kwargs or {}))


class _NormShapes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, *settings: Any) -> Tensor:
        """Return a tensor like ``images``; keep them, the layer's tensors, and a batch's mean and spread."""
        own = [setting for setting in settings if isinstance(setting, Tensor)]
        batch = [images.new_empty(images.shape[1], device="meta") for _ in range(2)]
        ctx.save_for_backward(images, *own, *batch)
        return torch.empty_like(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """There are no values to go backward through."""
        raise RuntimeError("on the meta device there is nothing to learn")
