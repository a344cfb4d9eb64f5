"""One training of one model: what stays the same from batch to batch, and an epoch of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.data.images import Images
from corolla.training.augmentation import augment
from corolla.training.batches import Floats, has_batch_norm, shuffled_batches
from corolla.training.memory import MemoryCount
from corolla.training.modes import in_mode, lay_out
from corolla.training.optimizers import build_optimizer, export_state, restore_state, trainable
from corolla.training.results import DivergedError, OptimizerState
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.torch_settings import augmentation_generator, seeded_torch

Hook = Callable[[nn.Module], None]
"""Called after backward, before clipping and the optimiser's step: adds to the gradients."""


class TrainingRun:
    """Trains ``model`` in place, epoch by epoch; counts samples, seconds and memory."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        *,
        settings: TrainerSettings,
        loop: LoopSettings,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        lr: float,
        seed: Sequence[int],
        optimizer_state: OptimizerState | None = None,
        after_backward: Hook | None = None,
    ) -> None:
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"lr={lr}: need a finite number, 0 or more")
        started = time.perf_counter()
        lay_out(model, loop, device)
        self._model, self._settings, self._loop, self._device = model, settings, loop, device
        self._floats = Floats(
            images, mean=mean, std=std, device=device, channels_last=loop.channels_last
        )
        self._mean, self._batch_size, self._lr, self._seed = mean, batch_size, lr, tuple(seed)
        self._after_backward = after_backward
        self._parameters = trainable(model)
        self._drop_single = has_batch_norm(model)
        self._optimizer = build_optimizer(model, settings=settings, loop=loop, lr=lr)
        if optimizer_state is not None:
            restore_state(self._optimizer, optimizer_state)
        self._optimizer.zero_grad()  # whatever the caller left there
        self._memory = MemoryCount(model, self._optimizer, device)
        self.samples_processed = 0
        self.train_s = time.perf_counter() - started

    def epoch(self, number: int) -> float:
        """Go through the images once; return the mean loss, each image counted once.

        ``number`` (0, 1, ...) decides with the seed about order, augmentation and dropout.

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
        losses: list[Tensor] = []
        with in_mode(self._model, training=True), seeded_torch(self._seed, self._device, number):
            for batch in batches:
                losses.append(self._step(batch.to(self._device), rng))
        sizes = [len(batch) for batch in batches]
        # Read at the end of the epoch: on a GPU every look at a loss would wait for the queue.
        values: list[float] = torch.stack(losses).tolist()
        for index, value in enumerate(values):
            if not math.isfinite(value):
                raise DivergedError(loss=value, epoch=number, batch=index, lr=self._lr)
        self.samples_processed += sum(sizes)
        self.train_s += time.perf_counter() - started
        return sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)

    def _step(self, batch: Tensor, rng: torch.Generator) -> Tensor:
        settings = self._settings
        pixels = self._floats.pixels(batch)
        if settings.augment != "none":
            pixels = augment(pixels, settings.augment, rng, mean=self._mean)
        images, labels = self._floats.normalised(pixels), self._floats.labels.index_select(0, batch)
        with self._memory.first_forward(), self._autocast():
            logits = self._model(images)
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=settings.label_smoothing
        )
        loss.backward()  # type: ignore[no-untyped-call]
        if self._after_backward is not None:
            self._after_backward(self._model)
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm)
        self._optimizer.step()
        self._memory.after_first_step()
        self._optimizer.zero_grad()  # frees the gradients before the next forward pass
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        if self._loop.autocast == "none":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)

    @property
    def peak_memory_mib(self) -> float:
        """See `corolla.training.results.TrainResult`."""
        return self._memory.peak_mib()

    def optimizer_state(self) -> OptimizerState:
        """Return a copy of the optimiser's state, from which another run carries on."""
        return export_state(self._optimizer)
