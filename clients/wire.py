"""Named arrays as Flower's records, for both sides.

The bytes are those that Flower writes and reads itself (numpy's own file format); only the way there is
shorter: a model has hundreds of small arrays, and for each numpy would write and parse a header anew.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common.constant import SType

from corolla.types import Arrays


def to_record(arrays: Arrays) -> ArrayRecord:
    """Return named arrays as Flower's record, in their order."""
    return ArrayRecord({name: _to_array(array) for name, array in arrays.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """Return Flower's record as named arrays that may be written to.

    Raises:
        ValueError: bytes that are not an array of the declared type and shape.

    """
    return {name: _from_array(array) for name, array in record.items()}


def _to_array(array: np.ndarray) -> Array:
    header = _header(array.dtype.str, array.shape)
    values = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return Array(
        dtype=str(array.dtype),
        shape=array.shape,
        stype=SType.NUMPY,
        data=b"".join((header, values)),
    )


def _from_array(array: Array) -> np.ndarray:
    dtype, shape = np.dtype(array.dtype), tuple(array.shape)
    header = _header(dtype.str, shape)
    if array.stype != SType.NUMPY or dtype.hasobject or not array.data.startswith(header):
        return array.numpy()  # another release of numpy may pad its headers differently
    values = np.frombuffer(array.data, dtype, offset=len(header))
    return values.reshape(shape).copy()


@lru_cache(maxsize=16384)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return what numpy writes before the values of such an array."""
    buffer = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()
