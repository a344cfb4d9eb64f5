"""MobileNetV2's own head, and what regularises its largest network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corolla.spaces.block_plans import HeadPlan
from corolla.spaces.inverted_residual import Block, StagedNetwork
from corolla.spaces.layers import Activation, ConvBN

_DROP_CONNECT_STAGES = 2  # the last ones


class PlainHead(nn.Module):
    """Widen with a 1x1 convolution, average over space, classify."""

    def __init__(self, inputs: int, last: int, num_classes: int, activation: Activation) -> None:
        super().__init__()
        self.last = ConvBN(inputs, last, 1, activation=activation)
        self.dropout: nn.Module = nn.Identity()
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n, num_classes)``."""
        return self.classifier(self.dropout(self.last(x).mean((2, 3))))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class PlainHeadPlan(HeadPlan):
    """`PlainHead` on a map of ``side x side``."""

    def build(self, activation: Activation) -> nn.Module:
        """Return the plain module."""
        return PlainHead(self.inputs, self.last, self.num_classes, activation)

    def macs(self) -> int:
        """Return multiply-accumulates for one image."""
        return self.inputs * self.last * self.side**2 + self.last * self.num_classes

    def kept(self) -> int:
        """Return how many numbers one image's forward pass keeps for the backward pass."""
        # The convolution's output, and before the activation; then the averages. (Its input is counted
        # as the last block's output; dropout's mask, another ``last``, would be the largest's alone.)
        return 2 * self.last * self.side**2 + self.last


class DropConnect(nn.Module):
    """Zero whole images' maps with probability ``rate`` in training, scale the others by 1/(1-rate).

    On the branch of a residual block: an image then takes the shortcut alone (Huang et al., ECCV 2016,
    https://arxiv.org/abs/1603.09382; EfficientNet calls it drop connect).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, c, h, w)``."""
        if not self.training:
            return x
        keep = 1.0 - self.rate
        mask = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device)
        return x * mask.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate:.3f}"


def start_at_shortcuts(network: StagedNetwork) -> None:
    """Zero the last BatchNorm's scale of every block: at first each block is its shortcut."""
    for _, block in _blocks(network):
        nn.init.zeros_(block.project.bn.weight)


def regularise(network: StagedNetwork, *, dropout: float, drop_connect: float) -> None:
    """Put dropout before the classifier, and drop connect into the last two stages' residual branches.

    A block's rate grows with its place: ``drop_connect`` times the share of all blocks before it. Blocks
    whose shortcut is more than their input (other width, or a stride) always keep their branch.
    """
    if dropout > 0 and isinstance(network.head, PlainHead):
        network.head.dropout = nn.Dropout(dropout)
    blocks = _blocks(network)
    late = len(network.stages) - _DROP_CONNECT_STAGES
    for place, (stage, block) in enumerate(blocks):
        rate = drop_connect * place / len(blocks)
        if rate > 0 and stage >= late and block.stride == 1 and block.shortcut is None:
            block.project.activation = DropConnect(rate)


def _blocks(network: StagedNetwork) -> list[tuple[int, Block]]:
    """Return every block and its stage (0, 1, ...), from input to output."""
    return [
        (int(name.split(".")[0]), block)
        for name, block in network.stages.named_modules()
        if isinstance(block, Block)
    ]
