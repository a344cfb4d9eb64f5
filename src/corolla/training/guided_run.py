"""One training of models whose losses the caller makes out of all their logits.

Where `corolla.training.training_run` trains each model on labels as if it were alone, here a batch goes
forward through all models first; then each makes a step on its own loss, in their order. Batches,
augmentation, dropout, clipping and optimisers are the same, so losses that do not look at the other
models give, to the bit, what `LocalTrainer.train` gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor

from corolla.data.images import Images
from corolla.training.batches import has_batch_norm
from corolla.training.feed import Batch, Feed
from corolla.training.learner import Learner, Trainee
from corolla.training.modes import in_mode
from corolla.training.results import TrainResult, mean_loss
from corolla.training.torch_settings import configure_torch, seeded_torch, separate_draws
from corolla.training.trainer import LocalTrainer

Losses = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]
"""One mean loss per model, from all models' logits (n, classes) of the images at positions (n,).

The graph of a model's loss must lead to that model alone: logits of others are detached.
"""


class _GuidedRun:
    """What stays from batch to batch, and an epoch."""

    def __init__(
        self,
        trainees: Sequence[Trainee],
        images: Images,
        losses: Losses,
        *,
        trainer: LocalTrainer,
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        self._device, self._losses, self._seed = trainer.device, losses, tuple(seed)
        self.learners = [
            Learner(trainee, settings=trainer.settings, loop=trainer.loop, device=trainer.device)
            for trainee in trainees
        ]
        self._feed = Feed(
            floats=trainer.floats(images),
            augment=trainer.settings.augment,
            batch_size=batch_size,
            seed=self._seed,
            drop_single=any(has_batch_norm(learner.model) for learner in self.learners),
        )
        self.samples_processed = 0  # of each model

    def epoch(self, number: int) -> list[float]:
        """Go through the images once; return each model's mean loss."""
        sizes: list[int] = []
        found: list[Tensor] = []
        with ExitStack() as stack:
            for learner in self.learners:
                stack.enter_context(in_mode(learner.model, training=True))
            stack.enter_context(seeded_torch(self._seed, self._device, number))
            draws = separate_draws(len(self.learners), self._device)
            for batch in self._feed.epoch(number):
                sizes.append(len(batch.where))
                found.append(self._step(batch, draws))
        self.samples_processed += sum(sizes)
        # Read at the end of the epoch: on a GPU every look at a loss would wait for the queue.
        return [
            mean_loss(values, sizes, epoch=number, lr=learner.lr)
            for learner, values in zip(
                self.learners, torch.stack(found, dim=1).tolist(), strict=True
            )
        ]

    def _step(self, batch: Batch, draws: Sequence[AbstractContextManager[None]]) -> Tensor:
        """Train all models on one batch; return their losses."""
        logits = []
        for learner, own in zip(self.learners, draws, strict=True):
            with own:  # each draws its dropout as if it were alone
                logits.append(learner.forward(batch.images))
        losses = self._losses(logits, batch.where)
        del logits
        return torch.stack(
            [learner.step(loss) for learner, loss in zip(self.learners, losses, strict=True)]
        )

    @property
    def peak_memory_mib(self) -> float:
        """Memory of all models together; see `train_guided`."""
        counts = [learner.memory for learner in self.learners]
        if self._device.type == "cuda":  # the allocator's peak is that of all, less one's weights
            held = sum(count.resident_mib() for count in counts)
            return max(count.peak_mib() + held - count.resident_mib() for count in counts)
        return sum(count.peak_mib() for count in counts)


def train_guided(
    trainees: Sequence[Trainee],
    images: Images,
    losses: Losses,
    *,
    trainer: LocalTrainer,
    epochs: int,
    batch_size: int,
    seed: Sequence[int],
    keep_optimizer_state: bool = False,
) -> list[TrainResult]:
    """Train models in place on ``losses``; labels are read by ``losses`` alone, if at all.

    Results are in the order of ``trainees``. Their ``train_loss`` is what ``losses`` gave; seconds and peak
    of memory are those of all together. All models' activations are held at once; the count on a
    CPU adds all gradients too, although a model's are freed before the next one's backward pass.
    Other arguments are those of `LocalTrainer.train_together`.

    Raises:
        DivergedError: a loss became infinite or NaN; the models are in no useful state.
        NoBatchError: too few images for a batch.
        ValueError: arguments out of range.

    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: need 1 or more")
    started = time.perf_counter()
    configure_torch(trainer.loop)
    run = _GuidedRun(
        trainees,
        images,
        losses,
        trainer=trainer,
        batch_size=batch_size,
        seed=seed,
    )
    for epoch in range(epochs):
        means = run.epoch(epoch)
    train_s = time.perf_counter() - started
    return [
        TrainResult(
            train_loss=loss,
            num_examples=len(images),
            samples_processed=run.samples_processed,
            train_s=train_s,
            peak_memory_mib=run.peak_memory_mib,
            optimizer_state=learner.optimizer_state() if keep_optimizer_state else None,
        )
        for learner, loss in zip(run.learners, means, strict=True)
    ]
