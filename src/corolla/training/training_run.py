"""One training of one or several models on the same batches: what stays from batch to batch, and an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.training.augmentation import augment
from corolla.training.batches import Floats, has_batch_norm, shuffled_batches
from corolla.training.losses import classification_loss, split_counts
from corolla.training.memory import MemoryCount
from corolla.training.modes import in_mode, lay_out
from corolla.training.optimizers import build_optimizer, export_state, restore_state, trainable
from corolla.training.results import DivergedError, OptimizerState
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.torch_settings import (
    augmentation_generator,
    seeded_torch,
    separate_draws,
)

Hook = Callable[[nn.Module], None]
"""Called after backward, before clipping and the optimiser's step: adds to the gradients."""


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """A model to train in place, and what is its own of a training.

    ``lr``: step. ``optimizer_state``: of an earlier training, to carry on from; None: start afresh.
    ``after_backward`` gets the model after each backward pass, before clipping and the step.
    """

    model: nn.Module
    lr: float
    optimizer_state: OptimizerState | None = None
    after_backward: Hook | None = None


class _Learner:
    """One model with its optimiser. A step frees its gradients, so several models share the peak."""

    def __init__(
        self,
        trainee: Trainee,
        *,
        settings: TrainerSettings,
        loop: LoopSettings,
        device: torch.device,
        class_counts: Tensor | None,
    ) -> None:
        if not (math.isfinite(trainee.lr) and trainee.lr >= 0):
            raise ValueError(f"lr={trainee.lr}: need a finite number, 0 or more")
        model = trainee.model
        lay_out(model, loop, device)
        self.model, self.lr = model, trainee.lr
        self._settings, self._loop, self._device = settings, loop, device
        self._class_counts = class_counts
        self._after_backward = trainee.after_backward
        self._parameters = trainable(model)
        self._optimizer = build_optimizer(model, settings=settings, loop=loop, lr=trainee.lr)
        self.memory = MemoryCount(model, self._optimizer, device)
        if trainee.optimizer_state is not None:
            restore_state(model, self._optimizer, trainee.optimizer_state)
        self._optimizer.zero_grad()  # whatever the caller left there

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make one step on a batch and return its loss."""
        settings = self._settings
        with self.memory.first_forward(), self._autocast():
            logits = self.model(images)
        loss = classification_loss(
            logits.float(), labels, settings=settings, class_counts=self._class_counts
        )
        loss.backward()  # type: ignore[no-untyped-call]
        if self._after_backward is not None:
            self._after_backward(self.model)
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm)
        self._optimizer.step()
        self.memory.after_first_step()
        self._optimizer.zero_grad()  # frees the gradients before the next forward pass
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        if self._loop.autocast == "none":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)

    def optimizer_state(self) -> OptimizerState:
        return export_state(self.model, self._optimizer)


class TrainingRun:
    """Trains models in place, epoch by epoch; counts samples, seconds and memory.

    Every batch is loaded and augmented once, then each trainee makes its step on it, in their order.
    """

    def __init__(
        self,
        trainees: Sequence[Trainee],
        images: Images,
        *,
        settings: TrainerSettings,
        loop: LoopSettings,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        started = time.perf_counter()
        self._settings, self._device = settings, device
        counts = split_counts(images.labels, settings, device)
        self._learners = [
            _Learner(trainee, settings=settings, loop=loop, device=device, class_counts=counts)
            for trainee in trainees
        ]
        self._floats = Floats(
            images, mean=mean, std=std, device=device, channels_last=loop.channels_last
        )
        self._mean, self._batch_size, self._seed = mean, batch_size, tuple(seed)
        self._drop_single = any(has_batch_norm(learner.model) for learner in self._learners)
        self.samples_processed = 0  # of each trainee
        self.train_s = time.perf_counter() - started

    def epoch(self, number: int) -> list[float]:
        """Go through the images once; return each trainee's mean loss, each image counted once.

        ``number`` (0, 1, ...) decides with the seed about order, augmentation and dropout; every
        trainee draws as if it were alone.

        Raises:
            DivergedError: a batch's loss was not finite.
            NoBatchError: too few images.

        """
        started = time.perf_counter()
        batches = shuffled_batches(
            len(self._floats),
            self._batch_size,
            seed=self._seed,
            epoch=number,
            drop_single=self._drop_single,
        )
        rng = augmentation_generator(self._seed, number)
        losses: list[list[Tensor]] = [[] for _ in self._learners]
        with ExitStack() as stack:
            for learner in self._learners:
                stack.enter_context(in_mode(learner.model, training=True))
            stack.enter_context(seeded_torch(self._seed, self._device, number))
            draws = separate_draws(len(self._learners), self._device)
            for batch in batches:
                images, labels = self._batch(batch.to(self._device), rng)
                for learner, kept, own in zip(self._learners, losses, draws, strict=True):
                    with own:
                        kept.append(learner.step(images, labels))
        sizes = [len(batch) for batch in batches]
        # Read at the end of the epoch: on a GPU every look at a loss would wait for the queue.
        means = [
            self._mean_loss(learner, torch.stack(kept).tolist(), sizes, number)
            for learner, kept in zip(self._learners, losses, strict=True)
        ]
        self.samples_processed += sum(sizes)
        self.train_s += time.perf_counter() - started
        return means

    def _batch(self, where: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        kind = self._settings.augment
        pixels = self._floats.pixels(where)
        if kind != "none":
            pixels = augment(pixels, kind, rng, mean=self._mean)
        return self._floats.normalised(pixels), self._floats.labels.index_select(0, where)

    def _mean_loss(
        self, learner: _Learner, values: list[float], sizes: list[int], epoch: int
    ) -> float:
        for index, value in enumerate(values):
            if not math.isfinite(value):
                raise DivergedError(loss=value, epoch=epoch, batch=index, lr=learner.lr)
        return sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)

    @property
    def peak_memory_mib(self) -> float:
        """See `corolla.training.results.TrainResult`; of several trainees, with what the others hold."""
        counts = [learner.memory for learner in self._learners]
        held = sum(count.resident_mib() for count in counts)
        return max(count.peak_mib() + held - count.resident_mib() for count in counts)

    def tensors(self) -> list[Tensor]:
        """Return what stays between two steps: models and optimisers' states."""
        return [tensor for learner in self._learners for tensor in learner.memory.tensors()]

    def optimizer_states(self) -> list[OptimizerState]:
        """Return copies of the optimisers' states, from which another run carries on."""
        return [learner.optimizer_state() for learner in self._learners]
