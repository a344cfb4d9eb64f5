"""MobileNetV3 search space: width, depth, kernel and expansion of every stage.

Howard et al., ICCV 2019, https://arxiv.org/abs/1905.02244; as a weight-sharing space: Wang et al.
(AttentiveNAS), CVPR 2021. Choices at full size: PerFedRLNAS (AAAI 2024).
Departures: a block has a shortcut convolution only where its widths differ (the public code also holds,
sends and never runs one where they are equal: 13,120 to 136,000 dead numbers); middle widths follow the
*chosen* input width, so narrow clients receive less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from torch.nn import functional

from corolla.spaces.block_plans import Stage
from corolla.spaces.staged import StagedSupernet
from corolla.spaces.supernet import Network


class MobileNetV3Space(StagedSupernet):
    """Width, depth, kernel, expansion per stage; input resolution; one linear classifier."""

    def __init__(
        self,
        *,
        resolution: Sequence[int],
        stem: int,
        stem_stride: int,
        last: int,
        stages: Sequence[dict[str, Any]],
        **network: Unpack[Network],
    ) -> None:
        super().__init__(
            resolution=resolution,
            stem=(stem,),
            stem_stride=stem_stride,
            last=(last,),
            stages=[Stage.of(i, dict(stage)) for i, stage in enumerate(stages)],
            activation=functional.hardswish,
            **network,
        )
