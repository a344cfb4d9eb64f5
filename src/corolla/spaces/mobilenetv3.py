"""MobileNetV3 search space: width, depth, kernel and expansion of every stage.

Howard et al., ICCV 2019, https://arxiv.org/abs/1905.02244; as a weight-sharing space: Wang et al.
(AttentiveNAS), CVPR 2021. Choices at full size: PerFedRLNAS (AAAI 2024).
Departures: a block has a shortcut convolution only where its widths differ (the public code also holds,
sends and never runs one where they are equal: 13,120 to 136,000 dead numbers); middle widths follow the
*chosen* input width, so narrow clients receive less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from corolla.spaces.architecture import Architecture, Choice, Dimension
from corolla.spaces.layers import make_divisible
from corolla.spaces.mobilenetv3_blocks import Block, Head, MobileNet, Stem
from corolla.spaces.supernet import Shapes, Supernet

_FLOAT = 4  # bytes
_HEAD_EXPANSION = 6  # the head's first convolution widens the last stage by this factor


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
    def of(cls, index: int, settings: dict[str, Any]) -> Stage:
        """Check one stage of the YAML; ValueError names the key and what it should be."""
        known = set(cls.__dataclass_fields__)
        if set(settings) != known:
            raise ValueError(f"space.stages[{index}] has {sorted(settings)}: need {sorted(known)}")
        choices: dict[str, tuple[int, ...]] = {}
        for key in ("width", "depth", "kernel", "expand"):
            values = tuple(settings[key])
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise ValueError(
                    f"space.stages[{index}].{key}={list(values)}: need ascending, distinct, >= 1"
                )
            choices[key] = values
        if any(kernel % 2 == 0 for kernel in choices["kernel"]):
            raise ValueError(f"space.stages[{index}].kernel={list(choices['kernel'])}: must be odd")
        if settings["stride"] not in (1, 2):
            raise ValueError(f"space.stages[{index}].stride={settings['stride']}: must be 1 or 2")
        return cls(**choices, stride=settings["stride"], se=settings["se"])


@dataclass(frozen=True)
class BlockPlan:
    """One inverted residual block of one architecture; sides are of its square input and output."""

    name: str
    inputs: int
    middle: int
    outputs: int
    kernel: int
    stride: int
    se: bool
    expands: bool
    in_side: int
    out_side: int

    @property
    def squeeze(self) -> int:
        """Channels inside the squeeze-and-excite."""
        return make_divisible(self.middle // 4)


class MobileNetV3Space(Supernet):
    """Width, depth, kernel, expansion per stage; input resolution; one linear classifier."""

    def __init__(
        self,
        *,
        name: str,
        num_classes: int,
        in_channels: int,
        resolution: Sequence[int],
        stem: int,
        stem_stride: int,
        last: int,
        stages: Sequence[dict[str, Any]],
    ) -> None:
        self.stages = [Stage.of(i, dict(stage)) for i, stage in enumerate(stages)]
        self.stem_stride = stem_stride
        factor = stem_stride
        for stage in self.stages:
            factor *= stage.stride
        for side in resolution:
            if side < factor:
                raise ValueError(
                    f"space.resolution={side}: the strides of {name!r} divide it by {factor}, "
                    f"nothing would be left; use at least {factor} or smaller strides"
                )
        dimensions = [Dimension("resolution", tuple(resolution)), Dimension("stem.width", (stem,))]
        for i, stage in enumerate(self.stages, start=1):
            for key in ("width", "depth", "kernel", "expand"):
                dimensions.append(Dimension(f"mb{i}.{key}", getattr(stage, key)))
        dimensions.append(Dimension("last.width", (last,)))
        super().__init__(
            name=name,
            dimensions=tuple(dimensions),
            num_classes=num_classes,
            in_channels=in_channels,
            resolution=max(resolution),
        )

    def plan(self, architecture: Architecture) -> Iterator[BlockPlan]:
        """Yield the blocks of ``architecture`` from input to output."""
        values = self.values(architecture)
        side = _halved(_number(values["resolution"]), self.stem_stride)
        inputs = _number(values["stem.width"])
        for i, stage in enumerate(self.stages):
            key = f"mb{i + 1}"
            expand = _number(values[f"{key}.expand"])
            for depth in range(_number(values[f"{key}.depth"])):
                stride = stage.stride if depth == 0 else 1
                outputs = _number(values[f"{key}.width"])
                yield BlockPlan(
                    name=f"stages.{i}.{depth}",
                    inputs=inputs,
                    middle=make_divisible(round(inputs * expand)) if expand != 1 else inputs,
                    outputs=outputs,
                    kernel=_number(values[f"{key}.kernel"]),
                    stride=stride,
                    se=stage.se,
                    expands=expand != 1,
                    in_side=side,
                    out_side=_halved(side, stride),
                )
                inputs, side = outputs, _halved(side, stride)

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the plain MobileNet of ``architecture``."""
        values = self.values(architecture)
        stages: list[list[Block]] = [[] for _ in self.stages]
        for plan in self.plan(architecture):
            block = Block(
                inputs=plan.inputs,
                middle=plan.middle,
                outputs=plan.outputs,
                kernel=plan.kernel,
                stride=plan.stride,
                squeeze=plan.squeeze if plan.se else None,
                expands=plan.expands,
            )
            stages[int(plan.name.split(".")[1])].append(block)
            outputs = plan.outputs
        return MobileNet(
            resolution=_number(values["resolution"]),
            stem=Stem(self.in_channels, _number(values["stem.width"]), self.stem_stride),
            stages=stages,
            head=Head(
                outputs,
                _HEAD_EXPANSION * outputs,
                _number(values["last.width"]),
                self.num_classes,
            ),
        )

    def shapes(self, architecture: Architecture) -> Shapes:
        """Return the state_dict's shapes in closed form (building a module takes 20 times longer)."""
        values = self.values(architecture)
        shapes: Shapes = {}
        _conv_bn(shapes, "stem", (_number(values["stem.width"]), self.in_channels, 3, 3))
        for plan in self.plan(architecture):
            if plan.expands:
                _conv_bn(shapes, f"{plan.name}.expand", (plan.middle, plan.inputs, 1, 1))
            kernel = (plan.middle, 1, plan.kernel, plan.kernel)
            _conv_bn(shapes, f"{plan.name}.depthwise", kernel)
            if plan.se:
                shapes[f"{plan.name}.se.reduce.weight"] = (plan.squeeze, plan.middle, 1, 1)
                shapes[f"{plan.name}.se.reduce.bias"] = (plan.squeeze,)
                shapes[f"{plan.name}.se.expand.weight"] = (plan.middle, plan.squeeze, 1, 1)
                shapes[f"{plan.name}.se.expand.bias"] = (plan.middle,)
            _conv_bn(shapes, f"{plan.name}.project", (plan.outputs, plan.middle, 1, 1))
            if plan.inputs != plan.outputs:
                _conv_bn(shapes, f"{plan.name}.shortcut", (plan.outputs, plan.inputs, 1, 1))
            outputs = plan.outputs
        wide, last = _HEAD_EXPANSION * outputs, _number(values["last.width"])
        _conv_bn(shapes, "head.expand", (wide, outputs, 1, 1))
        shapes["head.mix.weight"] = (last, wide)
        shapes["head.classifier.weight"] = (self.num_classes, last)
        shapes["head.classifier.bias"] = (self.num_classes,)
        return shapes

    def macs(self, architecture: Architecture) -> int:
        """Return multiply-accumulates of one forward pass in closed form."""
        values = self.values(architecture)
        side = _halved(_number(values["resolution"]), self.stem_stride)
        total = 9 * self.in_channels * _number(values["stem.width"]) * side**2
        for p in self.plan(architecture):
            inside, outside = p.in_side**2, p.out_side**2
            total += p.inputs * p.middle * inside if p.expands else 0
            total += p.middle * p.kernel**2 * outside
            total += 2 * p.middle * p.squeeze if p.se else 0
            total += p.middle * p.outputs * outside
            total += p.inputs * p.outputs * outside if p.inputs != p.outputs else 0
            outputs, side = p.outputs, p.out_side
        wide, last = _HEAD_EXPANSION * outputs, _number(values["last.width"])
        return total + outputs * wide * side**2 + wide * last + last * self.num_classes

    def activation_bytes(self, architecture: Architecture, batch_size: int) -> int:
        """Return bytes kept for the backward pass in closed form (a meta-device run agrees to 2 %)."""
        values = self.values(architecture)
        resolution = _number(values["resolution"])
        side = _halved(resolution, self.stem_stride)
        # A convolution keeps its input, BN the convolution's output, h-swish the normalised one: three
        # maps per unit with an activation, counting the activation's output as the next one's input.
        numbers = self.in_channels * resolution**2 + 3 * _number(values["stem.width"]) * side**2
        for p in self.plan(architecture):
            inside, outside = p.in_side**2, p.out_side**2
            numbers += 3 * p.middle * inside if p.expands else 0
            numbers += 3 * p.middle * outside
            if p.se:  # the gated map, and the two small layers' inputs and outputs
                numbers += p.middle * outside + 3 * p.middle + 2 * p.squeeze
            numbers += 2 * p.outputs * outside  # the projection's output, and the block's output
            if p.inputs != p.outputs:
                numbers += p.outputs * outside
                numbers += p.inputs * outside if p.stride > 1 else 0  # the pooled input
            outputs, side = p.outputs, p.out_side
        wide, last = _HEAD_EXPANSION * outputs, _number(values["last.width"])
        numbers += 3 * wide * side**2 + wide + 2 * last
        return _FLOAT * batch_size * numbers


def _conv_bn(shapes: Shapes, name: str, weight: tuple[int, int, int, int]) -> None:
    shapes[f"{name}.conv.weight"] = weight
    for entry in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{name}.bn.{entry}"] = (weight[0],)


def _halved(side: int, stride: int) -> int:
    return -(-side // stride)


def _number(choice: Choice) -> int:
    return int(choice)
