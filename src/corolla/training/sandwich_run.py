"""One training of a supernet by the sandwich rule: what stays from batch to batch, and an epoch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from corolla.aggregation.statistics import STATISTICS
from corolla.data.images import Images
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import ElasticSupernet
from corolla.training.batch_loader import Batch
from corolla.training.epochs import Epochs, Step
from corolla.training.execution_mode import autocast, avoid_overrun
from corolla.training.learner import Trainee
from corolla.training.losses import soft_cross_entropy
from corolla.training.memory import backward
from corolla.training.results import OptimizerState
from corolla.training.statistics import batch_statistics
from corolla.training.subnet_draws import Draws, Role
from corolla.training.trainer import LocalTrainer

Supervision = Callable[[Tensor, Tensor], Tensor]
"""Loss of logits (n, classes) on the images at positions (n,)."""


class SandwichRun:
    """Trains ``elastic`` in place, epoch by epoch.

    Args:
        elastic: the supernet.
        images: what it is trained on.
        trainer: for its settings, loop and device.
        draws: the subnets of each batch, the largest first.
        supervise: the largest subnet's loss.
        temperature: at which the others learn from the largest; None: they have its loss too.
        batch_size: images.
        seed: of order, augmentation and dropout.
        optimizer_state: to carry on from.

    """

    def __init__(
        self,
        elastic: ElasticSupernet,
        images: Images,
        *,
        trainer: LocalTrainer,
        draws: Draws,
        supervise: Supervision,
        temperature: float | None,
        batch_size: int,
        seed: Sequence[int],
        optimizer_state: OptimizerState | None,
    ) -> None:
        started = time.perf_counter()
        self._elastic, self._device, self._loop = elastic, trainer.device, trainer.loop
        self._draws, self._supervise, self._temperature = draws, supervise, temperature
        saved = optimizer_state and {n.replace(".", "/"): e for n, e in optimizer_state.items()}
        self._learner = trainer.learner(Trainee(model=elastic, lr=0.0, optimizer_state=saved))
        if trainer.settings.optimizer == "sgd" and trainer.settings.momentum:
            self._learner.start_momentum()
        loader = trainer.loader(
            images,
            batch_size=batch_size,
            seed=seed,
            drop_single=any(
                name.rpartition("/")[2] in STATISTICS for name, _ in elastic.named_buffers()
            ),
        )
        # Subnets have modes of their own: `_set_mode`.
        self._epochs = Epochs(loader, self._begin, models=[], device=trainer.device, seed=seed)
        self._prepared_s = time.perf_counter() - started

    def epoch(self, number: int, *, lr: float) -> tuple[float, dict[str, float]]:
        """Go through the images once; return the mean loss of all subnets and of each part.

        Errors are those of `corolla.training.epochs.Epochs.run`.
        """
        self._learner.set_lr(lr)
        sums = self._epochs.run(number, lr=lambda part: lr)
        totals, counts = zip(*sums.values(), strict=True)
        return sum(totals) / sum(counts), {p: total / count for p, (total, count) in sums.items()}

    def _begin(self, number: int) -> Step[Batch]:
        index = itertools.count()
        return lambda batch: self._step(batch, self._draws.batch(number, next(index)))

    def _step(
        self, batch: Batch, subnets: Sequence[tuple[Role, Architecture]]
    ) -> list[tuple[str, Tensor]]:
        """Make one step on a batch; return each subnet's loss."""
        where, images = batch
        losses: list[tuple[str, Tensor]] = []
        answers: Tensor | None = None  # of the largest, for the others
        for position, (role, architecture) in enumerate(subnets):
            with self._elastic.lend(architecture) as subnet:
                avoid_overrun(subnet, self._loop, self._device)
                _set_mode(subnet, dropout=position == 0)
                before = self._draw_state()
                counted = self._learner.memory.first_forward() if position == 0 else nullcontext()
                with counted, autocast(self._loop, self._device):
                    logits = subnet(images).float()
                if answers is None:
                    loss = self._supervise(logits, where)
                else:
                    loss = soft_cross_entropy(logits, answers, self._temperature or 1.0)
                losses.append((role, loss.detach()))
                backward(loss)
                if position == 0 and self._temperature is not None and len(subnets) > 1:
                    answers = logits.detach()
                    if self._draw_state() != before:
                        answers = self._without_dropout(subnet, images)
        self._learner.update()
        return losses

    def _without_dropout(self, subnet: nn.Module, images: Tensor) -> Tensor:
        # Nothing but BatchNorm is in training mode, and its running statistics have seen this batch.
        with torch.no_grad(), batch_statistics(subnet), autocast(self._loop, self._device):
            return subnet(images).float()  # type: ignore[no-any-return]

    def _draw_state(self) -> bytes:
        """Return the state of the generator that dropout draws from: it tells whether anything drew."""
        if self._device.type == "cuda":
            return torch.cuda.get_rng_state(self._device).numpy().tobytes()
        return torch.get_rng_state().numpy().tobytes()

    @property
    def samples_processed(self) -> int:
        """Images that went forward and backward, once for each subnet."""
        return self._epochs.images.total()

    @property
    def train_s(self) -> float:
        """Seconds of preparation and epochs."""
        return self._prepared_s + self._epochs.seconds

    @property
    def peak_memory_mib(self) -> float:
        """See `corolla.training.results.TrainResult`; of the largest subnet of the first batch."""
        return self._learner.memory.peak_mib()

    def optimizer_state(self) -> OptimizerState:
        """Return a copy of the optimiser's state under the supernet's names."""
        state = self._learner.optimizer_state()
        return {name.replace("/", "."): entry for name, entry in state.items()}


def _set_mode(subnet: nn.Module, *, dropout: bool) -> None:
    """Put BatchNorm into training mode, and everything else as ``dropout`` says."""
    subnet.train(dropout)
    for module in subnet.modules():
        if isinstance(module, _BatchNorm):
            module.train()
