"""Batches, their order, and the streams of randomness behind them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from corolla.data.images import Images
from corolla.training.batches import Floats, consecutive_batches, shuffled_batches
from corolla.training.settings import LoopSettings
from corolla.training.torch_settings import (
    augmentation_generator,
    configure_torch,
    order_generator,
    seed_torch,
    seeded_torch,
)
from tests.training.conftest import colourful


@given(
    count=st.integers(2, 60),
    batch_size=st.integers(2, 20),
    seed=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    epoch=st.integers(0, 5),
    drop_single=st.booleans(),
)
def test_an_epoch_holds_every_image_once(
    count: int, batch_size: int, seed: list[int], epoch: int, drop_single: bool
) -> None:
    batches = shuffled_batches(count, batch_size, seed=seed, epoch=epoch, drop_single=drop_single)
    sizes = [len(batch) for batch in batches]
    rest = count % batch_size
    expected = [batch_size] * (count // batch_size) + [rest] * (rest > (1 if drop_single else 0))
    assert sizes == expected
    together = torch.cat(batches).tolist()
    assert len(set(together)) == len(together) == sum(expected)
    assert set(together) <= set(range(count))


@given(count=st.integers(0, 40), batch_size=st.integers(1, 12))
def test_consecutive_batches_follow_each_other(count: int, batch_size: int) -> None:
    values = list(range(count))
    parts = [values[where] for where in consecutive_batches(count, batch_size)]
    assert [value for part in parts for value in part] == values
    assert all(len(part) == batch_size for part in parts[:-1])


def test_seeds_that_numpy_takes_for_one_another_are_kept_apart() -> None:
    # numpy's SeedSequence pads with zeros: [5] and [5, 0] would be the same without a spawn key.
    def draws(seed: tuple[int, ...], epoch: int) -> list[int]:
        return order_generator(seed, epoch).permutation(50).tolist()  # type: ignore[no-any-return]

    different = [draws((5,), 0), draws((5,), 1), draws((5, 1), 0), draws((5, 0), 1)]
    assert len({tuple(d) for d in different[:3]}) == 3
    assert draws((5,), 1) == draws((5,), 1)


def test_order_augmentation_and_weights_draw_from_streams_of_their_own() -> None:
    with seeded_torch((1, 2, 3), torch.device("cpu")):
        weights = torch.rand(4)
    augmentation = torch.rand(4, generator=augmentation_generator((1, 2, 3), 0))
    assert not torch.equal(weights, augmentation)
    seed_torch((1, 2, 3))
    assert torch.equal(weights, torch.rand(4))


@given(
    channels_last=st.booleans(),
    count=st.integers(1, 3),
    channels=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    flipped=st.booleans(),
)
def test_floats_are_normalised_in_the_layout_asked_for(
    channels_last: bool, count: int, channels: int, height: int, width: int, flipped: bool
) -> None:
    rng = torch.Generator().manual_seed(0)
    shape = (4, channels, height, width)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    mean, std = (0.5, 0.4, 0.6)[:channels], (0.25, 0.2, 0.3)[:channels]
    floats = Floats(
        Images(pixels, torch.zeros(4, dtype=torch.int64), mean, std),
        device=torch.device("cpu"),
        channels_last=channels_last,
    )
    where = torch.tensor([3, 1, 2])[:count]
    raw = floats.pixels(where)
    expected = pixels[where].double() / 255
    if flipped:  # another layout in memory, as augmentation may leave
        raw, expected = raw.permute(0, 1, 3, 2), expected.transpose(2, 3)
        assume(height == width)
    batch = floats.normalised(raw)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.is_contiguous(memory_format=layout)
    expected = expected.sub(torch.tensor(mean).view(-1, 1, 1))
    expected = expected.div(torch.tensor(std).view(-1, 1, 1))
    torch.testing.assert_close(batch.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        floats.normalised(floats.pixels(slice(1, 3))), floats.normalised(pixels[1:3])
    )


def test_a_spread_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="need 3 numbers each, std above 0"):
        Floats(
            replace(colourful(2), std=(0.2, 0.0, 0.2)),
            device=torch.device("cpu"),
            channels_last=True,
        )


def test_process_wide_settings_are_made_and_stay() -> None:
    try:
        configure_torch(LoopSettings(threads=2, deterministic=True))
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        configure_torch(LoopSettings(threads=1))
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()
