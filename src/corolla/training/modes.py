"""Puts a model into training or evaluation mode for a while, and into its memory layout and precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from corolla.training.settings import LoopSettings


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set the mode of all modules, and give each its own back afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def lay_out(model: nn.Module, loop: LoopSettings, device: torch.device) -> None:
    """Move ``model`` to ``device`` in the memory layout of ``loop``; it stays so."""
    layout = torch.channels_last if loop.channels_last else torch.contiguous_format
    model.to(device)
    model.to(memory_format=layout)


def autocast(loop: LoopSettings, device: torch.device) -> AbstractContextManager[object]:
    """Return the precision that forward passes run in: ``loop.autocast``."""
    if loop.autocast == "none":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
