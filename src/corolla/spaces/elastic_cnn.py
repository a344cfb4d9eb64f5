"""Elastic CNN: a supernet around the small networks of federated papers, without BatchNorm.

Like LeNet or the CNN of FedAvg (`corolla.spaces.plain_cnn`): stages of dense convolutions with ReLU and 2x2
max pooling, a linear layer, the classifier. Chosen are every stage's channels, its number of convolutions
and their kernel, and the features of the linear layer. What differs from those networks keeps shared weights
meaningful: convolutions are padded, so that no kernel changes how much the linear layer reads; those after a
stage's first, behind its pooling, are added to what they read, so that one more changes little; GroupNorm
(Wu & He, ECCV 2018) makes up for inputs that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from torch import Tensor, nn
from torch.nn import functional

from corolla.errors import nearest
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.block_plans import ascending
from corolla.spaces.conv_layers import ConvLayer
from corolla.spaces.layers import Resize
from corolla.spaces.supernet import Network, Shapes, Supernet

NORMS = ("group", "none")
_CHOICES = ("width", "depth", "kernel")
_FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution of one architecture; ``side`` is of the images that it reads."""

    stage: int
    position: int  # in its stage; pooling follows the first
    inputs: int
    outputs: int
    kernel: int
    side: int

    @property
    def first(self) -> bool:
        """Whether it is its stage's first."""
        return self.position == 0

    @property
    def out_side(self) -> int:
        """Rows, and columns, of what is handed on."""
        return self.side // 2 if self.first else self.side


