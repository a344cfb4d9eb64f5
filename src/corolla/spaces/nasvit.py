"""NASViT search space: convolutions first, then attention; width, depth, kernel and expansion per stage.

Gong et al., ICLR 2022, https://openreview.net/forum?id=Qaw16njk6L. Choices at full size: PerFedRLNAS
(AAAI 2024). In a stage with attention the first block is an inverted residual, which carries the stride,
and every further one a transformer block.

Measured at full size, 10 classes (the public code of PerFedRLNAS in brackets; mean of 200 uniform draws):

| | smallest | mean | largest |
|---|---|---|---|
| million parameters | 6.63 (7.4) | 10.62 (11.2) | 15.88 (15.8) |
| million multiply-accumulates | 180 (188) | 648 (704) | 1811 (1880) |

Departures: transformer blocks are cut (heads, values, perceptron, position tables), which the public code
does not do: ours are smaller wherever the width is not the largest. Values are as wide as their block. No
windows: every position attends to all, so at 288 pixels the score maps of mb4 (324 positions) take 1.7 of
the 10.7 GiB that the largest architecture keeps for the backward pass of 32 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from torch.nn import functional

from corolla.spaces.block_plans import BlockPlan, Plan, Stage
from corolla.spaces.nasvit_blocks import TransformerPlan
from corolla.spaces.staged import Staged, StagedSupernet, halved


@dataclass(frozen=True, kw_only=True)
class HybridStage(Stage):
    """A stage whose blocks after the first may be transformer blocks."""

    attention: bool


class NASViTSpace(StagedSupernet):
    """Like MobileNetV3's dimensions, and choices of the stem, the last width and the resolution."""

    def __init__(
        self,
        *,
        head_dim: int,
        stages: Sequence[dict[str, Any]],
        **network: Unpack[Staged],
    ) -> None:
        if head_dim < 1:
            raise ValueError(f"space.head_dim={head_dim}: must be at least 1")
        self.head_dim = head_dim
        hybrid = [HybridStage.of(i, dict(stage)) for i, stage in enumerate(stages)]
        for i, stage in enumerate(hybrid):
            if stage.attention and any(width % head_dim for width in stage.width):
                raise ValueError(
                    f"space.stages[{i}].width={list(stage.width)}: a stage with attention needs "
                    f"multiples of space.head_dim={head_dim}"
                )
        super().__init__(stages=hybrid, activation=functional.silu, **network)
        smallest = min(network["resolution"])
        side = halved(smallest, self.stem_stride)
        for i, stage in enumerate(hybrid):
            side = halved(side, stage.stride)
            if stage.attention and side < 2:
                raise ValueError(
                    f"space.resolution={smallest}: leaves a single position to "
                    f"space.stages[{i}], where attention needs 2 x 2; use a larger one"
                )

    def repeat(self, stage: Stage, plan: BlockPlan) -> Plan:
        """Return a transformer block in the stages that have attention."""
        if not (isinstance(stage, HybridStage) and stage.attention):
            return plan
        return TransformerPlan(
            name=plan.name,
            outputs=plan.outputs,
            head_dim=self.head_dim,
            hidden=plan.middle,
            kernel=plan.kernel,
            out_side=plan.out_side,
        )
