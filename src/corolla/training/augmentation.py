"""Random flips, crops, cutouts and AutoAugment of whole batches, one draw per image.

torchvision's v2 transforms take a batch too, but draw once for all of it: every image would be
moved by the same offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from corolla.training.auto_augment import auto_augment

_CROP_SHARE = 8  # pad by 1/8 of the side: 4 pixels at 32, as is usual for CIFAR
_CUTOUT_SHARE = 2  # cut out half the side: 16 pixels at 32, as DeVries & Taylor do for CIFAR-10


def augment(pixels: Tensor, kind: str, rng: torch.Generator, *, mean: Sequence[float]) -> Tensor:
    """Return a changed copy of a batch: cropped, flipped, then the rest, in the order of the kind's name.

    Args:
        pixels: (n, c, h, w) uint8.
        kind: one of `corolla.training.settings.Augment`.
        rng: a CPU generator; the draws depend on it and on the batch's shape alone.
        mean: per channel, of pixels / 255; what cutout fills with.

    """
    words = kind.split("_")
    if "crop" in words:
        pixels = random_crop(pixels, rng, reflect="reflect" in words)
    if "flip" in words:
        pixels = random_flip(pixels, rng)
    if "autoaugment" in words:
        pixels = auto_augment(pixels, rng)
    if "cutout" in words:
        pixels = random_cutout(pixels, rng, mean=mean)
    return pixels


def random_flip(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    chosen = (torch.rand(len(pixels), generator=rng) < 0.5).to(pixels.device)
    return torch.where(chosen[:, None, None, None], pixels.flip(3), pixels)


def random_crop(pixels: Tensor, rng: torch.Generator, *, reflect: bool = False) -> Tensor:
    """Shift each image by up to 1/8 of its side (1 pixel at least); what comes in is black or reflected."""
    count, _, height, width = pixels.shape
    pad_y, pad_x = max(1, height // _CROP_SHARE), max(1, width // _CROP_SHARE)
    padded = _reflected(pixels, pad_y, pad_x) if reflect else _framed(pixels, pad_y, pad_x)
    top = _draw(2 * pad_y + 1, count, rng, pixels.device)
    left = _draw(2 * pad_x + 1, count, rng, pixels.device)
    rows = top[:, None] + torch.arange(height, device=pixels.device)  # (n, h)
    columns = left[:, None] + torch.arange(width, device=pixels.device)  # (n, w)
    image = torch.arange(count, device=pixels.device)[:, None, None]
    # Channels last while picking, so that one pixel is one row: (n, h, w, c).
    picked = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _framed(pixels: Tensor, pad_y: int, pad_x: int) -> Tensor:
    return functional.pad(pixels, (pad_x, pad_x, pad_y, pad_y))


def _reflected(pixels: Tensor, pad_y: int, pad_x: int) -> Tensor:
    """Continue the images as in a mirror at their outermost pixels, which torch cannot do with bytes."""

    def around(length: int, pad: int) -> Tensor:
        places = torch.arange(-pad, length + pad, device=pixels.device).abs()
        return torch.minimum(places, (2 * length - 2 - places).clamp(min=0))  # one pixel: itself

    height, width = pixels.shape[2:]
    return pixels[:, :, around(height, pad_y)][:, :, :, around(width, pad_x)]


def random_cutout(pixels: Tensor, rng: torch.Generator, *, mean: Sequence[float]) -> Tensor:
    """Replace in each image a square of half its shorter side by the data's mean.

    DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552: the square's centre may be any pixel,
    so part of it may lie outside. Departure: the mean is rounded to a byte.
    """
    count, _, height, width = pixels.shape
    side = max(1, min(height, width) // _CUTOUT_SHARE)
    top = _draw(height, count, rng, pixels.device) - side // 2
    left = _draw(width, count, rng, pixels.device) - side // 2
    rows = (
        torch.arange(height, device=pixels.device) - top[:, None]
    )  # (n, h), from the square's top
    columns = torch.arange(width, device=pixels.device) - left[:, None]
    inside = ((rows >= 0) & (rows < side))[:, None, :, None]
    inside = inside & ((columns >= 0) & (columns < side))[:, None, None, :]
    fill = (torch.tensor(mean) * 255).round().to(torch.uint8).to(pixels.device)
    return torch.where(inside, fill[:, None, None], pixels)


def _draw(below: int, count: int, rng: torch.Generator, device: torch.device) -> Tensor:
    return torch.randint(below, (count,), generator=rng).to(device)
