"""AutoAugment's policy for CIFAR-10, one draw per image, on whole batches.

Cubuk, Zoph, Mané, Vasudevan & Le, CVPR 2019, https://arxiv.org/abs/1805.09501, table 7: of 25 pairs of
operations one is drawn for each image, and each operation of the pair happens with its probability.
Operations and the meaning of their levels are torchvision's (``v2.AutoAugment``, ``CIFAR10``), which
draws once for all it is given, from torch's global generator. Here the draws are the given
generator's, and images that drew the same operation are changed together: on 32x32 pixels
four to five times as fast as one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

_LEVELS = 9  # 0..9

_POLICY = """
Invert 0.1 - Contrast 0.2 6
Rotate 0.7 2 TranslateX 0.3 9
Sharpness 0.8 1 Sharpness 0.9 3
ShearY 0.5 8 TranslateY 0.7 9
AutoContrast 0.5 - Equalize 0.9 -
ShearY 0.2 7 Posterize 0.3 7
Color 0.4 3 Brightness 0.6 7
Sharpness 0.3 9 Brightness 0.7 9
Equalize 0.6 - Equalize 0.5 -
Contrast 0.6 7 Sharpness 0.6 5
Color 0.7 7 TranslateX 0.5 8
Equalize 0.3 - AutoContrast 0.4 -
TranslateY 0.4 3 Sharpness 0.2 6
Brightness 0.9 6 Color 0.2 8
Solarize 0.5 2 Invert 0.0 -
Equalize 0.2 - AutoContrast 0.6 -
Equalize 0.2 - Equalize 0.6 -
Color 0.9 9 Equalize 0.6 -
AutoContrast 0.8 - Solarize 0.2 8
Brightness 0.1 3 Color 0.7 0
Solarize 0.4 5 AutoContrast 0.9 -
TranslateY 0.9 9 TranslateY 0.7 9
AutoContrast 0.9 - Solarize 0.8 3
Equalize 0.8 - Invert 0.1 -
TranslateY 0.7 9 AutoContrast 0.9 -
"""  # per line two operations, each with its probability and level


class Operation(NamedTuple):
    """One entry of the policy; ``level`` of 0..9, None where the operation has none."""

    name: str
    probability: float
    level: int | None


@cache
def policy() -> tuple[tuple[Operation, Operation], ...]:
    """Return the 25 pairs of operations."""

    def operation(name: str, probability: str, level: str) -> Operation:
        return Operation(name, float(probability), None if level == "-" else int(level))

    rows = [line.split() for line in _POLICY.split("\n") if line]
    return tuple((operation(*row[:3]), operation(*row[3:])) for row in rows)


def auto_augment(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Change each image by a pair of operations of its own.

    Args:
        pixels: (n, c, h, w) uint8 with 1 or 3 channels; of gray images ``Color`` changes nothing.
        rng: a CPU generator; the draws depend on it and on n alone.

    Raises:
        ValueError: other than 1 or 3 channels.

    """
    if pixels.shape[1] not in (1, 3):
        raise ValueError(f"AutoAugment takes 1 or 3 channels, not {pixels.shape[1]}")
    count = len(pixels)
    pairs = torch.randint(len(policy()), (count,), generator=rng).tolist()
    chances = torch.rand(count, 2, generator=rng).tolist()
    downwards = (torch.rand(count, 2, generator=rng) < 0.5).tolist()
    for step in range(2):
        alike: dict[tuple[str, int | None, bool], list[int]] = {}
        for image in range(count):
            drawn = policy()[pairs[image]][step]
            if chances[image][step] < drawn.probability:
                down = downwards[image][step] and drawn.name in _SIGNED
                alike.setdefault((drawn.name, drawn.level, down), []).append(image)
        changed = [
            (torch.tensor(images, device=pixels.device), *what) for what, images in alike.items()
        ]
        before, pixels = pixels, pixels.clone()
        for where, name, level, down in changed:
            pixels[where] = apply(before[where], name, level, down=down)
    return pixels


def apply(pixels: Tensor, name: str, level: int | None, *, down: bool) -> Tensor:
    """Return a batch after one operation.

    Args:
        pixels: (n, c, h, w) uint8.
        name: as in `policy`.
        level: 0..9; not used by operations that have none.
        down: of operations with a direction the other one: left, darker, ...

    """
    share = (level or 0) / _LEVELS
    return _OPERATIONS[name](pixels, -share if down else share)


def _shear(pixels: Tensor, x: float, y: float) -> Tensor:
    from torchvision.transforms.v2 import functional  # slow to import: only where it is used

    degrees = [math.degrees(math.atan(0.3 * share)) for share in (x, y)]
    # Sheared about the upper left corner, as in the paper's own code
    sheared: Tensor = functional.affine(
        pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0.0, 0.0]
    )
    return sheared


def _translate(pixels: Tensor, x: float, y: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    height, width = pixels.shape[2:]
    shift = [int(150 / 331 * width * x), int(150 / 331 * height * y)]
    shifted: Tensor = functional.affine(
        pixels, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0]
    )
    return shifted


def _of(name: str, *settings: Callable[[float], float]) -> Callable[[Tensor, float], Tensor]:
    """Return a function of torchvision as one of images and share of the largest level."""

    def change(pixels: Tensor, share: float) -> Tensor:
        from torchvision.transforms.v2 import functional

        result: Tensor = getattr(functional, name)(pixels, *(each(share) for each in settings))
        return result

    return change


def _factor(share: float) -> float:
    return 1 + 0.9 * share


_OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ShearX": lambda pixels, share: _shear(pixels, share, 0.0),
    "ShearY": lambda pixels, share: _shear(pixels, 0.0, share),
    "TranslateX": lambda pixels, share: _translate(pixels, share, 0.0),
    "TranslateY": lambda pixels, share: _translate(pixels, 0.0, share),
    "Rotate": _of("rotate", lambda share: 30 * share),
    "Brightness": _of("adjust_brightness", _factor),
    "Color": _of("adjust_saturation", _factor),
    "Contrast": _of("adjust_contrast", _factor),
    "Sharpness": _of("adjust_sharpness", _factor),
    "Posterize": _of("posterize", lambda share: 8 - round(4 * share)),
    "Solarize": _of("solarize", lambda share: 255 * (1 - share)),
    "AutoContrast": _of("autocontrast"),
    "Equalize": _of("equalize"),
    "Invert": _of("invert"),
}
_SIGNED = frozenset(_OPERATIONS) - {"Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"}
