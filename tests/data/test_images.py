from __future__ import annotations

import numpy as np
import pytest
import torch

from corolla.data.byte_lru import ByteLru
from corolla.data.images import Images


def make(number: int) -> Images:
    pixels = torch.arange(number, dtype=torch.uint8).reshape(number, 1, 1, 1)
    return Images(pixels, torch.arange(number), (0.5,), (0.25,))


def test_select_keeps_the_order_asked_for_and_copies() -> None:
    images = make(5)
    chosen = images.select(np.array([3, 0, 3]))
    assert chosen.labels.tolist() == [3, 0, 3]
    assert chosen.pixels.flatten().tolist() == [3, 0, 3]
    chosen.pixels.zero_()
    assert images.pixels.flatten().tolist() == [0, 1, 2, 3, 4]
    assert len(images.select([])) == 0
    assert (chosen.mean, chosen.std) == ((0.5,), (0.25,))


def test_between_shares_memory() -> None:
    images = make(5)
    part = images.between(1, 3)
    assert (part.mean, part.std) == ((0.5,), (0.25,))
    assert part.labels.tolist() == [1, 2]
    assert part.pixels.untyped_storage().data_ptr() == images.pixels.untyped_storage().data_ptr()


def test_other_types_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pixels are torch.float32 \(2, 1, 1, 1\); need uint8"):
        Images(torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64), (0.5,), (0.25,))
    with pytest.raises(ValueError, match=r"labels are torch.int64 \(3,\); need int64 \(2,\)"):
        Images(
            torch.zeros(2, 1, 1, 1, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            (0.5,),
            (0.25,),
        )


def test_bytes() -> None:
    assert make(5).bytes_ == 5 * 1 + 5 * 8


def test_lru_forgets_what_was_used_longest_ago() -> None:
    lru: ByteLru[Images] = ByteLru(limit_mib=100 / 2**20)  # 100 bytes: two of the 45 fit
    first, second, third = make(5), make(5), make(5)
    lru.put("a", first)
    lru.put("b", second)
    assert lru.get("a") is first  # now b is the older
    lru.put("c", third)
    assert lru.get("b") is None
    assert lru.get("a") is first
    assert lru.get("c") is third
    assert lru.currsize == 90
    assert lru.put("d", make(12)) is not None  # 108 bytes: handed back, not kept
    assert lru.get("d") is None
    assert lru.currsize == 90
    lru.put("a", second)  # replacing does not count twice
    assert lru.currsize == 90
    assert lru.get("c") is third
