"""Training, evaluation and BN recalibration of one client's model."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.data.images import Images
from corolla.training.batch_loader import BatchLoader, Passes
from corolla.training.batches import Floats, consecutive_batches, has_batch_norm, shuffled_batches
from corolla.training.execution_mode import in_mode, lay_out
from corolla.training.learner import Hook, Learner, Trainee
from corolla.training.results import (
    Evaluation,
    NoBatchError,
    OptimizerState,
    TrainResult,
)
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.statistics import recalibrate
from corolla.training.torch_settings import configure_torch, seeded_torch
from corolla.training.training_run import Losses, TrainingRun

_RECALIBRATION_SEED = (0,)
_SCORING_SEED = (0,)
_T = TypeVar("_T")


class LocalTrainer:
    """Trains and scores plain modules on one device; keeps nothing between calls.

    Every call sets torch's threads and determinism as ``loop`` wants them, for the whole process,
    and leaves the model on the device, in ``loop``'s memory layout and in the mode it came in.
    """

    def __init__(
        self, *, settings: TrainerSettings, loop: LoopSettings, device: str | torch.device = "cpu"
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.device = torch.device(device)

    def replaced(self, **settings: Any) -> LocalTrainer:
        """Return a trainer that differs in these `TrainerSettings` alone."""
        return LocalTrainer(
            settings=replace(self.settings, **settings), loop=self.loop, device=self.device
        )

    def train(
        self,
        model: nn.Module,
        images: Images,
        *,
        lr: float,
        optimizer_state: OptimizerState | None = None,
        keep_optimizer_state: bool = False,
        first_epoch: int = 0,
        after_backward: Hook | None = None,
        sparse: bool = False,
        **passes: Unpack[Passes],
    ) -> TrainResult:
        """Train ``model`` in place for ``epochs``.

        Batch order, augmentation and dropout follow from ``seed`` and the epoch's number alone,
        whatever the model. The last batch is the rest of the images; a single image is left out
        if the model has BatchNorm.

        Args:
            model: takes (n, c, h, w) floats, gives (n, classes) logits.
            images: the training split.
            lr: step, as `TrainerSettings.learning_rate` gives it for the round.
            optimizer_state: of an earlier training, to carry on from; None: start afresh.
            keep_optimizer_state: return the state at the end.
            first_epoch: number of the first epoch, for a training that goes on under the same seed.
            after_backward: gets the model after each backward pass, before clipping and the step.
            sparse: a step may leave parameters without gradients, which then rest.
            passes: epochs, 1 or more; images in a batch; a seed such as
                ``(run's seed, round, client_seed(client))``.

        Raises:
            DivergedError: the loss became infinite or NaN; the model is in no useful state.
            NoBatchError: too few images for a batch.
            ValueError: arguments out of range.

        """
        trainee = Trainee(
            model=model,
            lr=lr,
            optimizer_state=optimizer_state,
            after_backward=after_backward,
            sparse=sparse,
        )
        (result,) = self.train_together(
            [trainee],
            images,
            keep_optimizer_state=keep_optimizer_state,
            first_epoch=first_epoch,
            **passes,
        )
        return result

    def train_together(
        self,
        trainees: Sequence[Trainee],
        images: Images,
        *,
        epochs: int,
        batch_size: int,
        seed: Sequence[int],
        losses: Losses | None = None,
        keep_optimizer_state: bool = False,
        first_epoch: int = 0,
    ) -> list[TrainResult]:
        """Train several models in place, alternately on the same batches, as each alone would be.

        A batch is loaded and augmented once. Gradients of one model are freed before the next one's
        forward pass, so the peak of memory is about that of the largest. A last batch of 1 image is left
        out if any of the models has BatchNorm. Seconds and peak of each result are those of all
        together. Other arguments and errors are those of `train`.

        With ``losses`` labels are read by these alone, if at all, and all models' activations are held at
        once: see `corolla.training.training_run`.
        """
        if epochs < 1:
            raise ValueError(f"epochs={epochs}: need 1 or more")
        configure_torch(self.loop)
        run = TrainingRun(
            trainees, images, trainer=self, batch_size=batch_size, seed=seed, losses=losses
        )
        for epoch in range(first_epoch, first_epoch + epochs):
            means = run.epoch(epoch)
        states = run.optimizer_states() if keep_optimizer_state else [None] * len(trainees)
        return [run.result(*own) for own in zip(means, states, strict=True)]

    def train_until_converged(
        self,
        model: nn.Module,
        images: Images,
        *,
        validate: Callable[[nn.Module], Evaluation],
        patience_epochs: int,
        epochs: int,
        batch_size: int,
        lr: float,
        seed: Sequence[int],
    ) -> TrainResult:
        """Train until ``patience_epochs`` in a row brought no better score by ``validate``, then go back.

        Better is a higher accuracy, or the same at a lower loss. The model ends with the weights
        (and BN statistics) of the best epoch, the start included. ``train_loss`` is that of the
        last epoch trained, of ``epochs`` at most; other arguments and errors are those of `train`.
        """
        if patience_epochs < 1 or epochs < 1:
            raise ValueError(f"patience_epochs={patience_epochs} epochs={epochs}: need 1 or more")
        configure_torch(self.loop)
        trainee = Trainee(model=model, lr=lr)
        run = TrainingRun([trainee], images, trainer=self, batch_size=batch_size, seed=seed)
        best, best_epoch = validate(model), 0
        weights = _copy_of(model)
        for epoch in range(1, epochs + 1):
            (loss,) = run.epoch(epoch - 1)
            scored = validate(model)
            if (scored.accuracy, -scored.loss) > (best.accuracy, -best.loss):
                best, best_epoch, weights = scored, epoch, _copy_of(model)
            elif epoch - best_epoch >= patience_epochs:
                break
        model.load_state_dict(weights)
        return run.result(loss)

    def evaluate(self, model: nn.Module, images: Images) -> Evaluation:
        """Score ``model`` in evaluation mode, in float32 whatever ``loop.autocast`` says.

        Raises:
            NoBatchError: there are no images.

        """
        return self.evaluate_on(model, self.floats(images))

    def evaluate_on(self, model: nn.Module, floats: Floats) -> Evaluation:
        """Do as `evaluate`, on images that `floats` prepared once for many models."""
        if not len(floats):
            raise NoBatchError("nothing to evaluate on: 0 images")

        def score(logits: Tensor, where: slice) -> tuple[Tensor, Tensor]:
            labels = floats.labels[where]
            right = (logits.argmax(1) == labels).sum()
            return right, functional.cross_entropy(logits, labels, reduction="sum")

        right, losses = zip(*self.answers(model, floats, score), strict=True)
        count = len(floats)
        return Evaluation(
            accuracy=int(torch.stack(right).sum()) / count,
            loss=sum(torch.stack(losses).tolist()) / count,
            num_examples=count,
        )

    def answers(
        self, model: nn.Module, floats: Floats, use: Callable[[Tensor, slice], _T]
    ) -> list[_T]:
        """Return what ``use`` makes of each batch's logits (n, classes) and its place among the images.

        The model answers in evaluation mode and in float32; operations that draw (noise), draw the same on
        every call.
        """
        configure_torch(self.loop)
        lay_out(model, self.loop, self.device)
        with (
            torch.inference_mode(),
            in_mode(model, training=False),
            seeded_torch(_SCORING_SEED, self.device),
        ):
            return [
                use(model(floats.normalised(floats.pixels(where))).float(), where)
                for where in consecutive_batches(len(floats), self.settings.eval_batch_size)
            ]

    def recalibrate(
        self,
        model: nn.Module,
        images: Images,
        *,
        batch_size: int,
        keep: Container[str] = (),
    ) -> None:
        """Recompute BN's running statistics, as the mean over batches of ``images``.

        See `corolla.training.statistics.recalibrate`. Images are drawn into batches in one fixed
        shuffled order, as a split may be stored class by class. A last batch of a single image is left out.

        Raises:
            NoBatchError: fewer than 2 images, for a model with BatchNorm.

        """
        floats = self.floats(images)
        self.recalibrate_on(model, floats, batch_size=batch_size, keep=keep)

    def recalibrate_on(
        self, model: nn.Module, floats: Floats, *, batch_size: int, keep: Container[str] = ()
    ) -> None:
        """Do as `recalibrate`, on images that `floats` prepared once for many models."""
        if not has_batch_norm(model):
            return
        configure_torch(self.loop)
        lay_out(model, self.loop, self.device)
        order = shuffled_batches(
            len(floats), batch_size, seed=_RECALIBRATION_SEED, epoch=0, drop_single=True
        )

        def batches() -> Iterator[Tensor]:
            for indices in order:
                yield floats.normalised(floats.pixels(indices.to(self.device)))

        with seeded_torch(_SCORING_SEED, self.device):  # for operations that draw (noise)
            recalibrate(model, batches(), keep=keep)

    def learner(self, trainee: Trainee) -> Learner:
        """Return ``trainee`` with its optimiser, on this trainer's device. ValueError: step out of range."""
        return Learner(trainee, settings=self.settings, loop=self.loop, device=self.device)

    def loader(
        self, images: Images, *, batch_size: int, seed: Sequence[int], drop_single: bool
    ) -> BatchLoader:
        """Return the batches of ``images``, augmented; see `corolla.training.batch_loader.BatchLoader`."""
        return BatchLoader(
            floats=self.floats(images),
            augment=self.settings.augment,
            batch_size=batch_size,
            seed=tuple(seed),
            drop_single=drop_single,
        )

    def floats(self, images: Images) -> Floats:
        """Return ``images`` on this trainer's device, handed out in its memory layout."""
        return Floats(images, device=self.device, channels_last=self.loop.channels_last)


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
