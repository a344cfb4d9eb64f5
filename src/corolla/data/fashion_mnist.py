"""Fashion-MNIST: H. Xiao, K. Rasul and R. Vollgraf, 2017, https://arxiv.org/abs/1708.07747."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corolla.data.torchvision_pool import TorchvisionPool


class FashionMnist(TorchvisionPool):
    """60,000 training and 10,000 test images, 28x28 gray, 10 classes."""

    name = "fashion_mnist"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    channels = 1
    resolution = 28
    mean = (0.2860,)  # of the official training images, as commonly published
    std = (0.3530,)
    files = "FashionMNIST/raw/"

    def read(self, root: Path, *, train: bool, download: bool) -> tuple[Any, Any]:
        """Return pixels (n, 28, 28) and labels (n,) of one official part."""
        from torchvision.datasets import FashionMNIST  # slow to import: only where it is used

        part = FashionMNIST(root, train=train, download=download)
        return part.data.numpy(), part.targets.numpy()
