"""Modules without values: built on the meta device, and copied where one like them was built before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
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
        if getattr(func, "__module__", None) == "torch.nn.init":
            return known["tensor"] if "tensor" in known else args[0]
        return func(*args, **known)
