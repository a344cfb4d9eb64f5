"""Plain modules of staged mobile networks: stem, inverted residual block, head, and their sequence.

MobileNetV2, MobileNetV3 and NASViT share them; they differ in activation, and MobileNetV2 has another head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from corolla.spaces.layers import Activation, ConvBN, Resize

if TYPE_CHECKING:
    from corolla.spaces.block_plans import BlockPlan, HeadPlan


class SqueezeExcite(nn.Module):
    """Channel gates from the mean of each channel (Hu et al., CVPR 2018), hard sigmoid."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze, 1)
        self.expand = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with each channel scaled by its gate in 0..1."""
        gate = functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * functional.hardsigmoid(self.expand(gate))


class Block(nn.Module):
    """Inverted residual: widen, depthwise, squeeze-excite, project, and a shortcut around all of it."""

    def __init__(self, plan: BlockPlan, activation: Activation) -> None:
        super().__init__()
        inputs, middle, outputs, stride = plan.inputs, plan.middle, plan.outputs, plan.stride
        self.stride = stride
        self.expand = ConvBN(inputs, middle, 1, activation=activation) if plan.expands else None
        self.depthwise = ConvBN(
            middle, middle, plan.kernel, stride=stride, groups=middle, activation=activation
        )
        self.se = SqueezeExcite(middle, plan.squeeze) if plan.se else None
        self.project = ConvBN(middle, outputs, 1)
        self.shortcut: nn.Module | None = None
        if plan.shortcut and plan.shortcut_bn:
            self.shortcut = ConvBN(inputs, outputs, 1)
        elif plan.shortcut:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, outputs, h / stride, w / stride)``."""
        y = self.expand(x) if self.expand is not None else x
        y = self.depthwise(y)
        if self.se is not None:
            y = self.se(y)
        y = self.project(y)
        if self.stride > 1:
            x = functional.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return y + x  # type: ignore[no-any-return]


class Head(nn.Module):
    """Widen, average over space, mix, classify."""

    def __init__(self, plan: HeadPlan, activation: Activation) -> None:
        super().__init__()
        self.expand = ConvBN(plan.inputs, plan.wide, 1, activation=activation)
        self.mix = nn.Linear(plan.wide, plan.last, bias=False)
        self.classifier = nn.Linear(plan.last, plan.num_classes)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n, num_classes)``."""
        x = self.expand(x).mean((2, 3))
        return self.classifier(self.activation(self.mix(x)))  # type: ignore[no-any-return]


class StagedNetwork(nn.Module):
    """Stem, stages of blocks, head; images are first brought to ``resolution`` pixels a side."""

    def __init__(
        self,
        *,
        resolution: int,
        stem: nn.Module,
        stages: Sequence[Sequence[nn.Module]],
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.resize = Resize(resolution)
        self.stem = stem
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, num_classes)``."""
        x = self.stem(self.resize(images))
        for stage in self.stages:
            x = stage(x)
        return self.head(x)  # type: ignore[no-any-return]
