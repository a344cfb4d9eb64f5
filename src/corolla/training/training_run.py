"""One training of one or several models on the same batches: what a step is, and what stays between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from corolla.data.images import Images
from corolla.training.batch_loader import Batch
from corolla.training.batches import has_batch_norm
from corolla.training.epochs import Epochs, Step
from corolla.training.learner import Trainee
from corolla.training.losses import LabelLoss
from corolla.training.results import OptimizerState, TrainResult
from corolla.training.torch_settings import separate_draws

if TYPE_CHECKING:
    from corolla.training.trainer import LocalTrainer

Losses = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]
"""One mean loss per model, from all models' logits (n, classes) of the images at positions (n,).

The graph of a model's loss must lead to that model alone: logits of others are detached.
"""


class TrainingRun:
    """Trains models in place, epoch by epoch; counts samples, seconds and memory.

    Every batch is loaded and augmented once. Without ``losses`` each trainee makes its step on its labels, in
    their order, as if it were alone. With them a batch goes forward through all models first, then each makes
    a step on its own loss: losses that do not look at other models give the same, to the bit.
    """

    def __init__(
        self,
        trainees: Sequence[Trainee],
        images: Images,
        *,
        trainer: LocalTrainer,
        batch_size: int,
        seed: Sequence[int],
        losses: Losses | None = None,
    ) -> None:
        started = time.perf_counter()
        self._settings, self._device, self._losses = trainer.settings, trainer.device, losses
        self._learners = [trainer.learner(trainee) for trainee in trainees]
        self._loader = trainer.loader(
            images,
            batch_size=batch_size,
            seed=seed,
            drop_single=any(has_batch_norm(learner.model) for learner in self._learners),
        )
        self._epochs = Epochs(
            self._loader,
            self._begin,
            models=[learner.model for learner in self._learners],
            device=trainer.device,
            seed=seed,
        )
        self._prepared_s = time.perf_counter() - started

    def epoch(self, number: int) -> list[float]:
        """Go through the images once; return each trainee's mean loss, each image counted once.

        ``number`` (0, 1, ...) decides with the seed about order, augmentation and dropout; every
        trainee draws as if it were alone. Errors are those of `corolla.training.epochs.Epochs.run`.
        """
        sums = self._epochs.run(number, lr=lambda part: self._learners[int(part)].lr)
        return [total / count for total, count in sums.values()]

    def _begin(self, number: int) -> Step[Batch]:
        draws = separate_draws(len(self._learners), self._device)
        turns = [
            (str(index), *turn)
            for index, turn in enumerate(zip(self._learners, draws, strict=True))
        ]

        def alternately(batch: Batch) -> list[tuple[str, Tensor]]:
            losses = []
            for part, learner, own in turns:
                with own:
                    loss = self._label_loss(learner.forward(batch.images), batch.where)
                    losses.append((part, learner.step(loss)))
            return losses

        def jointly(batch: Batch) -> list[tuple[str, Tensor]]:
            logits = []
            for _, learner, own in turns:
                with own:  # each draws its dropout as if it were alone
                    logits.append(learner.forward(batch.images))
            losses = self._losses(logits, batch.where) if self._losses else ()
            del logits
            pairs = zip(turns, losses, strict=True)
            return [(part, learner.step(loss)) for (part, learner, _), loss in pairs]

        return jointly if self._losses else alternately

    @cached_property
    def _label_loss(
        self,
    ) -> LabelLoss:  # made when asked for: images of other losses have no labels
        return LabelLoss(self._loader.floats.labels, self._settings, self._device)

    def result(self, loss: float, optimizer_state: OptimizerState | None = None) -> TrainResult:
        """Return what is told of a model whose mean ``loss`` in the last epoch this was."""
        return TrainResult(
            train_loss=loss,
            num_examples=len(self._loader.floats),
            samples_processed=self._epochs.images["0"],  # that each trainee has gone through
            train_s=self._prepared_s + self._epochs.seconds,
            peak_memory_mib=self.peak_memory_mib,
            optimizer_state=optimizer_state,
        )

    @property
    def peak_memory_mib(self) -> float:
        """See `corolla.training.results.TrainResult`; of several trainees, with what the others hold.

        With losses of their own making all models' activations are held at once. The count on a CPU then adds
        all gradients too, although a model's are freed before the next one's backward pass.
        """
        counts = [learner.memory for learner in self._learners]
        if self._losses and self._device.type != "cuda":
            return sum(count.peak_mib() for count in counts)
        # On CUDA the allocator's peak is that of all, less one's weights.
        held = sum(count.resident_mib() for count in counts)
        return max(count.peak_mib() + held - count.resident_mib() for count in counts)

    def tensors(self) -> list[Tensor]:
        """Return what stays between two steps: models and optimisers' states."""
        return [tensor for learner in self._learners for tensor in learner.memory.tensors()]

    def optimizer_states(self) -> list[OptimizerState]:
        """Return copies of the optimisers' states, from which another run carries on."""
        return [learner.optimizer_state() for learner in self._learners]
