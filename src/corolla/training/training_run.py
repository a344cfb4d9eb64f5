"""One training of one or several models on the same batches: what stays from batch to batch, and an epoch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from corolla.data.images import Images
from corolla.training.batches import Floats, has_batch_norm
from corolla.training.feed import Feed
from corolla.training.learner import Learner, Trainee
from corolla.training.losses import classification_loss, split_counts
from corolla.training.modes import in_mode
from corolla.training.results import OptimizerState, mean_loss
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.torch_settings import seeded_torch, separate_draws


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
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        started = time.perf_counter()
        self._settings, self._device, self._seed = settings, device, tuple(seed)
        self._class_counts = split_counts(images.labels, settings, device)
        self._learners = [
            Learner(trainee, settings=settings, loop=loop, device=device) for trainee in trainees
        ]
        self._feed = Feed(
            floats=Floats(images, device=device, channels_last=loop.channels_last),
            augment=settings.augment,
            batch_size=batch_size,
            seed=self._seed,
            drop_single=any(has_batch_norm(learner.model) for learner in self._learners),
        )
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
        sizes: list[int] = []
        losses: list[list[Tensor]] = [[] for _ in self._learners]
        with ExitStack() as stack:
            for learner in self._learners:
                stack.enter_context(in_mode(learner.model, training=True))
            stack.enter_context(seeded_torch(self._seed, self._device, number))
            draws = separate_draws(len(self._learners), self._device)
            for where, images in self._feed.epoch(number):
                sizes.append(len(where))
                labels = self._feed.floats.labels.index_select(0, where)
                for learner, kept, own in zip(self._learners, losses, draws, strict=True):
                    with own:
                        kept.append(self._step(learner, images, labels))
        # Read at the end of the epoch: on a GPU every look at a loss would wait for the queue.
        means = [
            mean_loss(torch.stack(kept).tolist(), sizes, epoch=number, lr=learner.lr)
            for learner, kept in zip(self._learners, losses, strict=True)
        ]
        self.samples_processed += sum(sizes)
        self.train_s += time.perf_counter() - started
        return means

    def _step(self, learner: Learner, images: Tensor, labels: Tensor) -> Tensor:
        """Make one step on a batch and return its loss."""
        logits = learner.forward(images)
        return learner.step(
            classification_loss(
                logits, labels, settings=self._settings, class_counts=self._class_counts
            )
        )

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
