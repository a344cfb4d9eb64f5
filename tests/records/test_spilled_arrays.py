"""Arrays beyond a bound of memory wait in files, and are the same."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from corolla.records import spilled_arrays
from corolla.records.spilled_arrays import SpilledArrays


def test_arrays_beyond_the_bound_are_the_same_and_take_no_memory(tmp_path: Path) -> None:
    kept = SpilledArrays(tmp_path, memory_bytes=2 * 2**20)
    tracemalloc.start()
    held = []
    for number in range(20):
        held.append(kept.kept({"w": np.full((2**9, 2**9), number, np.float32)}))  # 1 MiB each
    assert tracemalloc.get_traced_memory()[0] < 3 * 2**20
    tracemalloc.stop()
    assert [float(arrays["w"].mean()) for arrays in held] == list(range(20))
    held[7]["w"][0, 0] = 100  # as an array in memory
    assert list(tmp_path.iterdir()) == []


def test_every_kind_of_array_survives(tmp_path: Path) -> None:
    arrays = {
        "scalar": np.array(3, np.int64),
        "odd": np.arange(3, dtype=np.float16),
        "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "none": np.zeros((0, 4), np.float32),
    }
    spilled = SpilledArrays(tmp_path, memory_bytes=0).kept(arrays)
    for name, array in arrays.items():
        assert spilled[name].dtype == array.dtype
        assert spilled[name].flags.carray
        assert spilled[name] is not array
        np.testing.assert_array_equal(spilled[name], array)


def test_a_full_disk_costs_no_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(**settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spilled_arrays.tempfile, "TemporaryFile", full)
    kept, arrays = SpilledArrays(tmp_path, memory_bytes=0), {"w": np.ones(3)}
    assert kept.kept(arrays) is arrays
    assert kept.kept(arrays) is arrays
    assert caplog.text.count("No space left on device") == 1
