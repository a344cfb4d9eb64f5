"""Arrays on the wire: in few packs, and what comes out is what went in, or is refused before it is read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from clients.wire import declared, from_record, to_record
from tests.packs import pack

ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.bool_, np.uint8]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@given(arrays=st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4))
def test_what_was_sent_arrives_in_order_and_may_be_written_to(
    arrays: dict[str, NDArray[Any]],
) -> None:
    back = from_record(to_record(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        same = back[name]
        assert (same.dtype, same.shape, same.tobytes()) == (
            array.dtype,
            array.shape,
            array.tobytes(),
        )
        assert same.flags.writeable
        assert same.base is None


def test_views_in_another_memory_order_are_sent_by_value() -> None:
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(from_record(to_record({"w": view}))["w"], view)


def test_what_is_no_plain_number_or_could_not_be_read_is_not_sent() -> None:
    with pytest.raises(ValueError, match="complex64, object"):
        to_record({"a": np.zeros(1, object), "b": np.zeros(1, np.complex64), "c": np.zeros(1)})
    for name, shape in (("a", (1,) * 33), ("a" * 2**20, (1,))):
        with pytest.raises(ValueError, match=r"'aa*' has more axes, or a longer name"):
            to_record({name: np.zeros(shape)})


def test_numbers_of_the_other_byte_order_arrive_as_numbers() -> None:
    (back,) = from_record(to_record({"w": np.arange(3, dtype=">f4")})).values()
    assert back.tolist() == [0, 1, 2]


def test_long_names_are_spread_over_packs() -> None:
    long = {f"{i:01100}": np.zeros(1, np.float32) for i in range(1024)}  # lists of 1.1 MiB together
    record = to_record(long)
    assert len(record) == 2
    assert list(from_record(record)) == list(long)


def test_small_arrays_share_a_pack_and_a_large_one_has_its_own() -> None:
    small = {f"small {i}": np.full(100, i, np.float32) for i in range(1500)}
    large = {"large": np.ones(2**19, np.float32)}  # 2 MiB
    record = to_record({**small, **large, "last": np.ones(1, np.float32)})
    packs = [list(declared({"": array})) for array in record.values()]
    assert [len(names) for names in packs] == [1024, 476, 1, 1]
    assert list(record) == sorted(record)  # whoever sorts them keeps the order
    mib = [np.ones(2**18 - 1, np.float32), np.ones(1, np.float32), np.ones(1, np.float32)]
    assert len(to_record(dict(zip("abc", mib, strict=True)))) == 2


GOOD = [["w", "float32", [2, 3]]]
DATA = bytes(24)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (Array(np.zeros((2, 3), np.float32)), "'numpy.ndarray' is no pack"),
        (pack(GOOD, DATA[:-4]), "'w' has 20 bytes, its type and shape take 24"),
        (pack(GOOD, DATA + b"x"), "1 bytes of a pack belong to no array"),
        (pack([*GOOD, *GOOD], DATA * 2), "'w' comes twice"),
        (pack([["w", "float32", [10**12]]], DATA), "has 24 bytes, its type and shape take 4000"),
        (pack([["w", "float32", [-2, -3]]], DATA), "'w' has an invalid shape"),
        (pack([["w", "float32", [True, 6]]], DATA), "'w' has an invalid shape"),
        (pack([["w", "float32", [2.0, 3]]], DATA), "'w' has an invalid shape"),
        (pack([["w", "float32", [1] * 40]], DATA), "'w' has an invalid shape"),
        (pack([["w", "float32", [0, 2**63]]]), "'w' has an invalid shape"),
        (pack([]), "a pack holds no array"),
        (pack([["w", "object", [2, 3]]], DATA), "'w' holds object, not numbers"),
        (pack([["w", "(1000000,)f4", [6]]], DATA), "'w' holds .*, not numbers"),
        (pack([["w", ">f4", [6]]], DATA), "'w' holds >f4, not numbers"),
        (pack([["w", 4, [6]]], DATA), "holds something else"),
        (pack([["w", "float32"]], DATA), "holds something else"),
        (pack({"w": "float32"}, DATA), "holds something else"),
        (pack(text=b"[" * 100_000, data=DATA), "cannot be read"),
        (pack(text=b"\xff\xfe", data=DATA), "cannot be read"),
        (pack(text=b"9" * 5000, data=DATA), "cannot be read"),
        (pack(text=json.dumps(GOOD * 50_000).encode(), data=DATA), "holds no list"),
        (pack(whole=b""), "a pack of 0 bytes holds no list"),
        (pack(whole=b"\x01"), "a pack of 1 bytes holds no list"),
        (pack(whole=b"\x00\x00\x00\x00"), "holds no list"),
        (pack(whole=b"\xff\xff\xff\xff[]"), "holds no list"),
        (pack(whole=b"PK\x03\x04" + bytes(200)), "holds no list"),
    ],
)
def test_what_is_no_pack_of_arrays_is_refused_before_it_is_read(array: Array, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        declared(ArrayRecord({"0": array}))
