"""MobileNetV2 search space of HAPFNAS: swish, squeeze-and-excite in some stages, a plain head.

Yang & Liu, Entropy 2025, 27(7), 759; the skeleton is MobileNetV2's (Sandler et al., CVPR 2018,
https://arxiv.org/abs/1801.04381), its blocks are those of AttentiveNAS (Wang et al., CVPR 2021).
Settled by the parameters and the multiply-accumulates that the public code of HAPFNAS gives for its
smallest and largest network of 10, 100 and 200 classes, all of which ours has exactly:

- a shortcut is a 1x1 convolution without BatchNorm where the widths of a block differ, and the input
  itself, averaged by the stride, where they are equal;
- squeeze-and-excite (ReLU inside, hard sigmoid) squeezes the middle channels by 4, to a multiple of 8;
- the middle channels are the chosen input width times the expansion, rounded to a multiple of 8.

A supernet must hold every tensor of every subnet. In the full-size space the widths of a block that
may differ do differ in the largest network, which so holds all shortcut convolutions, and a narrower
network whose widths happen to be equal (a stem of 16 channels before mb1, 96 before mb6) owns none of
that one. A space of other widths may be equal in the largest network only; such a block then has its
convolution in every network (`StagedSupernet`).

Departure: the public code resizes images bicubically, which at its single resolution does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from torch.nn import functional

from corolla.spaces.architecture import Architecture
from corolla.spaces.block_plans import Stage
from corolla.spaces.inverted_residual import StagedNetwork
from corolla.spaces.mobilenetv2_blocks import PlainHeadPlan, regularise, start_at_shortcuts
from corolla.spaces.staged import Staged, StagedSupernet


class MobileNetV2Space(StagedSupernet):
    """Stem width; width, depth, kernel, expansion per stage; last width. One choice fixes a dimension.

    ``dropout`` (before the classifier) and ``drop_connect`` (residual branches of the last two stages)
    regularise the largest architecture alone, in training: smaller ones are short of capacity, not of
    regularisation. Evaluated, the largest is what it would be without them.
    """

    def __init__(
        self,
        *,
        stages: Sequence[dict[str, Any]],
        dropout: float,
        drop_connect: float,
        **network: Unpack[Staged],
    ) -> None:
        for key, rate in (("dropout", dropout), ("drop_connect", drop_connect)):
            if not 0 <= rate < 1:
                raise ValueError(f"space.{key}={rate}: must be at least 0 and below 1")
        self.dropout = dropout
        self.drop_connect = drop_connect
        super().__init__(
            stages=[Stage.of(i, dict(stage)) for i, stage in enumerate(stages)],
            activation=functional.silu,
            shortcut_bn=False,
            **network,
        )

    def head(self, *, inputs: int, last: int, side: int) -> PlainHeadPlan:
        """Return the head without MobileNetV3's mixing layer."""
        return PlainHeadPlan(inputs=inputs, last=last, num_classes=self.num_classes, side=side)

    def subnet(self, architecture: Architecture) -> StagedNetwork:
        """Build the plain network of ``architecture``; only the largest has dropout."""
        network = super().subnet(architecture)
        start_at_shortcuts(network)
        if architecture == self.largest():
            regularise(network, dropout=self.dropout, drop_connect=self.drop_connect)
        return network
