"""A data set without some of its images: what is divided among clients when others have theirs already."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corolla.data.dataset import Dataset, positions
from corolla.data.images import Images, Indices
from corolla.errors import Fault


class Remainder:
    """The images of ``dataset`` that are not ``held_out``, in its order; positions count anew from 0.

    Args:
        dataset: the whole.
        held_out: positions in the whole, in any order.

    Raises:
        IndexError: a position outside the whole.
    """

    settings_key = "dataset"

    def __init__(self, dataset: Dataset, held_out: Indices) -> None:
        self._whole = dataset
        count = len(dataset.labels())
        self.name = dataset.name
        self.class_names = dataset.class_names  # a label may have lost all its images
        self.channels, self.resolution = dataset.channels, dataset.resolution
        self.mean, self.std = dataset.mean, dataset.std
        self._left = np.delete(np.arange(count, dtype=np.int64), positions(held_out, count))

    def in_whole(self, indices: Indices) -> NDArray[np.int64]:
        """Return the positions in the whole of images of the remainder."""
        return self._left[positions(indices, len(self._left))]

    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image that is left."""
        return self._whole.labels()[self._left]

    def sites(self) -> list[str] | None:
        """Return the site of every image that is left; None if the whole has no sites."""
        sites = self._whole.sites()
        return None if sites is None else [sites[position] for position in self._left]

    def train_size(self) -> int | None:
        """Return how many images that are left are official training images; they come first."""
        size = self._whole.train_size()
        return None if size is None else int(np.searchsorted(self._left, size))

    def images(self, indices: Indices) -> Images:
        """Return the images at ``indices`` of the remainder."""
        return self._whole.images(self.in_whole(indices))

    def fingerprint(self) -> str:
        """Return the whole's fingerprint and how many images are gone: never that of a whole."""
        return f"{self._whole.fingerprint()} without {len(self._whole.labels()) - len(self._left)}"

    def check(self, indices: Indices | None = None) -> list[Fault]:
        """Return all that is wrong with the whole; decodes only ``indices``, if given."""
        return self._whole.check(None if indices is None else self.in_whole(indices))
