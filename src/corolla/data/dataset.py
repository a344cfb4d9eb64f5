"""What a data set offers: a pool of labelled images, addressed by position."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corolla.data.images import Images, Indices
from corolla.errors import Fault


class Dataset(Protocol):
    """A pool of images. Concrete classes are the ``_target_`` of ``conf/dataset/*.yaml``.

    Constructors touch no file: what is missing or damaged is told by ``check``, or raised as
    ``RefusedError`` by the method that needs it. The pool's order is the same on every machine
    that holds the same data, so that a partition can travel as lists of positions.
    """

    @property
    def name(self) -> str:
        """The data set's name, as in ``conf/dataset/``."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        ...

    @property
    def channels(self) -> int:
        """1 (gray) or 3 (RGB)."""
        ...

    @property
    def resolution(self) -> int:
        """Height and width of the images, in pixels."""
        ...

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of pixels / 255; a constant, never computed from clients' data."""
        ...

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of pixels / 255; a constant, never computed from clients' data."""
        ...

    settings_key: str
    """Where its settings stand, for messages: ``dataset``, or ``server_set.dataset``."""

    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image of the pool, without decoding any."""
        ...

    def sites(self) -> list[str] | None:
        """Return the site of every image of the pool; None if the set has no sites."""
        ...

    def train_size(self) -> int | None:
        """Return how many images at the start of the pool are its official training set, if any."""
        ...

    def images(self, indices: Indices) -> Images:
        """Return the images at ``indices``, decoded, in that order.

        Raises:
            RefusedError: images that cannot be decoded, each named.
            IndexError: a position outside the pool.
        """
        ...

    def fingerprint(self) -> str:
        """Return a fingerprint that is equal where positions mean the same images."""
        ...

    def check(self, indices: Indices | None = None) -> list[Fault]:
        """Return all that is wrong with settings and files; decodes only ``indices``, if given."""
        ...


def positions(indices: Indices, pool: int) -> NDArray[np.int64]:
    """Return ``indices`` as an array.

    Raises:
        IndexError: one is negative (numpy would count it from the end) or not below ``pool``.
    """
    at = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(at) and not 0 <= int(at.min()) <= int(at.max()) < pool:
        raise IndexError(f"positions {at.min()}..{at.max()} asked of a pool of {pool} images")
    return at
