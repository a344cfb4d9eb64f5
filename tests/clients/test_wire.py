"""Arrays on the wire: byte for byte what Flower itself would write, and back."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from clients.wire import from_record, to_record

ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.uint8]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@given(array=ARRAYS)
def test_bytes_are_those_of_flower(array: NDArray[np.generic]) -> None:
    ours, flower = to_record({"w": array})["w"], Array(array)
    assert ours.data == flower.data
    assert (ours.dtype, tuple(ours.shape), ours.stype) == (
        flower.dtype,
        tuple(flower.shape),
        flower.stype,
    )


@given(array=ARRAYS)
def test_what_was_sent_arrives_and_may_be_written_to(array: NDArray[np.generic]) -> None:
    back = from_record(ArrayRecord({"w": Array(array)}))["w"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert back.flags.writeable


def test_views_in_another_memory_order_are_sent_by_value() -> None:
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(from_record(to_record({"w": view}))["w"], view)


def test_order_of_the_names_is_kept() -> None:
    arrays = {name: np.zeros(1) for name in ("b", "a", "c")}
    assert list(from_record(to_record(arrays))) == ["b", "a", "c"]


def test_bytes_of_another_shape_than_declared_are_no_array() -> None:
    good = Array(np.zeros((2, 3), np.float32))
    cut = Array(dtype=good.dtype, shape=good.shape, stype=good.stype, data=good.data[:-4])
    with pytest.raises(ValueError, match="reshape"):
        from_record(ArrayRecord({"w": cut}))


def test_headers_of_another_numpy_are_read_by_numpy() -> None:
    good = Array(np.arange(3, dtype=np.float32))
    # One padding byte more, and the header's length (a little-endian uint16 at byte 8) says so.
    length = int.from_bytes(good.data[8:10], "little")
    head, tail = good.data[10 : 10 + length], good.data[10 + length :]
    longer = good.data[:8] + (length + 1).to_bytes(2, "little") + head[:-1] + b" \n" + tail
    other = Array(dtype=good.dtype, shape=good.shape, stype=good.stype, data=longer)
    np.testing.assert_array_equal(from_record(ArrayRecord({"w": other}))["w"], [0, 1, 2])
