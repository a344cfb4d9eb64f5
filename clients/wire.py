"""Named arrays as Flower's records, for both sides.

The bytes are those that Flower writes and reads itself (numpy's own file format); only the way there is
shorter: a model has hundreds of small arrays, and for each numpy would write and parse a header anew. No
header from outside is ever parsed: it must be the one that the declared type and shape give.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
from flwr.app import Array, ArrayRecord

from corolla.types import Arrays

_NUMPY = "numpy.ndarray"  # what Flower calls numpy's own file format
FLOATS = ("float16", "float32", "float64")
_NAMES = ("bool", *FLOATS, *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)))
_DTYPES = {name: np.dtype(name) for name in _NAMES}
_MOST_AXES = 32  # numpy's own limit in older releases
_MAGIC = b"\x93NUMPY"
# Version of the format: bytes of the header's length, little-endian.
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}


def to_record(arrays: Arrays) -> ArrayRecord:
    """Return named arrays as Flower's record, in their order."""
    return ArrayRecord({name: _to_array(array) for name, array in arrays.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """Return Flower's record as named arrays that may be written to.

    Raises:
        ValueError: what `decoded` refuses.

    """
    return {name: decoded(array) for name, array in record.items()}


def decoded(array: Array) -> np.ndarray:
    """Return the numbers of ``array``; nothing is reserved before the bytes are known to be there.

    Raises:
        ValueError: bytes that are not a plain array of numbers of the declared type and shape.

    """
    dtype, shape = _DTYPES.get(array.dtype), tuple(array.shape)
    if array.stype != _NUMPY or dtype is None:
        raise ValueError(f"holds {str(array.dtype)[:40]} as {str(array.stype)[:40]}, not numbers")
    if len(shape) > _MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("has an invalid shape")
    size = math.prod(shape) * dtype.itemsize
    if size > len(array.data):
        raise ValueError(f"has {len(array.data)} bytes, too few for its shape")
    start = _start(array.data, _header(dtype.str, shape))
    if len(array.data) - start != size:
        problem = f"has {len(array.data) - start} bytes of numbers"
        raise ValueError(f"{problem}, its type and shape take {size}")
    return np.frombuffer(array.data, dtype, offset=start).reshape(shape).copy()


def _start(data: bytes | memoryview, header: bytes) -> int:
    """Return where the numbers begin; ValueError where the header is not ``header``, padding aside."""
    if data[: len(header)] == header:
        return len(header)
    # Another release of numpy may pad its headers differently, or write a later version of the format.
    length_bytes = _LENGTH_BYTES.get(bytes(data[6:8]), 0)
    first = 8 + length_bytes
    length = int.from_bytes(data[8:first], "little")
    known = header[10:].rstrip()  # ours is of version 1.0
    text = bytes(data[first : first + length])
    if not length_bytes or data[:6] != _MAGIC or len(text) < length or text.rstrip() != known:
        raise ValueError("has a header that does not match its type and shape")
    return first + length


def _to_array(array: np.ndarray) -> Array:
    header = _header(array.dtype.str, array.shape)
    values = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return Array(
        dtype=str(array.dtype),
        shape=array.shape,
        stype=_NUMPY,
        data=b"".join((header, values)),
    )


@lru_cache(maxsize=16384)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return what numpy writes before the values of such an array."""
    buffer = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()
