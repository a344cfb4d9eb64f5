"""One operation per block of a ResNet-like network: FedorAS's space for images.

Dudziak et al., 2022, https://arxiv.org/abs/2206.11239: 16 blocks of 9 candidates, trained as a single-path
supernet; its public code, https://github.com/SamsungLabs/FedorAS, was read. Stages keep sides and channels,
so that every candidate of a block keeps the shape; behind each, a fixed reduction of two branches halves the
sides and sets the next stage's channels. Every convolution has BatchNorm and ReLU behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Unpack

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.block_plans import ascending
from corolla.spaces.costs import weight_macs
from corolla.spaces.layers import BatchNorm, Resize
from corolla.spaces.supernet import Network, Shapes, Supernet

_conv = partial(Conv2dNormActivation, norm_layer=BatchNorm, inplace=None)


class Shortcut(nn.Sequential):
    """Layers whose output is added to what they read."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, channels, h, w)``, as it came."""
        shortcut = x
        for layer in self:
            x = layer(x)
        return x + shortcut


def _separable(channels: int, expansion: float) -> nn.Module:
    """Return a 3x3 convolution of groups, as many as there can be, and a pointwise one."""
    hidden = max(1, int(channels * expansion))
    groups = math.gcd(channels, hidden)
    return Shortcut(_conv(channels, hidden, 3, groups=groups), _conv(hidden, channels, 1))


def _excited(channels: int, kernel: int, expansion: float) -> nn.Module:
    """Return a convolution of all channels, squeeze-excite as wide as its output, and a pointwise one."""
    hidden = max(1, int(channels * expansion))
    return Shortcut(
        _conv(channels, hidden, kernel),
        SqueezeExcitation(hidden, hidden),
        _conv(hidden, channels, 1),
    )


# In order of cost per pixel, from 19 channels on.
OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "identity": lambda channels: nn.Identity(),
    "separable_3_half": lambda channels: _separable(channels, 0.5),
    "conv_1": lambda channels: _conv(channels, channels, 1),
    "separable_3_1": lambda channels: _separable(channels, 1),
    "separable_3_2": lambda channels: _separable(channels, 2),
    "excited_1_2": lambda channels: _excited(channels, 1, 2),
    "excited_3_half": lambda channels: _excited(channels, 3, 0.5),
    "excited_3_1": lambda channels: _excited(channels, 3, 1),
    "excited_3_2": lambda channels: _excited(channels, 3, 2),
}


class ChoiceBlock(nn.ModuleDict):
    """The operations of a block, each under its name; a subnet has one, the supernet the sum of all."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, channels, h, w)``, as it came."""
        outputs: list[Tensor] = [operation(x) for operation in self.values()]
        return sum(outputs[1:], outputs[0])


class Reduction(nn.Module):
    """Half the sides, other channels: a separable convolution, beside one of 2x2 pixels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = _conv(inputs, inputs, 3, stride=2, groups=inputs)
        self.pointwise = _conv(inputs, outputs, 1)
        self.project = _conv(inputs, outputs, 2, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, outputs, h / 2, w / 2)``; ``h`` and ``w`` are even."""
        return self.pointwise(self.depthwise(x)) + self.project(x)  # type: ignore[no-any-return]


class ChoiceBlockSpace(Supernet):
    """One operation per block, ``block1`` to the last.

    Args:
        network: name, classes, channels: `corolla.spaces.supernet.Network`.
        resolution: pixels a side, halved behind every stage.
        stages: of each ``width``, its channels, and ``blocks``, how many choices it has.
        outputs: channels behind the last stage.

    Raises:
        ValueError: settings that make no network.

    """

    def __init__(
        self,
        *,
        resolution: int,
        stages: Sequence[Mapping[str, Any]],
        outputs: int,
        **network: Unpack[Network],
    ) -> None:
        factor = 2 ** len(stages)
        if not stages or resolution < factor or resolution % factor:
            need = (
                f"{len(stages)} stages need a multiple of {factor} pixels"
                if stages
                else "there are no stages"
            )
            raise ValueError(f"resolution={resolution}: {need}; change it or space.supernet.stages")
        (self._outputs,) = ascending("outputs", [outputs])
        self._stages: list[tuple[int, int]] = []
        for number, stage in enumerate(stages):
            if set(stage) != {"width", "blocks"}:
                raise ValueError(
                    f"stages[{number}] has {sorted(stage)}: write the keys width and blocks, no others"
                )
            (width,) = ascending(f"stages[{number}].width", [stage["width"]])
            (blocks,) = ascending(f"stages[{number}].blocks", [stage["blocks"]])
            self._stages.append((width, blocks))
        count = sum(blocks for _, blocks in self._stages)
        super().__init__(
            dimensions=tuple(
                Dimension(f"block{block}", tuple(OPERATIONS)) for block in range(1, count + 1)
            ),
            resolution=resolution,
            **network,
        )

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the network with one operation in every block."""
        return self._network([[str(name)] for name in self.values(architecture).values()])

    def supernet(self) -> nn.Module:
        """Build the network that holds all operations of all blocks."""
        return self._network([list(OPERATIONS)] * len(self.dimensions))

    def _network(self, chosen: Sequence[Sequence[str]]) -> nn.Module:
        network, remaining = nn.Sequential(), iter(chosen)
        network.add_module("resize", Resize(self.resolution))
        network.add_module("stem", _conv(self.in_channels, self._stages[0][0], 3))
        widths = [width for width, _ in self._stages[1:]] + [self._outputs]
        for number, ((width, blocks), after) in enumerate(zip(self._stages, widths, strict=True)):
            stage = [
                ChoiceBlock({name: OPERATIONS[name](width) for name in next(remaining)})
                for _ in range(blocks)
            ]
            network.add_module(f"stage{number}", nn.Sequential(*stage))
            network.add_module(f"reduce{number}", Reduction(width, after))
        network.add_module("pool", nn.AdaptiveAvgPool2d(1))
        network.add_module("flatten", nn.Flatten())
        network.add_module("classifier", nn.Linear(self._outputs, self.num_classes))
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
        """Return multiply-accumulates of one forward pass, summed over the weights."""
        return sum(self._weight_macs[key] for key in self.shapes(architecture))

    @cached_property
    def _weight_macs(self) -> dict[str, int]:
        sides = {"stem": self.resolution, "classifier": 1}
        for number in range(len(self._stages)):
            sides[f"stage{number}"] = self.resolution // 2**number
            sides[f"reduce{number}"] = self.resolution // 2 ** (number + 1)
        # Squeezed maps are means: one pixel.
        return weight_macs(
            self.supernet_shapes, lambda key: 1 if ".fc" in key else sides[key.partition(".")[0]]
        )

    def _place(self, key: str) -> tuple[int, str] | None:
        """Return the block, counted from 0, and the operation that an array belongs to."""
        words = key.split(".")
        if not words[0].startswith("stage"):
            return None
        before = sum(blocks for _, blocks in self._stages[: int(words[0][len("stage") :])])
        return before + int(words[1]), words[2]
