"""Cutting and pasting: what is a region, and what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.aggregation.regions import Region, cut, leading_region, paste, region_shape, resolve
from corolla.errors import RefusedError

SHAPE = (4, 6, 5)


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...] = SHAPE) -> Region:
    """Regions of slices, of index tuples, and of both."""
    indices: list[slice | tuple[int, ...]] = []
    for length in shape[: draw(st.integers(0, len(shape)))]:
        if draw(st.booleans()):
            start = draw(st.integers(0, length - 1))
            indices.append(slice(start, draw(st.integers(start + 1, length))))
        else:
            chosen = st.lists(st.integers(0, length - 1), min_size=1, unique=True)
            indices.append(tuple(draw(chosen)))
    return tuple(indices)


def test_cut_takes_leading_channels_and_the_centre_of_a_kernel() -> None:
    kernel = np.arange(25.0).reshape(1, 1, 5, 5)
    part = cut({"dw": kernel}, {"dw": leading_region((1, 1, 3, 3), (1, 1, 5, 5))})
    np.testing.assert_array_equal(part["dw"][0, 0], [[6, 7, 8], [11, 12, 13], [16, 17, 18]])


def test_cut_follows_a_rolling_window_given_as_indices() -> None:
    state = {"w": np.arange(12.0).reshape(3, 4)}
    part = cut(state, {"w": ((2, 0), slice(1, 3))})
    np.testing.assert_array_equal(part["w"], [[9, 10], [1, 2]])


def test_cut_leaves_out_what_is_not_named_and_keeps_the_order_of_the_regions() -> None:
    state = {"a": np.zeros(1), "b": np.zeros(2), "c": np.zeros(())}
    assert list(cut(state, {"c": (), "b": (slice(1),)})) == ["c", "b"]


@given(regions())
def test_cut_returns_contiguous_arrays_of_their_own(region: Region) -> None:
    state = {"w": np.arange(120.0).reshape(SHAPE)}
    part = cut(state, {"w": region})["w"]
    assert part.flags.c_contiguous
    assert not np.shares_memory(part, state["w"])


@given(regions())
def test_sizes_of_the_parts_are_the_sizes_of_the_regions(region: Region) -> None:
    part = cut({"w": np.zeros(SHAPE)}, {"w": region})["w"]
    assert part.size == math.prod(region_shape(region, SHAPE))


@given(regions(), st.integers(0, 99))
def test_pasting_what_was_cut_changes_nothing_and_pasting_zeros_the_region_only(
    region: Region, seed: int
) -> None:
    state = {"w": np.random.default_rng(seed).uniform(1, 2, SHAPE), "other": np.ones(2)}
    part = cut(state, {"w": region})
    before = state["w"].copy()
    np.testing.assert_array_equal(paste(state, part, {"w": region})["w"], state["w"])
    zeroed = paste(state, {"w": np.zeros_like(part["w"])}, {"w": region})
    assert int((zeroed["w"] == 0).sum()) == part["w"].size
    np.testing.assert_array_equal(state["w"], before)
    np.testing.assert_array_equal(zeroed["other"], state["other"])


@given(regions())
def test_resolving_changes_no_entry_and_resolves_to_itself(region: Region) -> None:
    state = {"w": np.arange(120).reshape(SHAPE)}
    full = resolve(region, SHAPE)
    assert len(full) == len(SHAPE)
    assert resolve(full, SHAPE) == full
    np.testing.assert_array_equal(cut(state, {"w": full})["w"], cut(state, {"w": region})["w"])


def test_runs_of_indices_are_read_as_slices() -> None:
    assert resolve(((1, 2, 3), (0, 2)), (4, 4)) == (slice(1, 4), (0, 2))
    assert resolve((slice(0, 4, 2),), (4,)) == ((0, 2),)
    assert resolve((), (4,)) == (slice(0, 4),)
    assert resolve(((),), (4,)) == (slice(0, 0),)


def test_leading_region_by_hand() -> None:
    expected = (slice(0, 16), slice(0, 8), slice(1, 4), slice(1, 4))
    assert leading_region((16, 8, 3, 3), (24, 16, 5, 5)) == expected
    assert leading_region((7,), (9,)) == (slice(0, 7),)
    assert leading_region((), ()) == ()


@pytest.mark.parametrize(
    ("sub", "full", "words"),
    [
        ((4, 4), (4, 4, 1), "has another number of axes"),
        ((5, 4), (4, 4), "axis 0 cannot take 5 of 4 entries"),
        ((4, 0), (4, 4), "axis 1 cannot take 0 of 4 entries"),
        ((4, 1, 7, 3), (4, 1, 5, 5), "axis 2 cannot take 7 of 5 entries"),
        ((4, 1, 2, 3), (4, 1, 5, 5), "axis 2: 2 of 5 entries cannot be centred"),
    ],
)
def test_leading_region_refuses_what_cannot_be(
    sub: tuple[int, ...], full: tuple[int, ...], words: str
) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        leading_region(sub, full, name="conv.weight")
    assert refused.value.faults[0].key == "conv.weight"


def test_leading_region_names_every_axis_that_is_wrong() -> None:
    with pytest.raises(RefusedError) as refused:
        leading_region((5, 9), (4, 4))
    assert len(refused.value.faults) == 2


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ((slice(0, 5),), "reaches outside the array"),
        (((0, 4),), "has entries outside the array or twice"),
        (((-1, 0),), "has entries outside the array or twice"),
        (((1, 1),), "has entries outside the array or twice"),
        ((slice(1), slice(1), slice(1)), "names 3 axes of an array of shape"),
    ],
)
def test_cut_refuses_a_region_of_another_array(region: Any, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        cut({"w": np.zeros((4, 4))}, {"w": region})
    assert refused.value.faults[0].key == "w"


def test_cut_names_every_array_that_is_not_there_and_the_nearest() -> None:
    with pytest.raises(RefusedError, match=r"Did you mean 'stem\.weight'") as refused:
        cut({"stem.weight": np.zeros(1)}, {"stem.wait": (), "zz": ()})
    assert len(refused.value.faults) == 2


def test_paste_refuses_to_broadcast() -> None:
    with pytest.raises(RefusedError, match="its region has shape"):
        paste({"w": np.zeros((4, 4))}, {"w": np.zeros((1, 4))}, {"w": (slice(2),)})
