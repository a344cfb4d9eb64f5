"""What a network's convolutions look like from far: how wide, at what resolution. No weights, no images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ConvLayer(NamedTuple):
    """One convolution."""

    width: int  # output channels, over its groups: 1 of a depthwise one
    channels: int  # that it gives
    side: int  # rows of what it gives


def conv_layers(module: nn.Module, shape: tuple[int, ...]) -> list[ConvLayer]:
    """Return the convolutions of a network on the meta device, in the order in which they run.

    Args:
        module: on the meta device, as `corolla.spaces.supernet.Supernet.blank` gives it.
        shape: of its input, ``(1, channels, h, w)``.

    """
    found: list[ConvLayer] = []

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            width = max(1, layer.out_channels // layer.groups)
            found.append(ConvLayer(width, layer.out_channels, output.shape[-2]))

    hooks = [
        layer.register_forward_hook(note)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    module.eval()
    try:
        with torch.no_grad():
            module(torch.empty(shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return found
