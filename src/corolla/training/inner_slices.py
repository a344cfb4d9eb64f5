"""Training a slice while smaller devices' slices, which lie inside it, learn from it on the same batches.

The sandwich rule with distillation in place (`corolla.training.sandwich_run`) within one client's slice: what
large devices see reaches the weights that small ones run. Per batch the slice learns from labels; in a share
of the batches one of the inner slices, drawn uniformly, learns from its logits. One step on the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from torch import nn

from corolla.data.images import Images
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import ElasticSupernet, Supernet, to_arrays
from corolla.spaces.within import Within
from corolla.training.batch_loader import Passes
from corolla.training.losses import LabelLoss
from corolla.training.results import TrainResult
from corolla.training.sandwich_run import SandwichRun
from corolla.training.subnet_draws import Role
from corolla.training.torch_settings import configure_torch
from corolla.training.trainer import LocalTrainer

_STREAM = 4  # of a seed; see `corolla.training.subnet_draws`


class InnerDraws:
    """The architectures of each batch; a pure function of seed, epoch and batch."""

    def __init__(
        self,
        whole: Architecture,
        inner: Sequence[Architecture],
        *,
        share: float,
        seed: Sequence[int],
    ) -> None:
        self._whole, self._share, self._seed = whole, share, [int(part) for part in seed]
        self._inner = sorted(inner, key=lambda one: one.choices)  # whatever order they came in

    def batch(self, epoch: int, batch: int) -> list[tuple[Role, Architecture]]:
        """Return the whole, and perhaps one inner slice; both numbers count from 0."""
        key = np.random.SeedSequence(self._seed, spawn_key=(_STREAM, epoch, batch))
        rng = np.random.default_rng(key)
        found: list[tuple[Role, Architecture]] = [("largest", self._whole)]
        if rng.random() < self._share:
            found.append(("random", self._inner[int(rng.integers(len(self._inner)))]))
        return found


def train_with_inner(
    model: nn.Module,
    images: Images,
    *,
    space: Supernet,
    whole: Architecture,
    inner: Sequence[Architecture],
    share: float,
    trainer: LocalTrainer,
    lr: float,
    **passes: Unpack[Passes],
) -> TrainResult:
    """Train ``model``, of architecture ``whole``, in place.

    Args:
        model: on any device; its state is replaced by the trained one.
        images: with labels.
        space: of both architectures.
        whole: the model's.
        inner: architectures inside it, one or more.
        share: of the batches in which one of them learns as well.
        trainer: optimiser, augmentation, loss; batches are those of `LocalTrainer.train` under the same seed.
        lr: step.
        passes: epochs, images in a batch, seed.

    Returns:
        ``samples_processed`` counts an image once for each slice that it trained; the loss is the whole's.

    Raises:
        DivergedError, NoBatchError: as `LocalTrainer.train`.

    """
    configure_torch(trainer.loop)
    elastic = ElasticSupernet(Within(space, whole), to_arrays(model)).to(trainer.device)
    epochs, seed = passes["epochs"], passes["seed"]
    run = SandwichRun(
        elastic,
        images,
        trainer=trainer,
        draws=InnerDraws(whole, inner, share=share, seed=seed),
        supervise=LabelLoss(images.labels, trainer.settings, trainer.device),
        temperature=1.0,
        batch_size=passes["batch_size"],
        seed=seed,
        optimizer_state=None,
    )
    losses: dict[str, float] = {"largest": 0.0}
    for number in range(epochs):
        _, losses = run.epoch(number, lr=lr)
    trained = {name: torch.from_numpy(array) for name, array in elastic.state().items()}
    model.load_state_dict(trained)
    return TrainResult(
        train_loss=losses["largest"],
        num_examples=len(images),
        samples_processed=run.samples_processed,
        train_s=run.train_s,
        peak_memory_mib=run.peak_memory_mib,
    )
