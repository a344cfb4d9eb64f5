"""The candidate operations of a DARTS cell, and the named sets of them.

DARTS: Liu, Simonyan & Yang, ICLR 2019, https://arxiv.org/abs/1806.09055; the reduced sets s2, s3, s4:
Zela et al., ICLR 2020, https://arxiv.org/abs/1909.09656, as SPIDER uses them (after Wang et al., ICLR 2021).
Departure: what operations that read one node have in common is not inside them, but computed and kept once
per node (`View`): the ReLU that opens every convolution, and the even and the odd pixels that a
FactorizedReduce reads. The same function, without up to twenty copies of one map in a training step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.errors import Fault, nearest
from corolla.spaces.layers import BatchNorm

# Ascending in cost at stride 1 and C channels, in parameters (multiply-accumulates go along with them):
# nothing (none, noise, skip), nothing but a BatchNorm (pools), C^2 + 9C, C^2 + 25C, twice the one, twice
# the other. On the edges of stride 2 a skip is a FactorizedReduce with C^2: one order for all edges is
# worth more than that exception. Below 7 channels dil_conv_5x5 is dearer than sep_conv_3x3.
OPERATIONS = (
    "none",
    "noise",
    "skip_connect",
    "max_pool_3x3",
    "avg_pool_3x3",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "sep_conv_3x3",
    "sep_conv_5x5",
)

CARRIES_NOTHING = frozenset(("none", "noise"))
"""Operations whose output does not depend on what they read."""

View = Literal["node", "rectified", "halves"]
"""What an operation reads: the node, its ReLU, or that ReLU's even and odd pixels (`halves`)."""

OPERATION_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "full": tuple(name for name in OPERATIONS if name != "noise"),
        "s2": ("skip_connect", "sep_conv_3x3"),
        "s3": ("none", "skip_connect", "sep_conv_3x3"),
        "s4": ("noise", "sep_conv_3x3"),
    }
)


def operations_of(setting: str | Sequence[str]) -> tuple[tuple[str, ...], list[Fault]]:
    """Return the operations that a set's name or a list of names means, in order of cost, and faults.

    The order of a list does not matter: candidates always ascend in cost.
    """
    if isinstance(setting, str):
        if setting in OPERATION_SETS:
            return OPERATION_SETS[setting], []
        remedy = f"{nearest(setting, list(OPERATION_SETS))}, or a list of operations"
        return (), [Fault("operations", setting, "no such set of operations", remedy)]
    names = [str(name) for name in setting]
    faults = [
        Fault("operations", name, "no such operation", nearest(name, OPERATIONS))
        for name in names
        if name not in OPERATIONS
    ]
    if len(set(names)) < len(names):
        faults.append(Fault("operations", names, "names an operation twice", "Name each once"))
    if not faults and not set(names) - CARRIES_NOTHING:
        carrying = [name for name in OPERATIONS if name not in CARRIES_NOTHING]
        remedy = f"Add at least one of {', '.join(carrying)}"
        faults.append(Fault("operations", names, "leaves nothing that could be trained", remedy))
    return tuple(name for name in OPERATIONS if name in names), faults


class Zero(nn.Module):
    """``none``: contributes nothing. It marks the choice and is never run."""

    reads: View = "node"


class Noise(nn.Module):
    """Standard Gaussian noise of the output's shape: an operation that carries no information (s4).

    New noise in every pass, in training and in evaluation alike, from torch's global generator: seed
    that before an evaluation whose number must repeat.
    """

    reads: View = "node"

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, c, h / stride, w / stride)`` of noise; no gradient reaches ``x``."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride].detach())


class Skip(nn.Module):
    """The input itself."""

    reads: View = "node"

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, not a copy."""
        return x


class Pool(nn.Module):
    """3x3 maximum or mean of the pixels inside the image, then BatchNorm."""

    reads: View = "node"

    def __init__(self, kind: str, channels: int, stride: int, *, affine: bool) -> None:
        super().__init__()
        self.maximum = kind == "max"
        self.stride = stride
        self.bn = BatchNorm(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, c, h / stride, w / stride)``."""
        if self.maximum:
            x = functional.max_pool2d(x, 3, self.stride, 1)
        else:
            x = functional.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)
        return self.bn(x)  # type: ignore[no-any-return]


