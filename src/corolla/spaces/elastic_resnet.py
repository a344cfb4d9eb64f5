"""Elastic ResNet: width and depth of every stage, the worked example of docs/add-a-space.md.

He et al., CVPR 2016, https://arxiv.org/abs/1512.03385 (basic blocks). The shortcut convolution of a
stage's first block is always there, so that no tensor's existence depends on a neighbour's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional

from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.block_plans import ascending
from corolla.spaces.layers import BatchNorm, Resize
from corolla.spaces.supernet import Network, Supernet


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``(n, inputs, h, w)`` to ``(n, outputs, h/s, w/s)``."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if first else None

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        kept = images if self.shortcut is None else self.shortcut(images)
        hidden = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(hidden)) + kept)


class ElasticResNet(Supernet):
    """Choices per stage: channels and number of blocks, both ascending."""

    def __init__(
        self,
        *,
        resolution: int,
        widths: Sequence[Sequence[int]],
        depths: Sequence[int],
        **network: Unpack[Network],
    ) -> None:
        need = 2 ** (len(widths) - 1) if widths else 1
        if not widths or resolution < need:
            why = (
                f"{len(widths)} stages need {need} or more pixels"
                if widths
                else "there are no stages"
            )
            raise ValueError(f"resolution={resolution}: {why}; change it or space.supernet.widths")
        dimensions = []
        for number, candidates in enumerate(widths, start=1):
            width = ascending(f"widths[{number - 1}]", candidates)
            dimensions.append(Dimension(f"stage{number}.width", width))
            dimensions.append(Dimension(f"stage{number}.depth", ascending("depths", depths)))
        super().__init__(dimensions=tuple(dimensions), resolution=resolution, **network)

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the plain ResNet of ``architecture``."""
        chosen = [int(value) for value in self.values(architecture).values()]
        inputs, stages = self.in_channels, nn.Sequential()
        for number, (width, depth) in enumerate(zip(chosen[::2], chosen[1::2], strict=True)):
            stride = 1 if number == 0 else 2
            blocks = [Block(inputs, width, stride, first=True)]
            blocks += [Block(width, width, 1, first=False) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        images = Resize(self.resolution)  # what costs are counted for is what runs
        return nn.Sequential(images, stages, pool, nn.Linear(inputs, self.num_classes))
