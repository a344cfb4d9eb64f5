"""Settings of local training: what is computed, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from corolla.checker import Checker

OPTIMIZERS = ("sgd", "adamw")
AUGMENTATIONS = ("none", "flip", "crop_flip", "crop_flip_cutout", "crop_flip_autoaugment")
SCHEDULES = ("constant", "cosine")
AUTOCASTS = ("none", "bfloat16")
LOSSES = (
    "cross_entropy",
    "balanced_softmax",
    "balanced_softmax_client",
    "masked_cross_entropy",
)
BALANCED = ("balanced_softmax", "balanced_softmax_client")
"""Losses that teach a model to ignore how frequent each class is."""


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """What a client's training computes; the same on every machine.

    Defaults mean "off"; the recommended values are those of ``conf/trainer/*.yaml``.

    Raises:
        RefusedError: values out of range, all of them at once, under ``trainer.<field>``.

    """

    optimizer: str  # sgd | adamw (Loshchilov & Hutter, ICLR 2019: decay apart from the gradient)
    lr: float  # eta: step of the first full round; > 0
    momentum: float = 0.0  # mu of SGD, in [0, 1); not used by adamw
    nesterov: bool = False  # SGD looks ahead along its momentum; needs momentum > 0
    betas: tuple[float, float] = (0.9, 0.999)  # beta_1, beta_2 of adamw, each in [0, 1)
    weight_decay: float = 0.0  # lambda, per step; >= 0
    decay_norm_and_bias: bool = False  # true: lambda also shrinks BN's gamma, beta and all biases
    loss: str = "cross_entropy"  # on labels, one of LOSSES: see `corolla.training.losses`
    label_smoothing: float = (
        0.0  # epsilon (Szegedy et al., CVPR 2016): share spread over all classes
    )
    clip_norm: float | None = None  # largest L2 norm of the whole gradient; None: unlimited
    augment: str = "none"  # one of AUGMENTATIONS
    eval_batch_size: int = 250  # images; of results, it changes only scores by batch statistics
    lr_schedule: str = "constant"  # over rounds: constant | cosine (Loshchilov & Hutter, ICLR 2017)
    lr_min: float = 0.0  # what cosine falls towards, in [0, lr]
    warmup_rounds: int = 0  # rounds that lr climbs in a straight line before its first full round

    def __post_init__(self) -> None:
        check = Checker("trainer.")
        check.choice("optimizer", self.optimizer, OPTIMIZERS)
        check.choice("augment", self.augment, AUGMENTATIONS)
        check.choice("lr_schedule", self.lr_schedule, SCHEDULES)
        check.choice("loss", self.loss, LOSSES)
        check.number("lr", self.lr, above=0.0)
        check.number("momentum", self.momentum, least=0.0, below=1.0)
        check.number("weight_decay", self.weight_decay, least=0.0)
        check.number("label_smoothing", self.label_smoothing, least=0.0, below=1.0)
        check.number("lr_min", self.lr_min, least=0.0)
        if self.clip_norm is not None:
            check.number("clip_norm", self.clip_norm, above=0.0)
        check.count("eval_batch_size", self.eval_batch_size, least=1)
        check.count("warmup_rounds", self.warmup_rounds, least=0)
        check.flag("nesterov", self.nesterov)
        check.flag("decay_norm_and_bias", self.decay_norm_and_bias)
        check.betas("betas", self.betas)
        if not check.faults:
            if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
                found = f"optimizer={self.optimizer!r} momentum={self.momentum}"
                problem = f"needs sgd with momentum; {found}"
                check.add("nesterov", True, problem, "Set trainer.momentum, or nesterov=false")
            if self.lr_min > self.lr:
                problem = f"is above trainer.lr={self.lr}"
                check.add("lr_min", self.lr_min, problem, f"Use 0 to {self.lr}")
        check.finish()
        object.__setattr__(self, "betas", tuple(self.betas))  # YAML brings a list

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


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How the loop is run; results agree to floating-point tolerance (bfloat16: to its 8 bits).

    The fastest values differ by network and device: `corolla.training.tune` measures them, a
    space's YAML keeps them.

    Raises:
        RefusedError: values that do not fit, all at once, under the field's bare name.

    """

    channels_last: bool = True  # keep images and weights as (n, h, w, c) in memory
    fused: bool = True  # one kernel call updates all parameters
    foreach: bool = False  # one kernel call per arithmetic step; excludes fused
    autocast: str = "none"  # none | bfloat16: convolutions and matrix products in 16 bits
    threads: int = (
        1  # torch threads of one operation; several clients a machine: processes pay more
    )
    deterministic: bool = (
        False  # refuse CUDA kernels whose results vary; one CPU thread never varies
    )
    keep_freed_memory: bool = (
        True  # glibc only: see `corolla.training.torch_settings.configure_torch`
    )

    def __post_init__(self) -> None:
        check = Checker("")
        for name in ("channels_last", "fused", "foreach", "deterministic", "keep_freed_memory"):
            check.flag(name, getattr(self, name))
        check.choice("autocast", self.autocast, AUTOCASTS)
        check.count("threads", self.threads, least=1, most=1024)
        if self.fused is True and self.foreach is True:
            check.add("foreach", True, "excludes fused=true", "Switch one of the two off")
        check.finish()
