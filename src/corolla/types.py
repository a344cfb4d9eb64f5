"""Names shared by every part: arrays by name, and what identifies a client in a seed."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
"""Named arrays; the names are the supernet's ``state_dict`` names."""

ClientId = str
"""A partition id ("0", "1", ...) in simulation, a site's name on real nodes."""

MODEL_PARTS = ("head", "norm", "stem", "stages")
"""Parts of a network's arrays: `corolla.spaces.model_parts` says which."""


LARGEST = 1e18
"""No weight or logit may be larger: its square, and a sum of many, must be finite in float32."""


def diverged(array: NDArray[Any]) -> str | None:
    """Return what is wrong with the values of a model's array; None where training can go on from them."""
    if array.dtype.kind != "f" or not array.size:
        return None
    # Both pass NaN on and, unlike isfinite over all entries, need no array of their own.
    least, most = float(array.min()), float(array.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        return "holds NaN or infinite values"
    if least < -LARGEST or most > LARGEST:
        return f"holds values beyond {LARGEST:g}: its training diverged"
    return None


def shapes_of(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Return name -> shape."""
    return {name: array.shape for name, array in arrays.items()}


def client_seed(client: ClientId) -> int:
    """Return the integer that stands for ``client`` in seeds such as ``[seed, round, client]``."""
    return int(client) if client.isdecimal() else zlib.crc32(client.encode()) + 2**32


def client_order(client: ClientId) -> tuple[int, int, str]:
    """Sort key: numbers first and by value, then names; replies are always folded in this order."""
    return (0, int(client), "") if client.isdecimal() else (1, 0, client)


def generator(*seed: int) -> np.random.Generator:
    """Return a generator that depends on ``seed`` alone, so a resumed round draws what it would have."""
    return np.random.default_rng(list(seed))
