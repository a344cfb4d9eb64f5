"""Data sets that torchvision knows how to find, verify and download."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corolla.data.dataset import positions
from corolla.data.images import Images, Indices
from corolla.data.official_parts import TRAIN_PART, named_parts, part_faults
from corolla.errors import Fault, RefusedError

PARTS = (TRAIN_PART, "test")


class TorchvisionPool:
    """The official training images followed by the official test images, or one of the two.

    Args:
        root: folder that torchvision's loader is given; None is reported by ``check``.
        download: whether to fetch the files when they are not there.
        parts: those of ``train``, ``test`` that make the pool.
    """

    name: str
    settings_key = "dataset"
    class_names: tuple[str, ...]
    channels: int
    resolution: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: str  # what must lie below root
    loader: str  # torchvision's class

    def __init__(
        self,
        *,
        root: str | Path | None,
        download: bool,
        # Runs that were started before there was this key can be resumed
        parts: str | Sequence[str] = PARTS,
    ) -> None:
        self.root = None if root is None else Path(root).expanduser().absolute()
        self.download = download
        self.parts = named_parts(parts)

    def read(self, root: Path, *, train: bool, download: bool) -> tuple[Any, Any]:
        """Return pixels (n, height, width[, channels]) and labels (n,) of one official part."""
        from torchvision import datasets  # slow to import: only where it is used

        part = getattr(datasets, self.loader)(root, train=train, download=download)
        return part.data, part.targets

    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image."""
        return self._pool[1]

    def sites(self) -> list[str] | None:
        """Return None: the set has no sites."""
        return None

    def train_size(self) -> int:
        """Return how many images of the pool are official training images; they come first."""
        return self._pool[2]

    def images(self, indices: Indices) -> Images:
        """Return the images at ``indices``, uint8 (n, channels, resolution, resolution)."""
        pixels, labels, _ = self._pool
        at = positions(indices, len(labels))
        block = np.ascontiguousarray(pixels[at].transpose(0, 3, 1, 2))
        mean, std = tuple(self.mean), tuple(self.std)
        return Images(torch.from_numpy(block), torch.from_numpy(labels[at]), mean, std)

    def fingerprint(self) -> str:
        """Return a fingerprint of the name and of all labels (torchvision has verified the files)."""
        content = hashlib.sha256(self.name.encode() + self.labels().tobytes())
        return content.hexdigest()[:32]

    def check(self, indices: Indices | None = None) -> list[Fault]:
        """Return what is missing or damaged; with ``download`` the files are fetched now."""
        try:
            self._pool  # noqa: B018 (reading is the check)
        except RefusedError as error:
            return error.faults
        return []

    @cached_property
    def _pool(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
        """Return pixels (n, height, width, channels), labels (n,), number of training images."""
        root_key = f"{self.settings_key}.root"
        faults = part_faults(self.parts, PARTS, key=f"{self.settings_key}.parts")
        remedy = f"Put {self.files} there, or set {self.settings_key}.download=true"
        if self.root is None:
            faults.append(Fault(root_key, None, "no folder given", remedy))
        if self.root is None or faults:
            raise RefusedError(faults)
        read = []
        for part in self.parts:
            try:
                train = part == TRAIN_PART
                pixels, labels = self.read(self.root, train=train, download=self.download)
            except (
                RuntimeError,  # torchvision's own: not found or corrupted
                OSError,  # includes a failed download
                ValueError,
                AssertionError,
                EOFError,
                pickle.UnpicklingError,
            ) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                if self.download:
                    problem = f"{self.name} could not be downloaded or read ({reason})"
                    remedy = f"Check the network, or put {self.files} there yourself"
                else:
                    problem = f"{self.name} is not there or damaged ({reason})"
                fault = Fault(root_key, str(self.root), problem, remedy)
                raise RefusedError(fault) from error
            shape = (-1, self.resolution, self.resolution, self.channels)
            read.append((np.asarray(pixels, np.uint8).reshape(shape), np.asarray(labels)))
        pool = np.concatenate([pixels for pixels, _ in read])
        pool_labels = np.concatenate([labels for _, labels in read]).astype(np.int64)
        return pool, pool_labels, len(read[0][1]) if self.parts[0] == TRAIN_PART else 0
