"""Named arrays as Flower's records, for both sides: packed, as Flower handles every array on its own.

For each array of a record, Flower stores, sends and confirms two objects. A network has hundreds of arrays,
most of them small: on real nodes they, not the numbers, were what a message cost. So arrays travel in packs
of about a MiB: one Flower `Array` of bytes each, which begins with a list of what is in it (JSON), after
which the numbers follow without gaps. A link that fails repeats a pack, not the model.

Of a pack from outside the length of its list is read first, then the list, which must match the bytes that
are there; only then is any number read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from corolla.types import Arrays

_PACKED = "corolla.pack"  # in the place of Flower's name for numpy's file format
_PACK_BYTES = 2**20  # a pack is full when it holds as many; a larger array has a pack for itself
_PACK_ARRAYS = 1024
_MOST_LISTED_BYTES = 2**20  # of a list from outside: parsing takes many times its bytes
_LENGTH_BYTES = 4  # little-endian, before the list
FLOATS = ("float16", "float32", "float64")
_NAMES = ("bool", *FLOATS, *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)))
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in _NAMES}
_MOST_AXES = 32  # numpy's own limit in older releases
_LONGEST_AXIS = 2**40


@dataclass(frozen=True)
class Declared:
    """An array that came: what its pack says of it, and its bytes, which are as many as that takes."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return _DTYPES[self.dtype].itemsize

    def values(self) -> np.ndarray:
        """Return the numbers, as an array of its own that may be written to."""
        dtype = _DTYPES[self.dtype]
        return np.frombuffer(self.data, dtype).reshape(self.shape).astype(dtype.newbyteorder("="))


def to_record(arrays: Arrays) -> ArrayRecord:
    """Return named arrays as Flower's record, in their order.

    Raises:
        ValueError: an array that does not hold plain numbers, or that `declared` would refuse.

    """
    return ArrayRecord({f"{i:06d}": pack.packed() for i, pack in enumerate(_packs(arrays))})


def from_record(record: ArrayRecord) -> Arrays:
    """Return Flower's record as named arrays that may be written to.

    Raises:
        ValueError: what `declared` refuses.

    """
    return {name: array.values() for name, array in declared(record).items()}


def declared(record: Mapping[str, Array], *, most: int | None = None) -> dict[str, Declared]:
    """Return what is in the packs of a record, by name; no number is read.

    Args:
        record: Flower's.
        most: arrays that are read; None: all. A name and what is known of it take many times the 20 bytes
            in which a list can hold an array of no numbers.

    Raises:
        ValueError: what is no pack, a list that does not match its bytes, a name that comes twice, too many.

    """
    found: dict[str, Declared] = {}
    for pack in record.values():
        before = len(found)
        for name, array in _unpacked(pack):
            if name in found:
                raise ValueError(f"{name[:80]!r} comes twice")
            if len(found) == most:
                raise ValueError(f"more than {most} arrays are listed")
            found[name] = array
        if len(found) == before:
            raise ValueError("a pack holds no array")
    return found


@dataclass
class _Pack:
    """Arrays that go together, and their entries in the list: JSON."""

    arrays: list[np.ndarray] = field(default_factory=list)
    listed: list[bytes] = field(default_factory=list)
    taken: int = 0  # bytes of arrays
    head: int = 1  # bytes of the list

    def has_room(self, array: np.ndarray, entry: bytes) -> bool:
        return not self.arrays or (
            self.taken + array.nbytes <= _PACK_BYTES
            and self.head + len(entry) + 1 <= _MOST_LISTED_BYTES
            and len(self.arrays) < _PACK_ARRAYS
        )

    def add(self, array: np.ndarray, entry: bytes) -> None:
        self.arrays.append(array)
        self.listed.append(entry)
        self.taken += array.nbytes
        self.head += len(entry) + 1

    def packed(self) -> Array:
        head = b"[" + b",".join(self.listed) + b"]"
        parts: Iterable[bytes | memoryview] = (
            np.ascontiguousarray(array, _DTYPES[array.dtype.name]).reshape(-1).view(np.uint8).data
            for array in self.arrays
        )
        data = b"".join((len(head).to_bytes(_LENGTH_BYTES, "little"), head, *parts))
        return Array(dtype="uint8", shape=(len(data),), stype=_PACKED, data=data)


def _packs(arrays: Arrays) -> Iterator[_Pack]:
    unknown = {str(one.dtype) for one in arrays.values() if one.dtype.name not in _DTYPES}
    if unknown:
        raise ValueError(f"arrays of {', '.join(sorted(unknown))} cannot be sent")
    pack = _Pack()
    for name, array in arrays.items():
        listed = [name, array.dtype.name, list(array.shape)]
        entry = json.dumps(listed, separators=(",", ":")).encode()
        if array.ndim > _MOST_AXES or len(entry) + 2 > _MOST_LISTED_BYTES:
            raise ValueError(f"{name[:80]!r} has more axes, or a longer name, than can be sent")
        if not pack.has_room(array, entry):
            yield pack
            pack = _Pack()
        pack.add(array, entry)
    if pack.arrays:
        yield pack


def _unpacked(pack: Array) -> Iterator[tuple[str, Declared]]:
    if pack.stype != _PACKED:
        raise ValueError(f"{str(pack.stype)[:40]!r} is no pack of arrays")
    data = memoryview(pack.data)
    at = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if not _LENGTH_BYTES < at <= min(len(data), _LENGTH_BYTES + _MOST_LISTED_BYTES):
        raise ValueError(f"a pack of {len(data)} bytes holds no list of its arrays")
    for name, dtype, shape in _listed(bytes(data[_LENGTH_BYTES:at])):
        end = at + math.prod(shape) * _DTYPES[dtype].itemsize
        if end > len(data):
            there, wanted = len(data) - at, end - at
            raise ValueError(f"{name[:80]!r} has {there} bytes, its type and shape take {wanted}")
        yield name, Declared(dtype, shape, data[at:end])
        at = end
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes of a pack belong to no array")


def _listed(text: bytes) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    try:
        listed: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("a pack's list of arrays cannot be read") from error
    for entry in listed if isinstance(listed, list) else [listed]:
        match entry:
            case [str(name), str(dtype), list(shape)]:
                pass
            case _:
                raise ValueError("a pack's list of arrays holds something else")
        if dtype not in _DTYPES:
            raise ValueError(f"{name[:80]!r} holds {dtype[:40]}, not numbers")
        if len(shape) > _MOST_AXES or not all(_is_length(n) for n in shape):
            raise ValueError(f"{name[:80]!r} has an invalid shape")
        yield name, dtype, tuple(shape)


def _is_length(number: object) -> bool:
    return type(number) is int and 0 <= number <= _LONGEST_AXIS
