"""Settings of local training: what is computed, and how fast."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from corolla.errors import Fault, RefusedError, refuse
from corolla.settings import (
    Betas,
    Count,
    CountOrNone,
    Decay,
    NonNegative,
    Positive,
    settings,
)

BALANCED = ("balanced_softmax", "balanced_softmax_client")
"""Losses that teach a model to ignore how frequent each class is."""

Optimizer = Literal["sgd", "adamw"]
Augment = Literal[
    "none", "flip", "crop_flip", "crop_flip_reflect", "crop_flip_cutout", "crop_flip_autoaugment"
]
Loss = Literal[
    "cross_entropy", "balanced_softmax", "balanced_softmax_client", "masked_cross_entropy"
]
Autocast = Literal["none", "bfloat16"]


@settings
class TrainerSettings:
    """What a client's training computes; the same on every machine.

    Defaults mean "off"; the recommended values are those of ``conf/trainer/*.yaml``.
    """

    optimizer: Optimizer  # adamw: Loshchilov & Hutter, ICLR 2019: decay apart from the gradient
    lr: Positive  # eta: step of the first full round
    momentum: Decay = 0.0  # mu of SGD; not used by adamw
    nesterov: bool = False  # SGD looks ahead along its momentum; needs momentum > 0
    betas: Betas = (0.9, 0.999)  # beta_1, beta_2 of adamw
    weight_decay: NonNegative = 0.0  # lambda, per step
    decay_norm_and_bias: bool = False  # true: lambda also shrinks BN's gamma, beta and all biases
    loss: Loss = "cross_entropy"  # on labels: see `corolla.training.losses`
    # images that a class without any counts as, in balanced_softmax_client
    absent_count: Positive = 1.0
    # epsilon (Szegedy et al., CVPR 2016): share spread over all classes
    label_smoothing: Decay = 0.0
    clip_norm: Positive | None = None  # largest L2 norm of the whole gradient; None: unlimited
    augment: Augment = "none"
    eval_batch_size: Count = 250  # images; of results, it changes only scores by batch statistics
    # over rounds; Loshchilov & Hutter, 2017
    lr_schedule: Literal["constant", "cosine"] = "constant"
    lr_min: NonNegative = 0.0  # what cosine falls towards, at most lr
    # rounds that lr climbs in a straight line before its first full one
    warmup_rounds: CountOrNone = 0

    def __post_init__(self) -> None:
        faults = []
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            given = f"optimizer={self.optimizer!r} momentum={self.momentum}"
            problem = f"needs sgd with momentum; {given}"
            remedy = "Set trainer.momentum, or nesterov=false"
            faults.append(Fault("nesterov", True, problem, remedy))
        if self.lr_min > self.lr:
            problem, remedy = f"is above trainer.lr={self.lr}", f"Use 0 to {self.lr}"
            faults.append(Fault("lr_min", self.lr_min, problem, remedy))
        refuse(faults)

    @property
    def gradient_lr(self) -> float:
        """What a gradient is multiplied by, at most; 0 with adamw: no gradient makes its steps longer."""
        return self.lr if self.optimizer == "sgd" else 0.0

    def learning_rate(self, round: int, rounds: int) -> float:
        """Return the step of a ``round`` (1, 2, ... as Flower counts) of a run of ``rounds``.

        With W warm-up rounds: lr * round / (W + 1) up to round W; from W + 1 on, cosine is
        lr_min + (lr - lr_min) / 2 * (1 + cos(pi * t)) with t = (round - W - 1) / (rounds - W), so
        the first full round has ``lr`` and the last one still moves. After ``rounds``: as in the
        last round.

        Raises:
            ValueError: ``round`` or ``rounds`` below 1.

        """
        if round < 1 or rounds < 1:
            raise ValueError(f"round={round} of rounds={rounds}: both count from 1")
        round, warmup = min(round, rounds), self.warmup_rounds
        if round <= warmup:
            return self.lr * round / (warmup + 1)
        if self.lr_schedule == "constant":
            return self.lr
        progress = (round - warmup - 1) / (rounds - warmup)
        return self.lr_min + (self.lr - self.lr_min) / 2 * (1 + math.cos(math.pi * progress))


@settings
class LoopSettings:
    """How the loop is run; results agree to floating-point tolerance (bfloat16: to its 8 bits).

    The fastest values differ by network and device: `corolla.tune.measuring` measures them, a
    space's YAML keeps them.
    """

    channels_last: bool = True  # keep images and weights as (n, h, w, c) in memory
    fused: bool = True  # one kernel call updates all parameters
    foreach: bool = False  # one kernel call per arithmetic step; excludes fused
    autocast: Autocast = "none"  # convolutions and matrix products in 16 bits
    # torch threads of one operation; several clients a machine: processes pay more
    threads: Annotated[Count, Field(le=1024)] = 1
    # refuse CUDA kernels whose results vary; one CPU thread never varies
    deterministic: bool = False
    # glibc only: see `corolla.training.torch_settings.configure_torch`
    keep_freed_memory: bool = True

    def __post_init__(self) -> None:
        if self.fused and self.foreach:
            remedy = "Set one of the two to false (space.loop.DEVICE)"
            raise RefusedError(Fault("foreach", True, "excludes fused=true", remedy))
