"""Small models and images whose training can be followed by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.trainer import LocalTrainer

PLAIN = LoopSettings(channels_last=False, fused=False, foreach=False)


class Affine(nn.Module):
    """One number in, two logits out; weights (2, 1), all zero unless given."""

    def __init__(
        self, weight: tuple[float, float] = (0.0, 0.0), bias: tuple[float, float] | None = None
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2, bias=bias is not None)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor(weight)[:, None])
            if bias is not None:
                self.linear.bias.copy_(torch.tensor(bias))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))  # type: ignore[no-any-return]

    def weights(self) -> list[float]:
        return self.linear.weight.detach().flatten().tolist()  # type: ignore[no-any-return]

    def biases(self) -> list[float]:
        return self.linear.bias.detach().tolist()  # type: ignore[no-any-return]


def convolutional(seed: int = 0, *, dropout: float = 0.0) -> nn.Module:
    """Return a net of every kind of layer that the spaces use, freshly initialised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64, 4),
        )


def dots(values: list[int], labels: list[int], mean: float = 0.0, std: float = 1.0) -> Images:
    """Return images of a single pixel; 255 becomes 1.0 unless told otherwise."""
    pixels = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Images(pixels, torch.tensor(labels), (mean,), (std,))


def colourful(count: int, *, side: int = 8, seed: int = 0) -> Images:
    """Return random 3-channel images of 4 classes."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 4, (count,), generator=rng)
    return Images(pixels, labels, (0.5, 0.4, 0.6), (0.25, 0.2, 0.3))


OPTIMUM = torch.tensor([[1.0, -2.0]])


def quadratic_loss(logits: Tensor, labels: Tensor, **_: Any) -> Tensor:
    """Return ||weights - optimum||^2 / 2 for a classification loss: an image is 1, so logits are weights."""
    return ((logits - OPTIMUM) ** 2 / 2).sum() / len(labels)


def sgd(loop: LoopSettings = PLAIN, **settings: Any) -> LocalTrainer:
    """Return a trainer with SGD."""
    return LocalTrainer(
        settings=TrainerSettings(optimizer="sgd", **{"lr": 0.1, **settings}), loop=loop
    )


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all weights and buffers."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
