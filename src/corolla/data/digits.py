"""scikit-learn's handwritten digits: 1,797 real 8x8 gray images that need no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998 (its test part), as shipped with scikit-learn.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from corolla.data.dataset import positions
from corolla.data.images import Images, Indices
from corolla.errors import Fault


class Digits:
    """The digits 0..9; pixel values 0..16 are spread over 0..255."""

    name = "digits"
    settings_key = "dataset"
    class_names = tuple("0123456789")
    channels = 1
    resolution = 8
    mean = (0.3053,)  # over all 1,797 images; public constants
    std = (0.3759,)

    def labels(self) -> NDArray[np.int64]:
        """Return the digit of each image."""
        return _pool()[1]

    def sites(self) -> None:
        """Return None: who wrote which digit is not recorded."""

    def train_size(self) -> None:
        """Return None: scikit-learn ships one part only."""

    def images(self, indices: Indices) -> Images:
        """Return the images at ``indices``, uint8 (n, 1, 8, 8)."""
        pixels, labels = _pool()
        at = positions(indices, len(labels))
        return Images(
            torch.from_numpy(pixels[at]), torch.from_numpy(labels[at]), self.mean, self.std
        )

    def fingerprint(self) -> str:
        """Return a fingerprint of all pixels and labels."""
        pixels, labels = _pool()
        return hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()[:32]

    def check(self, indices: Indices | None = None) -> list[Fault]:
        """Return nothing: the images come with scikit-learn."""
        return []


@lru_cache(maxsize=1)  # a run asks several times, and reading takes longer than a tiny round
def _pool() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    # scikit-learn itself takes a second to import, in every process; its file does not.
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("dataset=digits takes its images from scikit-learn")
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    images = table[:, :-1].reshape(-1, 1, 8, 8)
    return np.rint(images * (255 / 16)).astype(np.uint8), table[:, -1].astype(np.int64)
