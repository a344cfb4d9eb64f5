"""What an architecture promises before anything is trained: DeepFedNAS's fitness, on any convolutional space.

DeepFedNAS, 2026, https://arxiv.org/abs/2601.15127, after DeepMAD (Shen et al., CVPR 2023). The network's
blocks fall into stages, convolutions that follow each other at one resolution. With r_j, C_j the rows and
channels of what stage j gives, d_j the blocks that end in it, w_i the width of a convolution
(`corolla.spaces.conv_layers`), L of these in all, with stem and head, which are in no stage,

    H_j = log(r_j^2 C_j) * sum_(i in j) log w_i                   entropy
    rho = L / exp(mean log w)                                     depth over width
    F   = sum_j alpha_j H_j - k exp(var d) + w_rho rho - m sum_j max(0, C_j - C_(j+1))

and where rho is above its bound, F is below that of any architecture within it. docs/fednas_family.md says
which of these constants are published.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from corolla.errors import Fault, RefusedError
from corolla.settings import NonNegative, Positive, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.conv_layers import ConvLayer
from corolla.spaces.supernet import Supernet

_BEYOND = 1e9  # what a network above the bound is worth, times -rho
_MOST = 50.0  # of the variance in the exponent: e^50 is worse than anything, and finite


@settings
class FitnessSettings:
    """Weights of the fitness's terms."""

    stages: list[float] | None = None  # alpha_j; None: 1 for every stage
    depth_variance: NonNegative = 10.0  # k: stages of unequal depth cost k exp(variance)
    effectiveness: NonNegative = 1.0  # w_rho
    most_effectiveness: Positive = 2.0  # bound of rho; beyond it signals do not get through
    monotonicity: NonNegative = 1.0  # m: each channel that a stage has fewer than the one before


class TrainingFree:
    """The fitness of a space's architectures; each is looked at once.

    Raises:
        RefusedError: the space's networks have no convolutions, or ``stages`` has another length than they.

    """

    def __init__(self, space: Supernet, settings: FitnessSettings) -> None:
        self._space, self._settings = space, settings
        self._known: dict[Architecture, float] = {}
        found = _stages(space.conv_layers(space.largest()))
        if not found:
            problem = f"space {space.name!r} has no convolutions to judge networks by"
            remedy = "Use another search, or another space"
            raise RefusedError(Fault("fitness", space.name, problem, remedy))
        given = settings.stages
        if given is not None and len(given) != len(found):
            problem = f"networks of space {space.name!r} have {len(found)} stages"
            remedy = f"Give {len(found)} numbers, or null"
            raise RefusedError(Fault("fitness.stages", list(given), problem, remedy))

    def __call__(self, architecture: Architecture) -> float:
        """Return F, higher is better."""
        if architecture not in self._known:
            layers = self._space.conv_layers(architecture)
            self._known[architecture] = fitness(layers, self._settings)
        return self._known[architecture]

    def losses(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return -F of each: what `corolla.search.evolution.evolve` minimises."""
        return np.array([-self(architecture) for architecture in architectures])


def fitness(layers: Sequence[ConvLayer], settings: FitnessSettings) -> float:
    """Return F of a network's convolutions, at least one."""
    stages = _stages(layers)
    weights = settings.stages or [1.0] * len(stages)
    rho = len(layers) / math.exp(sum(math.log(layer.width) for layer in layers) / len(layers))
    if rho > settings.most_effectiveness:
        return -_BEYOND * rho
    last = [stage[-1] for stage in stages]
    entropy = sum(
        alpha * math.log(end.side**2 * end.channels) * sum(math.log(layer.width) for layer in stage)
        for alpha, end, stage in zip(weights, last, stages, strict=False)
    )
    ends = Counter({layer.block: layer.side for stage in stages for layer in stage}.values())
    spread = float(np.var([ends[stage[0].side] for stage in stages]))
    narrowing = sum(max(0, a.channels - b.channels) for a, b in pairwise(last))
    return (
        entropy
        - settings.depth_variance * math.exp(min(spread, _MOST))
        + settings.effectiveness * rho
        - settings.monotonicity * narrowing
    )


def _stages(layers: Sequence[ConvLayer]) -> list[list[ConvLayer]]:
    """Return the blocks' layers by resolution.

    Squeeze-and-excite, which later layers exceed in rows, is left out. Where no module is numbered, all
    layers are in one block.
    """
    on_the_way: list[ConvLayer] = []
    for layer in reversed([layer for layer in layers if layer.block] or layers):
        if not on_the_way or layer.side >= on_the_way[-1].side:
            on_the_way.append(layer)
    on_the_way.reverse()
    return [list(stage) for _, stage in groupby(on_the_way, key=lambda layer: layer.side)]
