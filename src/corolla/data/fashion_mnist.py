"""Fashion-MNIST: H. Xiao, K. Rasul and R. Vollgraf, 2017, https://arxiv.org/abs/1708.07747."""

from __future__ import annotations

from corolla.data.torchvision_pool import TorchvisionPool


class FashionMnist(TorchvisionPool):
    """60,000 training and 10,000 test images, 28x28 gray, 10 classes."""

    name = "fashion_mnist"
    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    channels = 1
    resolution = 28
    mean = (0.2860,)  # of the official training images, as commonly published
    std = (0.3530,)
    files = "FashionMNIST/raw/"
    loader = "FashionMNIST"
