"""A model as it is shipped: bytes in, probabilities out; what it needs to know of pictures is inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ShippedModel(nn.Module):
    """Normalises bytes, asks the model, turns logits into probabilities.

    Input: ``pixels`` uint8 (n, channels, resolution, resolution). Output: ``logits`` and
    ``probabilities``, float32 (n, classes).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities."""
        logits = self.model((pixels.to(torch.float32) / 255 - self.mean) / self.std)
        return logits, logits.softmax(dim=1)
