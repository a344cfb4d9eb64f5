from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from corolla.data.block_cache import BlockCache, cache_folder

BLOCK = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)


def test_a_stored_block_comes_back_and_leaves_one_file(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "new", limit_gib=1)
    assert cache.load("a", BLOCK.shape) is None
    cache.store("a", BLOCK)
    np.testing.assert_array_equal(cache.load("a", BLOCK.shape), BLOCK)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npy"]


def test_a_damaged_or_other_block_is_decoded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = BlockCache(tmp_path, limit_gib=1)
    cache.store("a", BLOCK)
    assert cache.load("a", (2, 3, 2, 2)) is None
    whole = (tmp_path / "a.npy").read_bytes()
    for damaged in (whole[:-1], b"", b"not numpy"):
        (tmp_path / "a.npy").write_bytes(damaged)
        assert cache.load("a", BLOCK.shape) is None
    assert "decoding again" in caplog.text


def test_what_was_used_longest_ago_is_deleted_beyond_the_limit(tmp_path: Path) -> None:
    file_bytes = 128 + BLOCK.nbytes  # numpy's header and the pixels
    cache = BlockCache(tmp_path, limit_gib=2 * file_bytes / 2**30)
    for age, key in ((300, "a"), (200, "b")):
        cache.store(key, BLOCK)
        os.utime(tmp_path / f"{key}.npy", (1e9 - age, 1e9 - age))
    cache.load("a", BLOCK.shape)  # used now: b is the older
    cache.store("c", BLOCK)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c"]


def test_a_folder_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = BlockCache(tmp_path / "file", limit_gib=1)
    with caplog.at_level(logging.WARNING):
        cache.store("a", BLOCK)
        cache.store("b", BLOCK)
    assert caplog.text.count("decoded images are not cached") == 1
    assert cache.load("a", BLOCK.shape) is None


def test_where_decoded_images_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder("none") is None
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("COROLLA_CACHE", str(tmp_path / "env"))
    assert cache_folder(None) == tmp_path / "env"
    monkeypatch.delenv("COROLLA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "corolla"
