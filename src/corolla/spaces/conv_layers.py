"""What a network's convolutions look like from far: how wide, at what resolution. No weights, no images."""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from corolla.spaces.blank import ShapesOnly

_BLOCK = re.compile(r"[^.]*(\.\d+)+")


class ConvLayer(NamedTuple):
    """One convolution."""

    width: int  # what one output is a sum of: input channels over groups, times the kernel's area
    channels: int  # that it gives
    side: int  # rows of what it gives
    block: str  # that it is part of; empty for stem and head


def block_of(name: str) -> str:
    """Return the block of a module: its name up to the numbers that come first, as ``stages.0.1``."""
    found = _BLOCK.match(name)
    return found[0] if found else ""


def conv_layers(module: nn.Module, shape: tuple[int, ...]) -> list[ConvLayer]:
    """Return the convolutions of a network on the meta device, in the order in which they run.

    Args:
        module: on the meta device, as `corolla.spaces.supernet.Supernet.blank` gives it.
        shape: of its input, ``(1, channels, h, w)``.

    """
    found: list[ConvLayer] = []

    def note(name: str, layer: nn.Conv2d, _: object, output: Tensor) -> None:
        width, side = layer.weight[0].numel(), output.shape[-2]
        found.append(ConvLayer(width, layer.out_channels, side, block_of(name)))

    module.eval()
    with ExitStack() as stack, torch.no_grad(), ShapesOnly():
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d):
                stack.enter_context(layer.register_forward_hook(partial(note, name)))
        module(torch.empty(shape, device="meta"))
    return found
