"""Arrays that wait on disk: those of a round's replies, where together they would fill the memory."""

from __future__ import annotations

import logging
import math
import mmap
import tempfile
from pathlib import Path

import numpy as np

from corolla.types import Arrays

_LOG = logging.getLogger("corolla")
_ALIGNED = 64  # bytes: where arrays begin that are computed with
MEMORY_BYTES = 2**30
"""Replies of one exchange that stay in memory."""


class SpilledArrays:
    """Keeps arrays in memory up to a bound, and those beyond it in files without a name.

    What is kept is the same to the bit, and may be written to. The kernel reads a page of a file when it is
    used and may drop it again; the disk's room is free once the arrays are.
    """

    def __init__(self, folder: Path, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._folder = folder
        self._left: float = memory_bytes

    def kept(self, arrays: Arrays) -> Arrays:
        """Return ``arrays``, from a file beyond the bound. A full disk is logged, and they stay in memory."""
        size = sum(array.nbytes for array in arrays.values())
        if size <= self._left or not size:
            self._left -= size
            return arrays
        try:
            return self._spilled(arrays)
        except OSError as error:
            _LOG.warning("%s: replies stay in memory: %s", self._folder, error)
            self._left = math.inf
            return arrays

    def _spilled(self, arrays: Arrays) -> Arrays:
        places = {}
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for name, array in arrays.items():
                file.write(b"\0" * (-file.tell() % _ALIGNED))
                places[name] = file.tell()
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            file.flush()
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return {
            name: np.frombuffer(pages, array.dtype, array.size, places[name]).reshape(array.shape)
            for name, array in arrays.items()
        }
