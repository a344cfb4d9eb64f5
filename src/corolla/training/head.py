"""Training a part of a network: the classifier alone, or all but some arrays.

A part that is not trained is in no optimiser: neither momentum nor weight decay nor a gradient of zeros
moves it, and it comes out with the bits it went in with.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Unpack

from torch import Tensor, nn

from corolla.spaces.model_parts import classifier_name
from corolla.training.batch_loader import Batch, Passes
from corolla.training.batches import shuffled_batches
from corolla.training.epochs import Epochs
from corolla.training.knn import Embedded
from corolla.training.learner import Trainee
from corolla.training.losses import LabelLoss
from corolla.training.results import TrainResult
from corolla.training.trainer import LocalTrainer


@contextmanager
def frozen(model: nn.Module, names: Container[str]) -> Iterator[None]:
    """Have the parameters of these names take no gradients inside the ``with``; buffers are not held."""
    held = [p for name, p in model.named_parameters() if name in names and p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def train_classifier(
    model: nn.Module,
    seen: Embedded,
    *,
    trainer: LocalTrainer,
    lr: float,
    **passes: Unpack[Passes],
) -> TrainResult:
    """Train the classifier of ``model`` in place, on what it read of images: `corolla.training.knn.embed`.

    The same as if each batch went through the whole network in evaluation mode, without augmentation and
    with the BN statistics it had then, but for rounding. Optimiser, clipping and loss are the trainer's.
    ``samples_processed`` counts one pass over the images: that of `embed`. Other errors are those of
    `LocalTrainer.train`.
    """
    name = classifier_name(model, seen.logits.shape[1])
    classifier = model.get_submodule(str(name))  # `embed` read it
    label_loss = LabelLoss(seen.labels, trainer.settings, trainer.device)
    learner = trainer.learner(Trainee(model=classifier, lr=lr))

    def step(batch: Batch) -> list[tuple[str, Tensor]]:
        loss = label_loss(learner.forward(batch.images), batch.where)
        return [("classifier", learner.step(loss))]

    features = seen.features.float()  # as the network computed them
    batches = _Features(features, passes["batch_size"], tuple(passes["seed"]))
    epochs = Epochs(
        batches, lambda _: step, models=[classifier], device=trainer.device, seed=passes["seed"]
    )
    loss, count = 0.0, 1
    for number in range(passes["epochs"]):
        loss, count = epochs.run(number, lr=lambda _: lr)["classifier"]
    return TrainResult(
        train_loss=loss / count,
        num_examples=len(features),
        samples_processed=len(features),
        train_s=epochs.seconds,
        peak_memory_mib=learner.memory.peak_mib(),
    )


@dataclass(frozen=True)
class _Features:
    """Batches of features (n, dim), in the order that seed and epoch give."""

    features: Tensor
    batch_size: int
    seed: Sequence[int]

    def epoch(self, number: int) -> Iterator[Batch]:
        """Go through them once."""
        for indices in shuffled_batches(
            len(self.features), self.batch_size, seed=self.seed, epoch=number, drop_single=False
        ):
            where = indices.to(self.features.device)
            yield Batch(where, self.features.index_select(0, where))
