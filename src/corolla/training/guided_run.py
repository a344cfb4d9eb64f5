"""One training of models whose losses the caller makes out of all their logits.

Where `corolla.training.training_run` trains each model on labels as if it were alone, here a batch goes
forward through all models first; then each makes a step on its own loss, in their order. Batches,
augmentation, dropout, clipping and optimisers are the same, so losses that do not look at the other
models give, to the bit, what `LocalTrainer.train` gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.training.augmentation import augment
from corolla.training.batches import has_batch_norm, shuffled_batches
from corolla.training.memory import MemoryCount
from corolla.training.modes import in_mode, lay_out
from corolla.training.optimizers import build_optimizer, export_state, restore_state, trainable
from corolla.training.results import DivergedError, TrainResult
from corolla.training.torch_settings import (
    augmentation_generator,
    configure_torch,
    seeded_torch,
    separate_draws,
)
from corolla.training.trainer import LocalTrainer
from corolla.training.training_run import Trainee

Losses = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]
"""One mean loss per model, from all models' logits (n, classes) of the images at positions (n,).

The graph of a model's loss must lead to that model alone: logits of others are detached.
"""


class _Guided:
    """One model with its optimiser."""

    def __init__(self, trainee: Trainee, trainer: LocalTrainer) -> None:
        if not (math.isfinite(trainee.lr) and trainee.lr >= 0):
            raise ValueError(f"lr={trainee.lr}: need a finite number, 0 or more")
        self.model, self.lr = trainee.model, trainee.lr
        lay_out(self.model, trainer.loop, trainer.device)
        self._trainer, self._after_backward = trainer, trainee.after_backward
        self._parameters = trainable(self.model)
        self.optimizer = build_optimizer(
            self.model, settings=trainer.settings, loop=trainer.loop, lr=trainee.lr
        )
        self.memory = MemoryCount(self.model, self.optimizer, trainer.device)
        if trainee.optimizer_state is not None:
            restore_state(self.model, self.optimizer, trainee.optimizer_state)
        self.optimizer.zero_grad()  # whatever the caller left there

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes) in float32."""
        with self.memory.first_forward(), self._autocast():
            logits: Tensor = self.model(images)
        return logits.float()

    def step(self, loss: Tensor) -> Tensor:
        """Make one step and return the loss."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._after_backward is not None:
            self._after_backward(self.model)
        if self._trainer.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._trainer.settings.clip_norm)
        self.optimizer.step()
        self.memory.after_first_step()
        self.optimizer.zero_grad()  # frees the gradients
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        if self._trainer.loop.autocast == "none":
            return nullcontext()
        return torch.autocast(self._trainer.device.type, dtype=torch.bfloat16)


class _GuidedRun:
    """What stays from batch to batch, and an epoch."""

    def __init__(
        self,
        trainees: Sequence[Trainee],
        images: Images,
        losses: Losses,
        *,
        trainer: LocalTrainer,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        self._trainer, self._losses = trainer, losses
        self._mean, self._batch_size, self._seed = mean, batch_size, tuple(seed)
        self.models = [_Guided(trainee, trainer) for trainee in trainees]
        self._floats = trainer.floats(images, mean=mean, std=std)
        self._drop_single = any(has_batch_norm(guided.model) for guided in self.models)
        self.samples_processed = 0  # of each model

    def epoch(self, number: int) -> list[float]:
        """Go through the images once; return each model's mean loss."""
        device = self._trainer.device
        batches = shuffled_batches(
            len(self._floats),
            self._batch_size,
            seed=self._seed,
            epoch=number,
            drop_single=self._drop_single,
        )
        rng = augmentation_generator(self._seed, number)
        found = []
        with ExitStack() as stack:
            for guided in self.models:
                stack.enter_context(in_mode(guided.model, training=True))
            stack.enter_context(seeded_torch(self._seed, device, number))
            draws = separate_draws(len(self.models), device)
            for batch in batches:
                found.append(self._batch(batch.to(device), rng, draws))
        sizes = [len(batch) for batch in batches]
        self.samples_processed += sum(sizes)
        # Read at the end of the epoch: on a GPU every look at a loss would wait for the queue.
        sums = [0.0] * len(self.models)
        for index, values in enumerate(torch.stack(found).tolist()):
            for which, value in enumerate(values):
                if not math.isfinite(value):
                    lr = self.models[which].lr
                    raise DivergedError(loss=value, epoch=number, batch=index, lr=lr)
                sums[which] += value * sizes[index]
        return [total / sum(sizes) for total in sums]

    def _batch(
        self,
        where: Tensor,
        rng: torch.Generator,
        draws: Sequence[AbstractContextManager[None]],
    ) -> Tensor:
        """Train all models on one batch; return their losses."""
        pixels = self._floats.pixels(where)
        kind = self._trainer.settings.augment
        if kind != "none":
            pixels = augment(pixels, kind, rng, mean=self._mean)
        images = self._floats.normalised(pixels)
        logits = []
        for guided, own in zip(self.models, draws, strict=True):
            with own:  # each draws its dropout as if it were alone
                logits.append(guided.forward(images))
        losses = self._losses(logits, where)
        del logits
        return torch.stack(
            [guided.step(loss) for guided, loss in zip(self.models, losses, strict=True)]
        )

    @property
    def peak_memory_mib(self) -> float:
        """Memory of all models together; see `train_guided`."""
        counts = [guided.memory for guided in self.models]
        if (
            self._trainer.device.type == "cuda"
        ):  # the allocator's peak is that of all, less one's weights
            held = sum(count.resident_mib() for count in counts)
            return max(count.peak_mib() + held - count.resident_mib() for count in counts)
        return sum(count.peak_mib() for count in counts)


def train_guided(
    trainees: Sequence[Trainee],
    images: Images,
    losses: Losses,
    *,
    trainer: LocalTrainer,
    mean: Sequence[float],
    std: Sequence[float],
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
        mean=mean,
        std=std,
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
            optimizer_state=(
                export_state(guided.model, guided.optimizer) if keep_optimizer_state else None
            ),
        )
        for guided, loss in zip(run.models, means, strict=True)
    ]
