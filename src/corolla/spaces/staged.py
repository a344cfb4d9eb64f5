"""Search spaces of staged mobile networks: everything that MobileNetV2, MobileNetV3 and NASViT share.

Dimensions: ``resolution``, ``stem.width``, per stage ``mbK.width``, ``.depth``, ``.kernel``,
``.expand``, and ``last.width``. Middle widths follow the *chosen* input width, so narrow clients
receive less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Unpack

import torch
from torch import nn

from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.blank import copied, on_meta
from corolla.spaces.block_plans import BlockPlan, HeadPlan, Part, Plan, Stage, StemPlan, ascending
from corolla.spaces.inverted_residual import StagedNetwork
from corolla.spaces.layers import Activation, make_divisible
from corolla.spaces.supernet import Network, Shapes, Supernet

_FLOAT = 4  # bytes


class Staged(Network):
    """What every staged space is told besides its stages; constructors pass it on as ``**network``."""

    resolution: Sequence[int]  # pixels a side
    stem: Sequence[int]  # channels
    stem_stride: int
    last: Sequence[int]  # features before the classifier


class StagedSupernet(Supernet):
    """Stem, stages of inverted residual blocks, head; a space may replace blocks (`repeat`, `head`).

    ``shortcut_bn``: whether BatchNorm follows the shortcuts' convolutions.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        activation: Activation,
        shortcut_bn: bool = True,
        resolution: Sequence[int],
        stem: Sequence[int],
        stem_stride: int,
        last: Sequence[int],
        **network: Unpack[Network],
    ) -> None:
        name = network["name"]
        if not stages:
            raise ValueError(f"space.stages=[]: {name!r} needs at least one stage")
        self.stages = tuple(stages)
        if stem_stride not in (1, 2):
            raise ValueError(f"space.stem_stride={stem_stride}: must be 1 or 2")
        self.stem_stride = stem_stride
        self.activation = activation
        self.shortcut_bn = shortcut_bn
        factor = stem_stride
        for stage in self.stages:
            factor *= stage.stride
        for side in resolution:
            if side < factor:
                raise ValueError(
                    f"space.resolution={side}: the strides of {name!r} divide it by {factor}, "
                    f"nothing would be left; use at least {factor} or smaller strides"
                )
        stem_widths = ascending("space.stem", stem)
        dimensions = [
            Dimension("resolution", ascending("space.resolution", resolution)),
            Dimension("stem.width", stem_widths),
        ]
        for i, stage in enumerate(self.stages, start=1):
            for key in ("width", "depth", "kernel", "expand"):
                dimensions.append(Dimension(f"mb{i}.{key}", getattr(stage, key)))
        dimensions.append(Dimension("last.width", ascending("space.last", last)))
        # A shortcut is a convolution where a block's widths differ. Where they can differ but are equal
        # in the largest architecture, it is one in all: the largest holds every tensor of the supernet.
        inputs = (stem_widths, *(stage.width for stage in self.stages))
        self._always_shortcut = [
            before[-1] == stage.width[-1] and len({*before, *stage.width}) > 1
            for before, stage in zip(inputs, self.stages, strict=False)
        ]
        super().__init__(dimensions=tuple(dimensions), resolution=max(resolution), **network)
        self._blank_parts = lru_cache(maxsize=4096)(lambda part: on_meta(lambda: self._part(part)))
        self._part_shapes = lru_cache(maxsize=4096)(self._shapes_of_part)

    def repeat(self, stage: Stage, plan: BlockPlan) -> Plan:
        """Return what a block after the first of ``stage`` is: by default inverted residual again."""
        return plan

    def head(self, *, inputs: int, last: int, side: int) -> Part:
        """Return what classifies the last block's ``inputs`` channels of ``side x side``."""
        return HeadPlan(inputs=inputs, last=last, num_classes=self.num_classes, side=side)

    def plan(self, architecture: Architecture) -> Iterator[Plan]:
        """Yield the blocks of ``architecture`` from input to output."""
        values = self.values(architecture)
        side = halved(int(values["resolution"]), self.stem_stride)
        inputs = int(values["stem.width"])
        for i, stage in enumerate(self.stages):
            key = f"mb{i + 1}"
            expand = int(values[f"{key}.expand"])
            outputs = int(values[f"{key}.width"])
            for position in range(int(values[f"{key}.depth"])):
                first = position == 0
                stride = stage.stride if first else 1
                plan = BlockPlan(
                    name=f"stages.{i}.{position}",
                    inputs=inputs,
                    middle=make_divisible(round(inputs * expand)) if expand != 1 else inputs,
                    outputs=outputs,
                    kernel=int(values[f"{key}.kernel"]),
                    stride=stride,
                    se=stage.se,
                    expands=expand != 1,
                    shortcut=inputs != outputs or (first and self._always_shortcut[i]),
                    shortcut_bn=self.shortcut_bn,
                    in_side=side,
                    out_side=halved(side, stride),
                )
                yield plan if first else self.repeat(stage, plan)
                inputs, side = outputs, plan.out_side

    def subnet(self, architecture: Architecture) -> StagedNetwork:
        """Build the plain network of ``architecture``."""
        stem, plans, head = self._parts(architecture)
        # Without values, parts are as good as copies of one another.
        blank = torch.get_default_device().type == "meta"
        build = self._blank_part if blank else self._part
        stages: list[list[nn.Module]] = [[] for _ in self.stages]
        for plan in plans:
            stages[int(plan.name.split(".")[1])].append(build(plan))
        return StagedNetwork(
            resolution=stem.in_side, stem=build(stem), stages=stages, head=build(head)
        )

    def _part(self, part: Part) -> nn.Module:
        return part.build(self.activation)

    def _blank_part(self, part: Part) -> nn.Module:
        return copied(self._blank_parts(part))

    def shapes(self, architecture: Architecture) -> Shapes:
        """Return the state_dict's shapes, put together from those of the parts, each built once."""
        stem, plans, head = self._parts(architecture)
        shapes = Shapes()
        for part in (stem, *plans, head):
            shapes |= self._part_shapes(part)
        return shapes

    def _shapes_of_part(self, part: Part) -> Shapes:
        state = self._blank_parts(part).state_dict()
        return {f"{part.name}.{name}": tuple(tensor.shape) for name, tensor in state.items()}

    def macs(self, architecture: Architecture) -> int:
        """Return multiply-accumulates of one forward pass in closed form."""
        stem, plans, head = self._parts(architecture)
        return stem.macs() + sum(plan.macs() for plan in plans) + head.macs()

    def activation_bytes(self, architecture: Architecture, batch_size: int) -> int:
        """Return bytes kept for the backward pass in closed form (a meta-device run agrees to 2 %)."""
        stem, plans, head = self._parts(architecture)
        numbers = stem.kept() + sum(plan.kept() for plan in plans) + head.kept()
        return _FLOAT * batch_size * numbers

    def _parts(self, architecture: Architecture) -> tuple[StemPlan, list[Plan], Part]:
        values = self.values(architecture)
        side = int(values["resolution"])
        stem = StemPlan(
            inputs=self.in_channels,
            outputs=int(values["stem.width"]),
            stride=self.stem_stride,
            in_side=side,
            out_side=halved(side, self.stem_stride),
        )
        plans = list(self.plan(architecture))
        head = self.head(
            inputs=plans[-1].outputs,
            last=int(values["last.width"]),
            side=plans[-1].out_side,
        )
        return stem, plans, head


def halved(side: int, stride: int) -> int:
    """Return the rows that a padded convolution of ``stride`` leaves of ``side`` rows."""
    return -(-side // stride)
