"""AutoAugment's operations against torchvision's, and who draws what."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from corolla.training import auto_augment as module
from corolla.training.augmentation import augment, random_crop, random_flip
from corolla.training.auto_augment import apply, auto_augment, policy

THEIRS = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
BLENDS = "Brightness Color Contrast Sharpness"  # cut to whole numbers; 0.3 is not 0.3 in 32 bits
ENTRIES = sorted({(entry.name, entry.level) for pair in policy() for entry in pair}, key=str)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 6, side: int = 32, channels: int = 3) -> Tensor:
    """Return smooth random images: on noise, a rounding of a shear would show in every pixel."""
    small = torch.rand(count, channels, 5, 5, generator=rng(99)) * 255
    return torch.nn.functional.interpolate(small, side, mode="bicubic").clamp(0, 255).byte()


def reference(image: Tensor, name: str, level: int | None, *, down: bool) -> Tensor:
    """Return what torchvision makes of a single image."""
    magnitudes, _ = THEIRS._AUGMENTATION_SPACE[name]
    scale = magnitudes(10, *image.shape[1:])
    size = 0.0 if scale is None else float(scale[level])
    size = -size if down else size
    result: Tensor = THEIRS._apply_image_or_video_transform(
        image, name, size, interpolation=THEIRS.interpolation, fill=THEIRS._fill
    )
    return result


def test_the_pairs_are_the_papers() -> None:
    assert [tuple(map(tuple, pair)) for pair in policy()] == THEIRS._policies
    assert len(policy()) == 25


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(("name", "level"), ENTRIES)
def test_an_operation_on_a_batch_is_torchvisions_on_each_image(
    name: str, level: int | None, down: bool, channels: int
) -> None:
    if down and name not in module._SIGNED:
        return
    images = batch(channels=channels)
    changed = apply(images, name, level, down=down)
    for image, after in zip(images, changed, strict=True):
        away = (after.int() - reference(image, name, level, down=down).int()).abs()
        assert int(away.max()) <= (name in BLENDS)


def test_operations_by_hand() -> None:
    image = torch.tensor([[0, 100, 200, 255]], dtype=torch.uint8).view(1, 1, 1, 4)

    def made(name: str, level: int | None = None, *, down: bool = False) -> list[int]:
        return apply(image, name, level, down=down).flatten().tolist()

    assert made("Invert") == [255, 155, 55, 0]
    assert made("Solarize", 3) == [0, 100, 55, 0]  # from 255 * (1 - 3/9) = 170 on
    assert made("Posterize", 9) == [0, 96, 192, 240]  # 4 bits: multiples of 16
    assert made("Brightness", 9, down=True) == [0, 10, 20, 25]  # a tenth
    assert made("TranslateX", 9) == [0, 0, 100, 200]  # 150/331 * 4 = 1.8: one pixel
    assert made("TranslateX", 9, down=True) == [100, 200, 255, 0]
    assert made("Color", 9) == [0, 100, 200, 255]  # gray has none


def test_pairs_and_directions_are_drawn_as_the_policy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[tuple[str, int | None, bool]] = Counter()

    def count(pixels: Tensor, name: str, level: int | None, *, down: bool) -> Tensor:
        seen[name, level, down] += len(pixels)
        return pixels

    monkeypatch.setattr(module, "apply", count)
    number = 50_000
    auto_augment(torch.zeros(number, 1, 1, 1, dtype=torch.uint8), rng())
    expected: Counter[tuple[str, int | None, bool]] = Counter()
    for pair in policy():
        for name, probability, level in pair:
            signed = name in module._SIGNED
            for down in (False, True)[: 1 + signed]:
                expected[name, level, down] += probability / 25 / (1 + signed) * number  # type: ignore[assignment]
    # 0.5 % of all images: five standard deviations of a count of 0.05 * 50,000, more of a rarer one.
    assert set(seen) == {key for key, value in expected.items() if value}
    assert all(abs(seen[key] - expected[key]) < 250 for key in seen)


def test_the_given_generator_alone_is_drawn_from() -> None:
    images = batch(40)
    before = images.clone()
    outside = torch.get_rng_state()
    changed = auto_augment(images, rng(3))
    assert torch.equal(torch.get_rng_state(), outside)
    torch.manual_seed(12)
    assert torch.equal(auto_augment(images, rng(3)), changed)
    assert not torch.equal(auto_augment(images, rng(4)), changed)
    assert torch.equal(images, before)
    alone = (changed != images).flatten(1).any(1)
    assert 10 < alone.sum() < 30  # each by its own draw; contrast is full already
    torch.set_rng_state(outside)


def test_an_image_is_changed_whatever_the_others_are() -> None:
    images, others = batch(40), batch(40)
    others[::2] = 255 - others[::2]
    changed, again = auto_augment(images, rng(3)), auto_augment(others, rng(3))
    assert torch.equal(changed[1::2], again[1::2])
    assert not torch.equal(changed[::2], again[::2])


def test_it_comes_after_crop_and_flip() -> None:
    images, own = batch(20), rng(5)
    by_hand = auto_augment(random_flip(random_crop(images, own), own), own)
    changed = augment(images, "crop_flip_autoaugment", rng(5), mean=(0.5,) * 3)
    assert torch.equal(changed, by_hand)


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 1 or 3 channels, not 2"):
        auto_augment(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), rng())
