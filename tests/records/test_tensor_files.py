from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from corolla.records.errors import CorruptStateError
from corolla.records.tensor_files import read_tensors, write_tensors
from corolla.state import State
from tests.states import differences

from .conftest import state_of

_DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4"]


def test_awkward_arrays_come_back_in_order_and_to_the_bit(tmp_path: Path) -> None:
    arrays = state_of(3.5).arrays
    write_tensors(tmp_path / "x.safetensors", arrays, {"format": "pt"})
    back, metadata = read_tensors(tmp_path / "x.safetensors")
    assert not differences(State(back), State(arrays))
    assert metadata == {"format": "pt"}


@settings(max_examples=40)
@given(
    arrays=st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "__metadata__"),
        st.sampled_from(_DTYPES).flatmap(
            lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
        ),
        max_size=4,
    )
)
def test_any_arrays_come_back(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path_factory.mktemp("x") / "x"
    transposed = {name: array.T for name, array in arrays.items()}
    write_tensors(path, transposed)
    back, _ = read_tensors(path)
    native = {n: a.astype(a.dtype.newbyteorder("=")) for n, a in transposed.items()}
    assert not differences(State(back), State(native))


def test_what_is_read_can_be_written_to_without_touching_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": np.zeros(3)})
    read_tensors(tmp_path / "x")[0]["a"][:] = 1
    np.testing.assert_array_equal(read_tensors(tmp_path / "x")[0]["a"], 0)


def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_tensors(tmp_path / "x", {})
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("dtype", ["c16", "O", "U3", "M8[s]", "g"])
def test_a_dtype_without_a_place_in_the_format_is_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(TypeError, match="array 'bad' has dtype"):
        write_tensors(tmp_path / "x", {"bad": np.zeros(1, dtype)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_damage_is_noticed_and_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(100.0)})
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    contents = {"cut": data[:-9], "flip": data, "empty": b"", "foreign": b"hello, world"}
    path.write_bytes(bytes(contents[damage]))
    with pytest.raises(CorruptStateError, match=r"x\.safetensors is damaged"):
        read_tensors(path)


def test_a_missing_file_is_told_from_a_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(CorruptStateError, match="x is damaged: it is missing"):
        read_tensors(tmp_path / "x")
    with pytest.raises(CorruptStateError, match="is damaged: it is no file"):
        read_tensors(tmp_path)


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_tensors(path, {"a": np.zeros(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_tensors(path, {"a": np.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208
    np.testing.assert_array_equal(read_tensors(path)[0]["a"], np.zeros(3))
