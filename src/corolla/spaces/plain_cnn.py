"""Plain fixed CNNs without normalisation, given by their widths: the small networks of federated papers.

LeNet (LeCun et al., 1998) as NIID-Bench has it (Li, Diao, Chen & He, ICDE 2022), the CNN of FedAvg (McMahan
et al., AISTATS 2017) as PFLlib has it, that of FedRep (Collins et al., ICML 2021): convolutions without
padding, each with ReLU and 2x2 max pooling, then linear layers with ReLU, then the classifier; torch's own
initialisation. No statistics to average, and cheap on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional

from corolla.spaces.fixed import FixedNetwork
from corolla.spaces.layers import Resize
from corolla.spaces.supernet import Network


class PlainCNN(nn.Module):
    """Convolutions, linear layers, classifier; images of another size are scaled first.

    Args:
        in_channels: of the images.
        num_classes: logits.
        resolution: pixels a side that images are scaled to.
        channels: of each convolution.
        kernel: pixels a side of every convolution.
        hidden: features of each linear layer before the classifier.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        resolution: int,
        channels: Sequence[int],
        kernel: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.resize = Resize(resolution)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel)
            for inputs, outputs in pairwise((in_channels, *channels))
        )
        features = channels[-1] * left_of(resolution, len(channels), kernel) ** 2
        self.hidden = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise((features, *hidden))
        )
        self.classifier = nn.Linear((features, *hidden)[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, num_classes)``."""
        x = self.resize(images)
        for convolution in self.convolutions:
            # ReLU of the maximum is the maximum of ReLUs, for a quarter of the work.
            x = functional.relu(functional.max_pool2d(convolution(x), 2), inplace=True)
        x = x.flatten(1)
        for linear in self.hidden:
            x = functional.relu(linear(x), inplace=True)
        logits: Tensor = self.classifier(x)
        return logits


class PlainCNNSpace(FixedNetwork):
    """A plain CNN; its dimensions are the widths of its layers and the kernel."""

    def __init__(
        self,
        *,
        resolution: int,
        channels: Sequence[int],
        kernel: int,
        hidden: Sequence[int],
        **network: Unpack[Network],
    ) -> None:
        widths = {"channels": tuple(channels), "hidden": tuple(hidden)}
        for key, values in widths.items():
            if any(value < 1 for value in values):
                raise ValueError(f"{key}={list(values)}: needs 1 or more in every layer")
        if not channels:
            raise ValueError("channels=[]: needs a convolution or more, as in [6, 16]")
        if kernel < 1:
            raise ValueError(f"kernel={kernel}: needs 1 pixel or more")
        least = least_resolution(len(channels), kernel)
        if resolution < least:
            problem = f"resolution={resolution}: {len(channels)} convolutions of {kernel} pixels"
            raise ValueError(
                f"{problem}, each halved, leave nothing of it; use {least} or more "
                "(smaller images are scaled up to it inside the network)"
            )
        sizes = {f"conv{number}.width": width for number, width in enumerate(channels, 1)}
        sizes |= {f"fc{number}.width": width for number, width in enumerate(hidden, 1)}
        build = partial(
            PlainCNN, kernel=kernel, channels=widths["channels"], hidden=widths["hidden"]
        )
        super().__init__({**sizes, "kernel": kernel}, build, resolution=resolution, **network)


def left_of(side: int, convolutions: int, kernel: int) -> int:
    """Return the rows that are left of ``side`` rows; 0 or less where a convolution does not fit."""
    for _ in range(convolutions):
        side = (side - kernel + 1) // 2
    return side


def least_resolution(convolutions: int, kernel: int) -> int:
    """Return the pixels a side of which one is left."""
    side = 1
    for _ in range(convolutions):
        side = 2 * side + kernel - 1
    return side
