"""ResNet-18 for small images: one fixed network, for methods and baselines that search nothing.

He, Zhang, Ren & Sun, CVPR 2016, https://arxiv.org/abs/1512.03385; torchvision's blocks, names and
initialisation. As usual for 32 pixels the stem is a 3x3 convolution of stride 1 without pooling.
GroupNorm (Wu & He, ECCV 2018) instead of BatchNorm leaves no statistics to average: see Hsieh,
Phanishayee, Mutlu & Gibbons, ICML 2020, on BatchNorm with skewed labels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from corolla.errors import nearest
from corolla.spaces.fixed import FixedNetwork
from corolla.spaces.layers import BatchNorm, Resize
from corolla.spaces.supernet import Network

STAGES = 4  # of two blocks each; every one after the first halves the images and doubles the width
NORMS = ("batch", "group")

Norm = Callable[[int], nn.Module]  # channels -> layer


class ResNet18(nn.Module):
    """Stem, four stages, average pool, classifier; images of another size are scaled first.

    Args:
        in_channels: of the images.
        num_classes: logits.
        width: channels of the stem and of the first stage.
        resolution: pixels a side that images are scaled to.
        norm: makes the normalisation of so many channels.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, width: int, resolution: int, norm: Norm
    ) -> None:
        super().__init__()
        self.resize = Resize(resolution)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = norm(width)
        widths = [width * 2**stage for stage in range(STAGES)]
        self.layer1 = _stage(width, width, 1, norm)
        self.layer2 = _stage(widths[0], widths[1], 2, norm)
        self.layer3 = _stage(widths[1], widths[2], 2, norm)
        self.layer4 = _stage(widths[2], widths[3], 2, norm)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, num_classes)``."""
        hidden = functional.relu(self.bn1(self.conv1(self.resize(images))), inplace=True)
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        logits: Tensor = self.fc(self.avgpool(hidden).flatten(1))
        return logits


class ResNet18Space(FixedNetwork):
    """ResNet-18 of a width, with BatchNorm or GroupNorm."""

    def __init__(
        self, *, resolution: int, width: int, norm: str, groups: int, **network: Unpack[Network]
    ) -> None:
        least = 2 ** (STAGES - 1)
        if resolution < least:
            raise ValueError(f"resolution={resolution}: the stages need {least} pixels or more")
        if width < 1:
            raise ValueError(f"width={width}: needs 1 channel or more; 64 is ResNet-18")
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}: {nearest(norm, NORMS)}")
        if norm == "group" and (groups < 1 or width % groups):
            raise ValueError(f"groups={groups}: must divide width={width}")
        layer: Norm = BatchNorm if norm == "batch" else partial(nn.GroupNorm, groups)
        build = partial(ResNet18, width=width, norm=layer)
        super().__init__({"width": width}, build, resolution=resolution, **network)


def _stage(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Sequential:
    """Return two blocks, ``(n, inputs, h, w)`` to ``(n, outputs, h / stride, w / stride)``."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, shortcut, norm_layer=norm),
        BasicBlock(outputs, outputs, norm_layer=norm),
    )
