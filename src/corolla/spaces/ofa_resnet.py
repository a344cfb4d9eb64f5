"""OFA-ResNet for small images: depth of every stage, expansion of every block, and, where wanted, width.

SuperFedNAS's descendant of Once-for-all's ResNet supernet (Cai et al., ICLR 2020,
https://arxiv.org/abs/1908.09791), ResNet-10 to ResNet-26 for images of 32 pixels: its stem halves no sides,
and a block is two 3x3 convolutions with few channels between them. With a choice of every stage's channels,
DeepFedNAS's. A shortcut that changes size is a pooling and a convolution, in a stage's first block only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from torch import Tensor, nn
from torch.nn import functional

from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.block_plans import ascending
from corolla.spaces.conv_layers import ConvLayer
from corolla.spaces.layers import BatchNorm, Resize, make_divisible
from corolla.spaces.supernet import Network, Supernet

_KEYS = {"width", "blocks"}


@dataclass(frozen=True)
class Block:
    """One block of one architecture; ``side`` is of what it reads."""

    name: str
    inputs: int
    hidden: int
    outputs: int
    stride: int
    side: int
    first: bool  # of its stage

    @property
    def out_side(self) -> int:
        """Rows, and columns, of what it gives."""
        return self.side // self.stride


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ``(n, inputs, h, w)`` to ``(n, outputs, h/s, w/s)``."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.stride = block.stride
        self.conv1 = nn.Conv2d(block.inputs, block.hidden, 3, block.stride, padding=1, bias=False)
        self.bn1 = BatchNorm(block.hidden)
        self.conv2 = nn.Conv2d(block.hidden, block.outputs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(block.outputs)
        self.shortcut = (
            nn.Conv2d(block.inputs, block.outputs, 1, bias=False) if block.first else None
        )
        self.shortcut_bn = BatchNorm(block.outputs) if block.first else None

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        kept = images
        if self.shortcut is not None and self.shortcut_bn is not None:
            pooled = images if self.stride == 1 else functional.avg_pool2d(images, self.stride)
            kept = self.shortcut_bn(self.shortcut(pooled))
        hidden = functional.relu(self.bn1(self.conv1(images)))
        # Rectified before the sum as well: so it is published.
        return functional.relu(functional.relu(self.bn2(self.conv2(hidden))) + kept)


class OFAResNet(Supernet):
    """Choices: channels and further blocks of each stage, expansion of each block.

    Args:
        network: name, classes, channels: `corolla.spaces.supernet.Network`.
        resolution: pixels a side, halved by every stage but the first.
        stem: channels of the first convolution.
        stages: of each: ``width``, ascending channels to choose from, and ``blocks`` that are always there.
        depths: ascending numbers of further blocks, 0 or more.
        expands: ascending shares of a block's outputs that it has between its convolutions, multiples of 8.

    Raises:
        ValueError: settings that make no network.

    """

    def __init__(
        self,
        *,
        resolution: int,
        stem: int,
        stages: Sequence[Mapping[str, Any]],
        depths: Sequence[int],
        expands: Sequence[float],
        **network: Unpack[Network],
    ) -> None:
        least = 2 ** max(len(stages) - 1, 0)
        if not stages or resolution < least or resolution % least:
            need = (
                f"{len(stages)} stages need a multiple of {least} pixels"
                if stages
                else "there are no stages"
            )
            raise ValueError(f"resolution={resolution}: {need}; change it or space.supernet.stages")
        if stem < 1:
            raise ValueError(f"stem={stem}: the first convolution needs 1 channel or more")
        ascending("depths", [depth + 1 for depth in depths])
        if not expands or list(expands) != sorted(set(expands)) or expands[0] <= 0:
            raise ValueError(
                f"expands={list(expands)}: write distinct numbers above 0, the lowest first"
            )
        dimensions = []
        for number, stage in enumerate(stages, start=1):
            if set(stage) != _KEYS:
                raise ValueError(f"stages[{number - 1}] has {sorted(stage)}: need {sorted(_KEYS)}")
            width = ascending(f"stages[{number - 1}].width", stage["width"])
            (blocks,) = ascending(f"stages[{number - 1}].blocks", [stage["blocks"]])
            dimensions.append(Dimension(f"stage{number}.width", width))
            dimensions.append(Dimension(f"stage{number}.depth", tuple(depths)))
            for block in range(1, blocks + depths[-1] + 1):
                dimensions.append(Dimension(f"stage{number}.block{block}.expand", tuple(expands)))
        super().__init__(dimensions=tuple(dimensions), resolution=resolution, **network)
        self.stem = stem
        self._blocks = [int(stage["blocks"]) for stage in stages]

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the plain ResNet of ``architecture``."""
        stages: list[list[nn.Module]] = [[] for _ in self._blocks]
        outputs = self.stem
        for block in self.blocks(architecture):
            stages[int(block.name.split(".")[1])].append(ResidualBlock(block))
            outputs = block.outputs
        network = nn.Sequential()
        network.add_module("resize", Resize(self.resolution))
        stem = nn.Conv2d(self.in_channels, self.stem, 3, padding=1, bias=False)
        network.add_module("stem", stem)
        network.add_module("stem_bn", BatchNorm(self.stem))
        network.add_module("stem_relu", nn.ReLU())
        network.add_module("stages", nn.Sequential(*(nn.Sequential(*stage) for stage in stages)))
        network.add_module("pool", nn.AdaptiveAvgPool2d(1))
        network.add_module("flatten", nn.Flatten())
        network.add_module("classifier", nn.Linear(outputs, self.num_classes))
        return network

    def blocks(self, architecture: Architecture) -> Iterator[Block]:
        """Yield the blocks from input to output."""
        chosen = self.values(architecture)
        inputs, side = self.stem, self.resolution
        for number, always in enumerate(self._blocks, start=1):
            width = int(chosen[f"stage{number}.width"])
            for place in range(1, always + int(chosen[f"stage{number}.depth"]) + 1):
                share = float(chosen[f"stage{number}.block{place}.expand"])
                block = Block(
                    name=f"stages.{number - 1}.{place - 1}",
                    inputs=inputs,
                    hidden=make_divisible(round(width * share)),
                    outputs=width,
                    stride=2 if place == 1 and number > 1 else 1,
                    side=side,
                    first=place == 1,
                )
                yield block
                inputs, side = width, block.out_side

    def conv_layers(self, architecture: Architecture) -> list[ConvLayer]:
        """Return the convolutions in closed form."""
        layers = [ConvLayer(9 * self.in_channels, self.stem, self.resolution, "")]
        for block in self.blocks(architecture):
            side, name = block.out_side, block.name
            layers.append(ConvLayer(9 * block.inputs, block.hidden, side, name))
            layers.append(ConvLayer(9 * block.hidden, block.outputs, side, name))
            if block.first:
                layers.append(ConvLayer(block.inputs, block.outputs, side, name))
        return layers

    def macs(self, architecture: Architecture) -> int:
        """Return multiply-accumulates of one forward pass in closed form."""
        layers = self.conv_layers(architecture)
        total = sum(layer.width * layer.channels * layer.side**2 for layer in layers)
        return total + layers[-1].channels * self.num_classes
