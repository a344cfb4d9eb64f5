"""Every image of a batch is changed by a draw of its own."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from corolla.training.augmentation import augment, random_crop, random_cutout, random_flip
from corolla.training.settings import Augment


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int, height: int = 16, width: int = 16, channels: int = 3) -> Tensor:
    return torch.randint(
        1, 256, (count, channels, height, width), dtype=torch.uint8, generator=rng(99)
    )


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = batch(64)
    flipped = random_flip(images, rng())
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (3, 5)])
def test_crop_shifts_each_image_by_its_own_offset(height: int, width: int) -> None:
    images = batch(40, height, width)
    cropped = random_crop(images, rng())
    assert cropped.shape == images.shape
    down, right = max(1, height // 8), max(1, width // 8)
    padded = functional.pad(images, (right, right, down, down))
    offsets = set()
    for index, image in enumerate(cropped):
        found = [
            (top, left)
            for top in range(2 * down + 1)
            for left in range(2 * right + 1)
            if torch.equal(image, padded[index, :, top : top + height, left : left + width])
        ]
        assert found
        offsets.add(found[0])
    assert len(offsets) > 5


def test_cutout_fills_one_square_per_image_with_the_mean() -> None:
    images = batch(40)
    cut = random_cutout(images, rng(), mean=(0.0, 0.2, 1.0))
    places = set()
    for before, after in zip(images, cut, strict=True):
        gone = after[0] == 0  # channel 0 held no zeros
        rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert gone.sum() == height * width  # a full rectangle
        assert 4 <= height <= 8  # side 8; the centre is inside the image
        assert 4 <= width <= 8
        assert torch.equal(after[:, ~gone], before[:, ~gone])
        assert {tuple(pixel.tolist()) for pixel in after[:, gone].T} == {(0, 51, 255)}
        places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 10


@given(
    kind=st.sampled_from(get_args(Augment)),
    count=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_any_shape_keeps_shape_and_type_and_the_draw_is_the_seeds(
    kind: str, count: int, channels: int, height: int, width: int, seed: int
) -> None:
    images = batch(count, height, width, channels)
    before = images.clone()
    mean = (0.5,) * channels
    changed = augment(images, kind, rng(seed), mean=mean)
    assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert torch.equal(changed, augment(images, kind, rng(seed), mean=mean))
    if kind == "none":
        assert torch.equal(changed, images)


@pytest.mark.parametrize("side", [16, 3])
def test_a_crop_may_bring_in_a_reflection(side: int) -> None:
    images = batch(40, side, side)
    pad = max(1, side // 8)
    mirrored = functional.pad(images.float(), (pad,) * 4, mode="reflect").to(torch.uint8)
    cropped = augment(images, "crop_flip_reflect", rng(), mean=(0.0,) * 3)
    windows = [
        mirrored[:, :, top : top + side, left : left + side]
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    ]
    for index, image in enumerate(cropped):
        choices = [window[index] for window in windows]
        assert any(torch.equal(image, c) or torch.equal(image, c.flip(2)) for c in choices)
    assert torch.equal(random_crop(images[..., :1, :1], rng(), reflect=True), images[..., :1, :1])