class Convolution(nn.Module):
    """A stage's first convolution, then pooling; or one of its others, beside the identity.

    Behind it one GroupNorm group of all channels, which any number of channels has, and which scales what
    fewer inputs or a smaller kernel add up to; without it the largest networks do not train at usual steps.
    """

    def __init__(self, layer: Layer, *, norm: bool) -> None:
        super().__init__()
        self.first = layer.first
        padding = layer.kernel // 2
        self.conv = nn.Conv2d(
            layer.inputs, layer.outputs, layer.kernel, padding=padding, bias=not norm
        )
        self.norm = nn.GroupNorm(1, layer.outputs) if norm else None
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, outputs, h / 2, w / 2)`` of a first one, ``(n, outputs, h, w)`` of another."""
        hidden = self.conv(x)
        if self.first:  # before all else: a quarter of the work
            hidden = functional.max_pool2d(hidden, 2)
        if self.norm is not None:
            hidden = self.norm(hidden)
        hidden = functional.relu(hidden, inplace=True)
        return hidden if self.first else x + hidden


class ElasticCNN(Supernet):
    """Choices per stage: channels, number of convolutions, kernel; then the linear layer's features."""

    def __init__(
        self,
        *,
        resolution: int,
        stages: Sequence[Mapping[str, Any]],
        hidden: Sequence[int],
        norm: Literal["group", "none"],
        **network: Unpack[Network],
    ) -> None:
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}: {nearest(norm, NORMS)}")
        if not stages:
            raise ValueError("space.stages=[]: needs at least one stage")
        least = 2 ** len(stages)
        if resolution < least:
            problem = f"resolution={resolution}: {len(stages)} stages halve it"
            raise ValueError(f"{problem}, nothing is left; use {least} or more")
        dimensions = []
        for number, stage in enumerate(stages, start=1):
            key = f"space.stages[{number - 1}]"
            if set(stage) != set(_CHOICES):
                raise ValueError(f"{key} has {sorted(stage)}: need {sorted(_CHOICES)}")
            for choice in _CHOICES:
                candidates = ascending(f"{key}.{choice}", stage[choice])
                dimensions.append(Dimension(f"stage{number}.{choice}", candidates))
            if any(kernel % 2 == 0 for kernel in stage["kernel"]):
                raise ValueError(f"{key}.kernel={list(stage['kernel'])}: must be odd")
        dimensions.append(Dimension("fc.width", ascending("space.hidden", hidden)))
        super().__init__(dimensions=tuple(dimensions), resolution=resolution, **network)
        self.norm = norm == "group"

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the plain CNN of ``architecture``."""
        stages: dict[int, list[nn.Module]] = {}
        for layer in self.layers(architecture):
            stages.setdefault(layer.stage, []).append(Convolution(layer, norm=self.norm))
        features, hidden = self._linear(architecture)
        network = nn.Sequential()
        network.add_module("resize", Resize(self.resolution))
        network.add_module("stages", nn.Sequential(*(nn.Sequential(*s) for s in stages.values())))
        network.add_module("flatten", nn.Flatten())
        network.add_module("fc", nn.Linear(features, hidden))
        network.add_module("relu", nn.ReLU(inplace=True))
        network.add_module("classifier", nn.Linear(hidden, self.num_classes))
        return network

    def layers(self, architecture: Architecture) -> Iterator[Layer]:
        """Yield the convolutions from input to output."""
        chosen = [int(value) for value in self.values(architecture).values()]
        inputs, side = self.in_channels, self.resolution
        choices = zip(chosen[:-1:3], chosen[1:-1:3], chosen[2:-1:3], strict=True)
        for stage, (width, depth, kernel) in enumerate(choices):
            for position in range(depth):
                layer = Layer(
                    stage=stage,
                    position=position,
                    inputs=inputs,
                    outputs=width,
                    kernel=kernel,
                    side=side,
                )
                yield layer
                inputs, side = width, layer.out_side

    def _linear(self, architecture: Architecture) -> tuple[int, int]:
        """Return what the linear layer reads and gives."""
        *_, last = self.layers(architecture)
        return last.outputs * last.out_side**2, int(self.values(architecture)["fc.width"])

    def shapes(self, architecture: Architecture) -> Shapes:
        """Return the state_dict's shapes in closed form: much quicker than to build the module."""
        shapes = Shapes()
        for layer in self.layers(architecture):
            name = f"stages.{layer.stage}.{layer.position}"
            shapes[f"{name}.conv.weight"] = (layer.outputs, layer.inputs, *(layer.kernel,) * 2)
            for entry in ("norm.weight", "norm.bias") if self.norm else ("conv.bias",):
                shapes[f"{name}.{entry}"] = (layer.outputs,)
        features, hidden = self._linear(architecture)
        return shapes | {
            "fc.weight": (hidden, features),
            "fc.bias": (hidden,),
            "classifier.weight": (self.num_classes, hidden),
            "classifier.bias": (self.num_classes,),
        }

    def macs(self, architecture: Architecture) -> int:
        """Return multiply-accumulates of one forward pass in closed form."""
        features, hidden = self._linear(architecture)
        convolutions = sum(
            layer.inputs * layer.outputs * layer.kernel**2 * layer.side**2
            for layer in self.layers(architecture)
        )
        return convolutions + features * hidden + hidden * self.num_classes

    def conv_layers(self, architecture: Architecture) -> list[ConvLayer]:
        """Return the convolutions in closed form."""
        return [
            ConvLayer(
                layer.inputs * layer.kernel**2,
                layer.outputs,
                layer.side,
                f"stages.{layer.stage}.{layer.position}",
            )
            for layer in self.layers(architecture)
        ]

    def activation_bytes(self, architecture: Architecture, batch_size: int) -> int:
        """Return bytes kept for the backward pass in closed form."""
        numbers = self.in_channels * self.resolution**2 + self._linear(architecture)[1]
        for layer in self.layers(architecture):
            out = layer.outputs * layer.out_side**2
            # What pooling reads, and its places, 8 bytes each; what the sum gives to a further convolution.
            numbers += layer.outputs * layer.side**2 + 2 * out if layer.first else out
            # What ReLU gives; what GroupNorm reads, its mean and its deviation.
            numbers += 2 * out + 2 if self.norm else out
        return _FLOAT * batch_size * numbers
