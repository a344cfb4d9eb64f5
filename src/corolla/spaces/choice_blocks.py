"""One operation per block of a ResNet-like network: FedorAS's space for images.

Dudziak et al., 2022, https://arxiv.org/abs/2206.11239: 16 blocks of 9 candidates, trained as a single-path
supernet. A block adds what its operation gives to what it reads; ``identity`` leaves it as it is. Between
stages a fixed convolution halves the sides, so that every candidate of a block keeps the shape. How far the
text went, and what is ours: docs/fednas_family.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.block_plans import ascending
from corolla.spaces.layers import BatchNorm, Resize
from corolla.spaces.supernet import Shapes, Supernet

IDENTITY = "identity"


def _norm_conv(inputs: int, outputs: int, kernel: int, *, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return [conv, BatchNorm(outputs)]


def _standard(channels: int) -> nn.Module:
    return nn.Sequential(*_norm_conv(channels, channels, 1))


def _separable(channels: int, expansion: float) -> nn.Module:
    """Return two depthwise 3x3 convolutions, each with its pointwise one; between them the expansion."""
    hidden = max(1, round(channels * expansion))
    return nn.Sequential(
        *_norm_conv(channels, channels, 3, groups=channels),
        *_norm_conv(channels, hidden, 1),
        nn.ReLU(),
        *_norm_conv(hidden, hidden, 3, groups=hidden),
        *_norm_conv(hidden, channels, 1),
    )


def _inverted(channels: int, kernel: int, expansion: int) -> nn.Module:
    """Return MobileNetV2's block without its shortcut."""
    hidden = channels * expansion
    return nn.Sequential(
        *_norm_conv(channels, hidden, 1),
        nn.ReLU(),
        *_norm_conv(hidden, hidden, kernel, groups=hidden),
        nn.ReLU(),
        *_norm_conv(hidden, channels, 1),
    )


# In order of cost from 16 channels on.
OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    IDENTITY: lambda channels: nn.Identity(),
    "conv_1": _standard,
    "separable_3_half": lambda channels: _separable(channels, 0.5),
    "separable_3_1": lambda channels: _separable(channels, 1),
    "separable_3_2": lambda channels: _separable(channels, 2),
    "inverted_1_3": lambda channels: _inverted(channels, 1, 3),
    "inverted_3_3": lambda channels: _inverted(channels, 3, 3),
    "inverted_1_6": lambda channels: _inverted(channels, 1, 6),
    "inverted_3_6": lambda channels: _inverted(channels, 3, 6),
}


class ChoiceBlock(nn.ModuleDict):
    """The operations of a block, each under its name; their outputs are added to what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, channels, h, w)``, as it came."""
        outputs = [operation(x) for name, operation in self.items() if name != IDENTITY]
        return functional.relu(sum(outputs, x)) if outputs else x


class ChoiceBlockSpace(Supernet):
    """One operation per block, ``block1`` to the last.

    Args:
        name: of the space.
        num_classes: of the classifier.
        in_channels: of an image.
        resolution: pixels a side, halved between stages.
        stages: of each ``width``, its channels, and ``blocks``, how many choices it has.

    Raises:
        ValueError: settings that make no network.

    """

    def __init__(
        self,
        *,
        name: str,
        num_classes: int,
        in_channels: int,
        resolution: int,
        stages: Sequence[Mapping[str, Any]],
    ) -> None:
        least = 2 ** max(len(stages) - 1, 0)
        if not stages or resolution < least:
            raise ValueError(
                f"resolution={resolution}: {len(stages)} stages; need 1 or more, {least} pixels"
            )
        self._stages: list[tuple[int, int]] = []
        for number, stage in enumerate(stages):
            if set(stage) != {"width", "blocks"}:
                raise ValueError(f"stages[{number}] has {sorted(stage)}: need ['blocks', 'width']")
            (width,) = ascending(f"stages[{number}].width", [stage["width"]])
            (blocks,) = ascending(f"stages[{number}].blocks", [stage["blocks"]])
            self._stages.append((width, blocks))
        count = sum(blocks for _, blocks in self._stages)
        super().__init__(
            name=name,
            dimensions=tuple(
                Dimension(f"block{block}", tuple(OPERATIONS)) for block in range(1, count + 1)
            ),
            num_classes=num_classes,
            in_channels=in_channels,
            resolution=resolution,
        )

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the network with one operation in every block."""
        return self._network([[str(name)] for name in self.values(architecture).values()])

    def supernet(self) -> nn.Module:
        """Build the network that holds all operations of all blocks."""
        return self._network([list(OPERATIONS)] * len(self.dimensions))

    def _network(self, chosen: Sequence[Sequence[str]]) -> nn.Module:
        network = nn.Sequential()
        network.add_module("resize", Resize(self.resolution))
        inputs, remaining = self.in_channels, iter(chosen)
        for number, (width, blocks) in enumerate(self._stages):
            # The images' sides stay, later ones are halved.
            stride = 2 if number else 1
            enter = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
            network.add_module(f"enter{number}", enter)
            network.add_module(f"enter{number}_bn", BatchNorm(width))
            network.add_module(f"enter{number}_relu", nn.ReLU())
            stage = [
                ChoiceBlock({name: OPERATIONS[name](width) for name in next(remaining)})
                for _ in range(blocks)
            ]
            network.add_module(f"stage{number}", nn.Sequential(*stage))
            inputs = width
        network.add_module("pool", nn.AdaptiveAvgPool2d(1))
        network.add_module("flatten", nn.Flatten())
        network.add_module("classifier", nn.Linear(inputs, self.num_classes))
        return network

    def shapes(self, architecture: Architecture) -> Shapes:
        """Return the state_dict's shapes: a choice among the supernet's tensors."""
        names = list(self.values(architecture).values())
        return {
            key: shape
            for key, shape in self.supernet_shapes.items()
            if (place := self._place(key)) is None or names[place[0]] == place[1]
        }

    def macs(self, architecture: Architecture) -> int:
        """Return multiply-accumulates of one forward pass: a convolution multiplies each weight per pixel."""
        return sum(self._weight_macs[key] for key in self.shapes(architecture))

    @cached_property
    def _weight_macs(self) -> dict[str, int]:
        found = {}
        for key, shape in self.supernet_shapes.items():
            side = 1
            if len(shape) == 4:
                stage = int("".join(c for c in key.split(".")[0].split("_")[0] if c.isdigit()))
                side = self.resolution
                for _ in range(stage):
                    side = -(-side // 2)
            found[key] = math.prod(shape) * side**2 if len(shape) > 1 else 0
        return found

    def _place(self, key: str) -> tuple[int, str] | None:
        """Return the block, counted from 0, and the operation that an array belongs to."""
        words = key.split(".")
        if not words[0].startswith("stage"):
            return None
        before = sum(blocks for _, blocks in self._stages[: int(words[0][len("stage") :])])
        return before + int(words[1]), words[2]