class DepthwiseSeparable(nn.Module):
    """Depthwise kxk, pointwise, BatchNorm: dil_conv with ``dilation=2``, half of sep_conv with 1."""

    reads: View = "rectified"

    def __init__(
        self, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1, affine: bool
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels,
            channels,
            kernel,
            stride,
            dilation * (kernel // 2),
            dilation,
            groups=channels,
            bias=False,
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = BatchNorm(channels, affine=affine)

    def forward(self, rectified: Tensor) -> Tensor:
        """Return ``(n, c, h / stride, w / stride)``."""
        return self.bn(self.pointwise(self.depthwise(rectified)))  # type: ignore[no-any-return]


class SeparableTwice(nn.Module):
    """sep_conv: two depthwise separable convolutions; the first one has the stride."""

    reads: View = "rectified"

    def __init__(self, channels: int, kernel: int, *, stride: int, affine: bool) -> None:
        super().__init__()
        self.first = DepthwiseSeparable(channels, kernel, stride=stride, affine=affine)
        self.second = DepthwiseSeparable(channels, kernel, affine=affine)

    def forward(self, rectified: Tensor) -> Tensor:
        """Return ``(n, c, h / stride, w / stride)``."""
        # In place: BatchNorm keeps its input for the backward pass, not its output.
        middle = functional.relu(self.first(rectified), inplace=True)
        return self.second(middle)  # type: ignore[no-any-return]


class FactorizedReduce(nn.Module):
    """Halve the sides: one pointwise convolution on the even pixels, one on the odd ones, BatchNorm."""

    reads: View = "halves"

    def __init__(self, inputs: int, outputs: int, *, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, bias=False)
        self.bn = BatchNorm(outputs, affine=affine)

    def forward(self, pixels: tuple[Tensor, Tensor]) -> Tensor:
        """Return ``(n, outputs, h / 2, w / 2)`` from the `halves` of a rectified ``(n, inputs, h, w)``."""
        even, odd = pixels
        return self.bn(torch.cat((self.even(even), self.odd(odd)), dim=1))  # type: ignore[no-any-return]


def halves(rectified: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels at even and at odd places, each ``(n, c, h / 2, w / 2)``; sides must be even.

    Copies in the layout of the input: a convolution would make one anyway, each for itself.
    """
    if rectified.requires_grad:  # never when a model is exported
        return cast(tuple[Tensor, Tensor], _Halves.apply(rectified))
    return _halves(rectified)


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _halves(rectified: Tensor) -> tuple[Tensor, Tensor]:
    even, odd = rectified[:, :, ::2, ::2], rectified[:, :, 1::2, 1::2]
    layout = _layout(rectified)
    return even.contiguous(memory_format=layout), odd.contiguous(memory_format=layout)


class _Halves(torch.autograd.Function):
    """`_halves` with one gradient of the input's size; torch's own slices would make and add four."""

    @staticmethod
    def forward(ctx: Any, rectified: Tensor) -> tuple[Tensor, Tensor]:
        ctx.shape, ctx.layout = rectified.shape, _layout(rectified)
        return _halves(rectified)

    @staticmethod
    def backward(ctx: Any, even: Tensor, odd: Tensor) -> Tensor:
        gradient = torch.empty(
            ctx.shape, dtype=even.dtype, device=even.device, memory_format=ctx.layout
        ).zero_()
        gradient[:, :, ::2, ::2] = even
        gradient[:, :, 1::2, 1::2] = odd
        return gradient


def build_operation(name: str, channels: int, stride: int, *, affine: bool) -> nn.Module:
    """Return the operation ``name`` from ``channels`` to ``channels``; ValueError for others.

    Each module says by ``reads`` which `View` of the node it takes.
    """
    if name not in OPERATIONS:
        raise ValueError(f"operation {name!r}: {nearest(name, OPERATIONS)}")
    if name == "none":
        return Zero()
    if name == "noise":
        return Noise(stride)
    if name == "skip_connect":
        return Skip() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)
    kind, _, kernel = name.rpartition("_")
    if kind.endswith("pool"):
        return Pool(kind[:3], channels, stride, affine=affine)
    size = int(kernel[0])
    if kind == "dil_conv":
        return DepthwiseSeparable(channels, size, stride=stride, dilation=2, affine=affine)
    return SeparableTwice(channels, size, stride=stride, affine=affine)
