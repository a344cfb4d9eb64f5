"""A network between two of the same architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.types import Arrays


def mixed(own: Arrays, shared: Arrays, share: float) -> Arrays:
    """Return share * own + (1 - share) * shared, statistics of BN included; of counters the higher.

    With a share of 1 that is ``own``, with 0 ``shared``, to the bit and not copied.

    Raises:
        ValueError: names or shapes differ, or ``share`` is none.

    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: need a number from 0 to 1")
    if {n: a.shape for n, a in own.items()} != {n: a.shape for n, a in shared.items()}:
        raise ValueError("the two networks have different arrays; mix models of one architecture")
    if share in (0, 1):
        return own if share else shared
    return {name: _between(array, shared[name], share) for name, array in own.items()}


def _between(own: NDArray[Any], shared: NDArray[Any], share: float) -> NDArray[Any]:
    found: NDArray[Any] = np.maximum(own, shared)
    if own.dtype.kind == "f":
        found = (share * own + (1 - share) * shared).astype(own.dtype, copy=False)
    return found
