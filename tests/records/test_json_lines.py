from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corolla.records.errors import CorruptStateError
from corolla.records.json_lines import append_lines, keep_lines, read_lines, surviving_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_numpy_becomes_numbers_and_what_is_not_finite_becomes_null(path: Path) -> None:
    row = {
        "round": np.int64(3),
        "loss": np.float32(0.5),
        "nan": float("nan"),
        "nested": {"inf": np.float64("inf"), 7: np.array([1.0, np.nan])},
        "choices": (1, 2),
        "ok": np.bool_(True),
        "scalar": np.array(2),
    }
    append_lines(path, [row])
    text = (
        '{"round": 3, "loss": 0.5, "nan": null, "nested": {"inf": null, "7": [1.0, null]}, '
        '"choices": [1, 2], "ok": true, "scalar": 2}'
    )
    seal = f', "crc32": "{zlib.crc32(text.encode()):08x}"}}\n'
    assert path.read_text() == text[:-1] + seal
    assert read_lines(path) == [json.loads(text)]


def test_what_json_cannot_hold_is_named_and_nothing_is_written(path: Path) -> None:
    with pytest.raises(TypeError, match=r"metrics\.jsonl\['a'\]\[1\] is a set"):
        append_lines(path, [{"a": [1, {2}]}])
    with pytest.raises(TypeError, match=r"has the key \(1, 2\)"):
        append_lines(path, [{"a": {(1, 2): 0}}])
    assert not path.exists()


def test_one_batch_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    real: Callable[[int, Any], int] = os.write

    def count(descriptor: int, data: Any) -> int:
        writes.append(len(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", count)
    append_lines(path, [{"round": 1, "client": str(c)} for c in range(50)])
    assert writes == [path.stat().st_size]
    assert len(read_lines(path)) == 50


def test_no_rows_leave_no_file(path: Path) -> None:
    append_lines(path, [])
    assert not path.exists()
    assert read_lines(path) == []
    keep_lines(path, lambda row: False)
    assert not path.exists()


@given(cut=st.integers(0, 190), more=st.booleans())
@example(cut=59, more=True)  # the first line without its newline
def test_wherever_a_write_was_cut_off_the_whole_lines_remain(
    tmp_path_factory: pytest.TempPathFactory, cut: int, more: bool
) -> None:
    path = tmp_path_factory.mktemp("cut") / "clients.jsonl"
    rows = [{"round": r, "name": "Zürich {}"} for r in range(3)]
    append_lines(path, rows)
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    assert len(data) == 3 * 60
    # A line counts as soon as its last brace is there.
    whole = [r for i, r in enumerate(rows) if cut >= (i + 1) * (len(data) // 3) - 1]
    assert read_lines(path) == whole
    if more:
        append_lines(path, [{"round": 9}])
        assert read_lines(path) == [*whole, {"round": 9}]
        assert path.read_bytes().splitlines()[-1].startswith(b'{"round": 9, ')


def test_zeros_at_the_end_are_a_torn_line(path: Path) -> None:
    path.write_bytes(b'{"round": 1}\n' + bytes(40))  # what a power cut can leave
    assert read_lines(path) == [{"round": 1}]
    append_lines(path, [{"round": 2}])
    assert read_lines(path) == [{"round": 1}, {"round": 2}]


@pytest.mark.parametrize(
    "damage", [b'{"round": 2', b"[1]", b"\xff", b"", b'{"round": 2, "crc32": "00000000"}']
)
@pytest.mark.parametrize("rest", [b"", b'{"round": 3}\n'])
def test_a_damaged_line_is_named(path: Path, damage: bytes, rest: bytes) -> None:
    path.write_bytes(b'{"round": 1}\n' + damage + b"\n" + rest)
    with pytest.raises(CorruptStateError, match=r"metrics\.jsonl, line 2 is damaged: not a JSON"):
        read_lines(path)
    rows = [json.loads(line) for line in (b'{"round": 1}', rest) if line]
    assert surviving_lines(path) == (rows, [2])
    keep_lines(path, lambda row: True)
    assert read_lines(path) == rows


def test_any_flipped_byte_of_a_line_is_seen(path: Path) -> None:
    row = {"round": 1, "loss": 0.125}
    append_lines(path, [row])
    data = path.read_bytes()
    for place in range(len(data) - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        found, bad = surviving_lines(path)
        # Nothing, or the name of the checksum is what flipped, and all numbers are right.
        assert bad == [1] or {key: found[0][key] for key in row} == row


def test_keeping_lines_drops_the_torn_one_too_and_keeps_the_bytes(path: Path) -> None:
    path.write_bytes(b'{"round":1}\n{"round": 2}\n{"round": 1, "b": 0}\n{"rou')
    keep_lines(path, lambda row: bool(row["round"] <= 1))
    assert path.read_bytes() == b'{"round":1}\n{"round": 1, "b": 0}\n'


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_lines(path, [{"round": 1}])
    before = path.read_bytes()
    real: Callable[[int, Any], int] = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) - 5])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        append_lines(path, [{"round": 2, "filler": "x" * 30}])
    assert path.read_bytes() == before


def test_lines_are_json_for_other_tools(path: Path) -> None:
    append_lines(path, [{"client": "Zürich\n"}])
    assert path.read_bytes().isascii()
    assert json.loads(path.read_text())["client"] == "Zürich\n"
