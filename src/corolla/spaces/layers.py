"""Building blocks that every space shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of ``divisor``, never losing more than 10 % (MobileNet's rule)."""
    rounded = max(divisor, math.floor(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm without its batch counter.

    The counter is of use only to a cumulative average, which we compute ourselves; as a state entry it
    would be one more array to send and to average per layer.
    """

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__(channels, affine=affine)
        self.register_buffer("num_batches_tracked", None)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # BatchNorm's own version adds the missing counter of old checkpoints back.
        nn.Module._load_from_state_dict(self, *args, **kwargs)


class ConvBN(nn.Module):
    """Convolution and BatchNorm, followed by ``activation`` if there is one."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        affine: bool = True,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = BatchNorm(outputs, affine=affine)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, outputs, h / stride, w / stride)``."""
        x = self.bn(self.conv(x))
        return x if self.activation is None else self.activation(x)


class Resize(nn.Module):
    """Bring images to ``resolution`` pixels a side (bilinear); nothing to do when they are."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, c, resolution, resolution)``."""
        if images.shape[-1] == self.resolution and images.shape[-2] == self.resolution:
            return images
        size = (self.resolution, self.resolution)
        return functional.interpolate(images, size=size, mode="bilinear", antialias=False)
