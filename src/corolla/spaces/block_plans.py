"""What the stages of a staged network may be, and the blocks of one architecture with their costs.

A plan knows its block's multiply-accumulates and kept activations in closed form: to run a module only to
count takes far longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from torch import nn

from corolla.spaces.inverted_residual import Block, Head
from corolla.spaces.layers import Activation, ConvBN, make_divisible

_CHOICES = ("width", "depth", "kernel", "expand")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Choices of one stage; stride is that of its first block."""

    width: tuple[int, ...]
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[int, ...]
    stride: int
    se: bool

    @classmethod
    def of(cls, index: int, settings: dict[str, Any]) -> Self:
        """Check one stage of the YAML; ValueError names the key and what it should be."""
        known = set(cls.__dataclass_fields__)
        if set(settings) != known:
            raise ValueError(f"space.stages[{index}] has {sorted(settings)}: need {sorted(known)}")
        values = dict(settings)
        for key in _CHOICES:
            values[key] = ascending(f"space.stages[{index}].{key}", settings[key])
        if any(kernel % 2 == 0 for kernel in values["kernel"]):
            raise ValueError(f"space.stages[{index}].kernel={list(values['kernel'])}: must be odd")
        if settings["stride"] not in (1, 2):
            raise ValueError(f"space.stages[{index}].stride={settings['stride']}: must be 1 or 2")
        for key in ("se", "attention"):
            if key in known and not isinstance(settings[key], bool):
                problem = f"space.stages[{index}].{key}={settings[key]!r}"
                raise ValueError(f"{problem}: must be true or false")
        return cls(**values)


def ascending(key: str, choices: Any) -> tuple[int, ...]:
    """Return the candidates as a tuple; ValueError unless they ascend from 1 or more."""
    values = tuple(choices) if isinstance(choices, Sequence) else (choices,)
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise ValueError(f"{key}={list(values)}: write whole numbers")
    if not values or list(values) != sorted(set(values)) or values[0] < 1:
        raise ValueError(
            f"{key}={list(values)}: write distinct numbers of 1 or more in ascending order"
        )
    return values


class Part(Protocol):
    """A part of one architecture: stem, block or head. Equal ones are built alike."""

    @property
    def name(self) -> str:
        """What the names of its tensors begin with: ``stem``, ``stages.<stage>.<position>`` or ``head``."""

    def __hash__(self) -> int:
        """Return what equal parts have in common."""

    def build(self, activation: Activation) -> nn.Module:
        """Return the plain module."""

    def macs(self) -> int:
        """Return multiply-accumulates for one image."""

    def kept(self) -> int:
        """Return how many numbers one image's forward pass keeps for the backward pass."""


class Plan(Part, Protocol):
    """One block of one architecture."""

    @property
    def outputs(self) -> int:
        """Channels of its output."""

    @property
    def out_side(self) -> int:
        """Rows, and columns, of its output."""


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """An inverted residual block; sides are of its square input and output."""

    name: str
    inputs: int
    middle: int
    outputs: int
    kernel: int
    stride: int
    se: bool
    expands: bool
    shortcut: bool  # a convolution on the way around; otherwise the input itself
    shortcut_bn: bool = True  # and BatchNorm behind it
    in_side: int
    out_side: int

    @property
    def squeeze(self) -> int:
        """Channels inside the squeeze-and-excite."""
        return make_divisible(self.middle // 4)

    def build(self, activation: Activation) -> nn.Module:
        """Return the plain module."""
        return Block(self, activation)

    def macs(self) -> int:
        """Return multiply-accumulates for one image."""
        inside, outside = self.in_side**2, self.out_side**2
        total = self.inputs * self.middle * inside if self.expands else 0
        total += self.middle * self.kernel**2 * outside
        total += 2 * self.middle * self.squeeze if self.se else 0
        total += self.middle * self.outputs * outside
        return total + (self.inputs * self.outputs * outside if self.shortcut else 0)

    def kept(self) -> int:
        """Return how many numbers one image's forward pass keeps for the backward pass."""
        # A convolution keeps its input, BN the convolution's output, the activation the normalised one:
        # three maps per unit with an activation, counting its output as the next one's input.
        inside, outside = self.in_side**2, self.out_side**2
        numbers = 3 * self.middle * inside if self.expands else 0
        numbers += 3 * self.middle * outside
        if self.se:  # the gated map, and the two small layers' inputs and outputs
            numbers += self.middle * outside + 3 * self.middle + 2 * self.squeeze
        numbers += 2 * self.outputs * outside  # the projection's output, and the block's output
        if self.shortcut:
            numbers += self.outputs * outside if self.shortcut_bn else 0
            numbers += self.inputs * outside if self.stride > 1 else 0  # the pooled input
        return numbers


@dataclass(frozen=True, kw_only=True)
class StemPlan:
    """The first convolution; sides are of the resized image and of its output."""

    name: ClassVar[str] = "stem"
    inputs: int
    outputs: int
    stride: int
    in_side: int
    out_side: int

    def build(self, activation: Activation) -> ConvBN:
        """Return the plain module."""
        return ConvBN(self.inputs, self.outputs, 3, stride=self.stride, activation=activation)

    def macs(self) -> int:
        """Return multiply-accumulates for one image."""
        return 9 * self.inputs * self.outputs * self.out_side**2

    def kept(self) -> int:
        """Return how many numbers one image's forward pass keeps for the backward pass."""
        return self.inputs * self.in_side**2 + 3 * self.outputs * self.out_side**2


@dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """Widen, average, mix, classify."""

    name: ClassVar[str] = "head"
    inputs: int
    last: int
    num_classes: int
    side: int

    @property
    def wide(self) -> int:
        """Channels before averaging: six times the last stage's."""
        return 6 * self.inputs

    def build(self, activation: Activation) -> nn.Module:
        """Return the plain module."""
        return Head(self, activation)

    def macs(self) -> int:
        """Return multiply-accumulates for one image."""
        widen = self.inputs * self.wide * self.side**2
        return widen + self.wide * self.last + self.last * self.num_classes

    def kept(self) -> int:
        """Return how many numbers one image's forward pass keeps for the backward pass."""
        return 3 * self.wide * self.side**2 + self.wide + 2 * self.last
