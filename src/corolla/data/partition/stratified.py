"""Train, validation and test of one client, with the same labels in each."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from corolla.data.partition.apportion import largest_remainder
from corolla.data.partition.partition import ClientIndices


def split_sizes(images: int, *, validation: float, test: float) -> tuple[int, int, int]:
    """Return the numbers of train, validation and test images; halves are rounded up."""
    held_out = math.floor(images * validation + 0.5), math.floor(images * test + 0.5)
    return images - sum(held_out), *held_out


def stratified_split(
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    validation: float,
    test: float,
    rng: np.random.Generator,
) -> ClientIndices:
    """Divide a client's images at random so that each label is shared out in the same proportion.

    Sizes are those of ``split_sizes``. As far as they allow, one image of each label stays in
    train: nothing is tested that could not be learned.

    Args:
        indices: positions in the pool, (n,).
        labels: of these images, (n,).
        validation: fraction of the images.
        test: fraction of the images; the two sum to less than 1.
        rng: draws the images.

    Returns:
        Disjoint positions, ascending in each split.
    """
    _, num_validation, num_test = split_sizes(len(indices), validation=validation, test=test)
    classes, counts = np.unique(labels, return_counts=True)
    free = counts - 1
    if free.sum() < num_validation + num_test:
        free = counts
    share = counts / max(1, len(indices))
    to_test = largest_remainder(share * num_test, num_test, free, rng)
    to_validation = largest_remainder(share * num_validation, num_validation, free - to_test, rng)
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for label, in_test, held_out in zip(classes, to_test, to_test + to_validation, strict=True):
        shuffled = rng.permutation(indices[labels == label])
        parts[0].append(shuffled[held_out:])
        parts[1].append(shuffled[in_test:held_out])
        parts[2].append(shuffled[:in_test])
    empty = np.empty(0, np.int64)
    return ClientIndices(*(np.sort(np.concatenate([empty, *part])) for part in parts))
