"""One training of a supernet by the sandwich rule: what stays from batch to batch, and an epoch."""

from __future__ import annotations

import math
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
from corolla.training.feed import Feed
from corolla.training.losses import soft_cross_entropy
from corolla.training.memory import MemoryCount
from corolla.training.modes import autocast, avoid_overrun, lay_out
from corolla.training.optimizers import build_optimizer, export_state, restore_state, trainable
from corolla.training.results import DivergedError, OptimizerState
from corolla.training.statistics import batch_statistics
from corolla.training.subnet_draws import Role, SubnetDraws
from corolla.training.torch_settings import seeded_torch
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
        draws: SubnetDraws,
        supervise: Supervision,
        temperature: float | None,
        batch_size: int,
        seed: Sequence[int],
        optimizer_state: OptimizerState | None,
    ) -> None:
        started = time.perf_counter()
        self._elastic, self._settings = elastic, trainer.settings
        self._device, self._loop = trainer.device, trainer.loop
        self._draws, self._supervise, self._temperature = draws, supervise, temperature
        self._seed = tuple(seed)
        lay_out(elastic, trainer.loop, trainer.device)
        self._optimizer = build_optimizer(
            elastic, settings=trainer.settings, loop=trainer.loop, lr=0.0
        )
        self._memory = MemoryCount(elastic, self._optimizer, trainer.device)
        if optimizer_state is not None:
            saved = {name.replace(".", "/"): entry for name, entry in optimizer_state.items()}
            restore_state(elastic, self._optimizer, saved)
        if trainer.settings.optimizer == "sgd" and trainer.settings.momentum:
            self._start_momentum()
        self._feed = Feed(
            floats=trainer.floats(images),
            augment=trainer.settings.augment,
            batch_size=batch_size,
            seed=self._seed,
            drop_single=any(
                name.rpartition("/")[2] in STATISTICS for name, _ in elastic.named_buffers()
            ),
        )
        self.samples_processed = 0
        self.train_s = time.perf_counter() - started

    def epoch(self, number: int, *, lr: float) -> tuple[float, dict[str, float]]:
        """Go through the images once; return the mean loss of all subnets and of each part.

        Raises:
            DivergedError: a loss was not finite.
            NoBatchError: too few images.

        """
        started = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        sizes: list[int] = []
        losses: list[list[tuple[Role, Tensor]]] = []
        with seeded_torch(self._seed, self._device, number):
            for index, (where, batch) in enumerate(self._feed.epoch(number)):
                sizes.append(len(where))
                losses.append(self._step(batch, where, self._draws.batch(number, index)))
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for index, (size, found) in enumerate(zip(sizes, losses, strict=True)):
            # Read at the end of the epoch: on a GPU every look at a loss would wait for the queue.
            for (role, _), value in zip(
                found, torch.stack([x for _, x in found]).tolist(), strict=True
            ):
                if not math.isfinite(value):
                    raise DivergedError(loss=value, epoch=number, batch=index, lr=lr)
                sums[role] = sums.get(role, 0.0) + value * size
                counts[role] = counts.get(role, 0) + size
        self.samples_processed += sum(counts.values())
        self.train_s += time.perf_counter() - started
        means = {role: sums[role] / counts[role] for role in sums}
        return sum(sums.values()) / sum(counts.values()), means

    def _step(
        self, images: Tensor, where: Tensor, subnets: Sequence[tuple[Role, Architecture]]
    ) -> list[tuple[Role, Tensor]]:
        """Make one step on a batch; return each subnet's loss."""
        losses: list[tuple[Role, Tensor]] = []
        answers: Tensor | None = None  # of the largest, for the others
        for position, (role, architecture) in enumerate(subnets):
            with self._elastic.lend(architecture) as subnet:
                avoid_overrun(subnet, self._loop, self._device)
                _set_mode(subnet, dropout=position == 0)
                before = self._draw_state()
                counted = self._memory.first_forward() if position == 0 else nullcontext()
                with counted, autocast(self._loop, self._device):
                    logits = subnet(images).float()
                if answers is None:
                    loss = self._supervise(logits, where)
                else:
                    loss = soft_cross_entropy(logits, answers, self._temperature or 1.0)
                losses.append((role, loss.detach()))
                loss.backward()  # type: ignore[no-untyped-call]
                if position == 0 and self._temperature is not None and len(subnets) > 1:
                    answers = logits.detach()
                    if self._draw_state() != before:
                        answers = self._without_dropout(subnet, images)
        if self._settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(trainable(self._elastic), self._settings.clip_norm)
        self._optimizer.step()
        self._memory.after_first_step()
        self._optimizer.zero_grad()  # frees the gradients before the next forward pass
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

    def _start_momentum(self) -> None:
        # torch's fused SGD cannot take a parameter whose first gradient comes in a later step than
        # others'. A first step from a momentum of 0 is the same.
        for parameter in trainable(self._elastic):
            state = self._optimizer.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)

    @property
    def peak_memory_mib(self) -> float:
        """See `corolla.training.results.TrainResult`; of the largest subnet of the first batch."""
        return self._memory.peak_mib()

    def optimizer_state(self) -> OptimizerState:
        """Return a copy of the optimiser's state under the supernet's names."""
        state = export_state(self._elastic, self._optimizer)
        return {name.replace("/", "."): entry for name, entry in state.items()}


def _set_mode(subnet: nn.Module, *, dropout: bool) -> None:
    """Put BatchNorm into training mode, and everything else as ``dropout`` says."""
    subnet.train(dropout)
    for module in subnet.modules():
        if isinstance(module, _BatchNorm):
            module.train()
