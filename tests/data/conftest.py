"""Small folders of images, and the arguments that every constructor needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from corolla.data.image_folder import ImageFolder

MakeFolder = Callable[..., ImageFolder]
FRACTIONS: dict[str, Any] = {
    "validation": 0.2,
    "test": 0.2,
    "min_train": 1,
    "min_validation": 1,
    "min_test": 1,
}


class Labels:
    """A data set of which only labels, and perhaps sites, exist."""

    name = "labels"
    channels, resolution, mean, std = 1, 1, (0.5,), (0.25,)

    def __init__(
        self, labels: NDArray[np.int64] | list[int], sites: list[str] | None = None
    ) -> None:
        self._labels = np.array(labels, np.int64)
        self._sites = sites
        self.class_names = tuple(f"c{n}" for n in range(int(self._labels.max()) + 1))

    def labels(self) -> NDArray[np.int64]:
        return self._labels

    def sites(self) -> list[str] | None:
        return self._sites

    def fingerprint(self) -> str:
        return f"labels-{len(self._labels)}-{int(self._labels.sum())}"


def write_image(path: Path, value: int, size: tuple[int, int] = (4, 4)) -> None:
    """Write an image of one colour: red is ``value``, green and blue are 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Two cats (red 10, 20) and three dogs (red 30, 40, 50) as 4x4 PNG."""
    root = tmp_path / "animals"
    for number, value in enumerate((10, 20)):
        write_image(root / "cat" / f"{number}.png", value)
    for number, value in enumerate((30, 40, 50)):
        write_image(root / "dog" / f"{number}.png", value)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """Make an ImageFolder of 4x4 RGB images with its cache in the test's own folder."""

    def make(root: Path | None, **changes: Any) -> ImageFolder:
        settings: dict[str, Any] = {
            "resolution": 4,
            "channels": 3,
            "classes": None,
            "sites": False,
            "mean": 0.5,
            "std": 0.25,
            "cache_dir": str(tmp_path / "cache"),
            "cache_gib": 1,
            "memory_mib": 0,
        }
        return ImageFolder(root=root, **(settings | changes))

    return make
