"""The batches of a training, epoch by epoch: the same for everyone who trains under one seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, TypedDict

from torch import Tensor

from corolla.training.batches import Floats, shuffled_batches
from corolla.training.torch_settings import augmentation_generator


class Passes(TypedDict):
    """Passes over images: ``epochs`` of them, in batches of ``batch_size``, in orders that ``seed`` gives."""

    epochs: int
    batch_size: int
    seed: Sequence[int]


class Batch(NamedTuple):
    """Augmented images, normalised floats (n, c, h, w), and their positions (n,) in the split."""

    where: Tensor
    images: Tensor


@dataclass(frozen=True, kw_only=True)
class BatchLoader:
    """Batches of ``floats``, in order and augmentation that follow from seed and epoch alone.

    ``augment``: one of `corolla.training.settings.Augment`. ``drop_single``: leave out a last batch
    of one image, as BatchNorm needs.
    """

    floats: Floats
    augment: str
    batch_size: int
    seed: Sequence[int]
    drop_single: bool

    def epoch(self, number: int) -> Iterator[Batch]:
        """Go through the images once.

        Raises:
            NoBatchError: too few images.

        """
        rng = augmentation_generator(self.seed, number)
        for batch in shuffled_batches(
            len(self.floats),
            self.batch_size,
            seed=self.seed,
            epoch=number,
            drop_single=self.drop_single,
        ):
            where = batch.to(self.floats.labels.device)
            yield Batch(where, self.floats.augmented(where, self.augment, rng))

    def endless(self) -> Iterator[Batch]:
        """Go through the images again and again; errors are those of `epoch`."""
        for number in count():
            yield from self.epoch(number)
