"""Append-only JSON lines that survive a crash in the middle of a write.

A line is a JSON object with its checksum; a JSON object cut short never parses, so a last line that
parses is whole even when its newline is missing, and one that does not is the torn end of a crashed
write and does not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from corolla.records.atomic import fsync_directory, write_bytes
from corolla.records.errors import CorruptStateError
from corolla.records.json_files import read_bytes, to_json
from corolla.records.seals import sealed_text, unsealed


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append ``rows`` in one write and force them to disk; a torn end is mended first.

    Raises: OSError naming ``path``; the file then ends where it ended before.
    """
    encoded = (sealed_text(to_json(row, where=path.name)) for row in rows)
    data = "".join(f"{line}\n" for line in encoded).encode()
    if not data:
        return
    is_new = not path.exists()
    if not is_new:
        _mend_end(path)
    with path.open("ab", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        try:
            _write_all(file.fileno(), data)
            os.fsync(file.fileno())
        except OSError as error:
            os.ftruncate(file.fileno(), end)
            raise OSError(error.errno, error.strerror, str(path)) from error
    if is_new:
        fsync_directory(path.parent)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines without their checksums, none for a missing file.

    Raises: CorruptStateError with file and line number for a damaged line that is not a torn end.
    """
    rows = []
    for number, line, row in _parsed(path):
        if row is not None:
            rows.append(row)
        elif line.endswith(b"\n"):
            problem = f"not a JSON object with its checksum: {line[:80]!r}"
            raise CorruptStateError(f"{path}, line {number}", problem)
    return rows


def surviving_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the whole lines, and the numbers of the others.

    Raises: CorruptStateError when there is something that is no file.
    """
    parsed = _parsed(path)
    return (
        [row for _, _, row in parsed if row is not None],
        [number for number, _, row in parsed if row is None],
    )


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Atomically drop the lines that ``keep`` refuses, and those that are damaged."""
    if not path.exists():
        return
    kept = b"".join(
        line.removesuffix(b"\n") + b"\n"
        for _, line, row in _parsed(path)
        if row is not None and keep(row)
    )
    if kept != path.read_bytes():
        write_bytes(path, kept)


def _parsed(path: Path) -> list[tuple[int, bytes, dict[str, Any] | None]]:
    """Return number, bytes and object of each line; None for one that is damaged."""
    if not path.exists():
        return []
    lines = read_bytes(path).split(b"\n")
    end = [] if lines[-1] == b"" else [lines[-1]]
    return [
        (number, line, _object(line))
        for number, line in enumerate([*(line + b"\n" for line in lines[:-1]), *end], start=1)
    ]


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):  # not UTF-8, or not JSON
        return None
    return unsealed(row) if isinstance(row, dict) else None


def _mend_end(path: Path) -> None:
    """Complete or cut off a last line without a newline, so that the next one stands alone."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        data = file.read()
        start = data.rfind(b"\n") + 1
        if _object(data[start:]) is None:
            file.truncate(start)
        else:
            file.write(b"\n")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:  # one call, unless the disk fills up half-way: then the next one raises
        view = view[os.write(descriptor, view) :]
