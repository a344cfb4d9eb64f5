"""Training a supernet on several of its subnets per batch: the sandwich rule, with distillation in place.

Yu & Huang, "Universally Slimmable Networks", ICCV 2019, https://arxiv.org/abs/1903.05134; from an
ensemble, on images without labels: HAPFNAS (Yang & Liu, Entropy 2025, 27(7), 759), Algorithm 1. Per
batch, S being the soft cross-entropy of `corolla.training.losses`:

    largest subnet:                       the loss on labels, or S(teacher's logits)
    smallest, and some drawn uniformly:   S(largest's logits, without gradient and without dropout)
    one step of the optimiser on the sum of all

Subnets share the supernet's weights and add to one gradient; each goes forward and backward before the
next, so activations in memory are those of one subnet. Dropout acts in the largest alone, as in the
public code. Departure: an architecture drawn twice for a batch learns once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from corolla.data.images import Images
from corolla.settings import CountOrNone, Positive, settings
from corolla.spaces.supernet import ElasticSupernet, Supernet
from corolla.training.batch_loader import Passes
from corolla.training.losses import LabelLoss, soft_cross_entropy
from corolla.training.results import OptimizerState
from corolla.training.sandwich_run import SandwichRun
from corolla.training.subnet_draws import Draws, Fits, SubnetDraws, every
from corolla.training.torch_settings import configure_torch
from corolla.training.trainer import LocalTrainer
from corolla.types import Arrays


@settings
class SandwichSettings:
    """Settings of the sandwich rule."""

    random_subnets: CountOrNone = 2  # besides smallest and largest
    temperature: Positive = 1.0  # T of every soft cross-entropy
    teach: Literal["largest", "all"] = "largest"  # who learns from the teacher (or the labels)


@dataclass(frozen=True, kw_only=True)
class SupernetResult:
    """A trained supernet.

    Losses are means over the last epoch's images, each counted while the weights still moved:
    ``losses`` for each role in the sandwich that was trained, ``train_loss`` over all subnets.
    """

    arrays: Arrays
    train_loss: float
    losses: dict[str, float]  # largest, smallest, random
    samples_processed: int  # images that went forward and backward, once for each subnet
    train_s: float  # wall seconds
    peak_memory_mib: float  # as of TrainResult; counted for the first batch's largest subnet
    optimizer_state: OptimizerState  # under the supernet's names, on the CPU


class SupernetTrainer:
    """Trains a supernet on several subnets per batch; keeps nothing between calls."""

    def __init__(self, space: Supernet, trainer: LocalTrainer, settings: SandwichSettings) -> None:
        self._space, self._trainer, self._sandwich = space, trainer, settings

    def distil(
        self,
        state: Arrays,
        images: Images,
        teacher: Tensor,
        *,
        lr: float | Sequence[float],
        weight_decay: float | None = None,
        optimizer_state: OptimizerState | None = None,
        **passes: Unpack[Passes],
    ) -> SupernetResult:
        """Train the supernet on a teacher's logits; labels are not read, images not augmented.

        Order of batches and draws of subnets follow from ``seed``, epoch and batch. A last batch of one image
        is left out if the space has BatchNorm. The optimiser is the trainer's, with its clipping.

        Args:
            state: of the whole supernet; not written to.
            images: what the teacher saw, to the pixel; see `corolla.training.ensemble.augmented_view`.
            teacher: logits of these images, (n, classes), in their order.
            lr: step, or one of each epoch.
            weight_decay: in place of the trainer's; None: the trainer's.
            passes: epochs, 1 or more; images in a batch; a seed such as ``(run's seed, round)``.
            optimizer_state: of an earlier call's result, to carry on from; None: start afresh.

        Raises:
            DivergedError: a loss became infinite or NaN.
            NoBatchError: too few images for a batch.
            ValueError: arguments out of range, or that do not fit each other.

        """
        shape = (len(images), self._space.num_classes)
        if tuple(teacher.shape) != shape or not bool(torch.isfinite(teacher).all()):
            given = f"teacher of shape {tuple(teacher.shape)}"
            raise ValueError(f"{given}: need finite logits of shape {shape}, one row per image")
        answers = teacher.detach().float().to(self._trainer.device)

        def supervise(logits: Tensor, where: Tensor) -> Tensor:
            wanted = answers.index_select(0, where)
            return soft_cross_entropy(logits, wanted, self._sandwich.temperature)

        trainer = self._trainer.replaced(augment="none")
        if weight_decay is not None:
            trainer = trainer.replaced(weight_decay=weight_decay)
        return self._run(
            state,
            images,
            trainer,
            supervise=supervise,
            lr=lr,
            **passes,
            fits=every,
            optimizer_state=optimizer_state,
        )

    def train(
        self,
        state: Arrays,
        images: Images,
        *,
        lr: float | Sequence[float],
        fits: Fits = every,
        draws: Draws | None = None,
        optimizer_state: OptimizerState | None = None,
        **passes: Unpack[Passes],
    ) -> SupernetResult:
        """Train the supernet on labels: `classification_loss`, images augmented as the trainer says.

        ``draws``, where given, says which subnets a batch trains, and ``fits`` is not asked.


        Batches are those of `LocalTrainer.train` under the same seed. Only architectures that ``fits``
        accepts are trained; where that is not so of the largest, the costliest of the batch's draws
        takes its part (see `corolla.training.subnet_draws.SubnetDraws`). Arrays in which no subnet of a
        batch has a part are not touched by the step; of others, weight decay shrinks all entries.
        Arguments and errors otherwise as of `distil`.

        Raises:
            RefusedError: not even the smallest architecture fits.

        """
        trainer = self._trainer
        return self._run(
            state,
            images,
            trainer,
            supervise=LabelLoss(images.labels, trainer.settings, trainer.device),
            lr=lr,
            **passes,
            fits=fits,
            draws=draws,
            optimizer_state=optimizer_state,
        )

    def _run(
        self,
        state: Arrays,
        images: Images,
        trainer: LocalTrainer,
        *,
        seed: Sequence[int],
        fits: Fits,
        epochs: int,
        lr: float | Sequence[float],
        draws: Draws | None = None,
        **arguments: Any,
    ) -> SupernetResult:
        expected = self._space.supernet_shapes
        if {name: array.shape for name, array in state.items()} != expected:
            raise ValueError(f"state is not that of the supernet of {self._space.name!r}")
        rates, sandwich = _rates(lr, epochs), self._sandwich
        configure_torch(trainer.loop)
        elastic = ElasticSupernet(self._space, state)
        run = SandwichRun(
            elastic,
            images,
            trainer=trainer,
            draws=draws
            or SubnetDraws(
                self._space, random_subnets=sandwich.random_subnets, seed=seed, fits=fits
            ),
            temperature=sandwich.temperature if sandwich.teach == "largest" else None,
            seed=seed,
            **arguments,
        )
        for epoch, rate in enumerate(rates):
            train_loss, losses = run.epoch(epoch, lr=rate)
        return SupernetResult(
            arrays=elastic.state(),
            train_loss=train_loss,
            losses=losses,
            samples_processed=run.samples_processed,
            train_s=run.train_s,
            peak_memory_mib=run.peak_memory_mib,
            optimizer_state=run.optimizer_state(),
        )


def _rates(lr: float | Sequence[float], epochs: int) -> list[float]:
    """Return the step of each epoch."""
    rates = [lr] * epochs if isinstance(lr, int | float) else list(lr)
    if epochs < 1 or len(rates) != epochs:
        raise ValueError(f"epochs={epochs}, lr={lr}: need 1 epoch or more, and a step for each")
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise ValueError(f"lr={lr}: need finite numbers, 0 or more")
    return rates
