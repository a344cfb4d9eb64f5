"""CIFAR-10: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009."""

from __future__ import annotations

from corolla.data.torchvision_pool import TorchvisionPool

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"


class Cifar10(TorchvisionPool):
    """50,000 training and 10,000 test images, 32x32 RGB, 10 classes."""

    name = "cifar10"
    class_names = tuple(CLASSES.split())
    channels = 3
    resolution = 32
    mean = (0.4914, 0.4822, 0.4465)  # of the official training images, as commonly published
    std = (0.2470, 0.2435, 0.2616)
    files = "cifar-10-batches-py/"
    loader = "CIFAR10"
