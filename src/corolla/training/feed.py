"""The batches of a training, epoch by epoch: the same for everyone who trains under one seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from corolla.training.augmentation import augment
from corolla.training.batches import Floats, shuffled_batches
from corolla.training.torch_settings import augmentation_generator


class Batch(NamedTuple):
    """Augmented images, normalised floats (n, c, h, w), and their positions (n,) in the split."""

    where: Tensor
    images: Tensor


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Batches of ``floats``, in order and augmentation that follow from seed and epoch alone.

    ``augment``: one of `corolla.training.settings.AUGMENTATIONS`. ``mean``: per channel, of pixels / 255.
    ``drop_single``: leave out a rest of one image, as BatchNorm needs.
    """

    floats: Floats
    device: torch.device
    augment: str
    mean: Sequence[float]
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
            where = batch.to(self.device)
            yield Batch(where, self.load(where, rng))

    def load(self, where: Tensor, rng: torch.Generator) -> Tensor:
        """Return the images at ``where``, augmented by ``rng``'s next draws."""
        pixels = augment(self.floats.pixels(where), self.augment, rng, mean=self.mean)
        return self.floats.normalised(pixels)
