"""Damping: clients that do not hold an entry have a say in it, for the value that it had.

Of an entry that clients with weight W hold, in a round of weight T,

    w' = w + W / (W + d (T - W)) (mean of the holders - w)

d = 0 is the mean of the holders, whoever they are: the published average. With d = 1 every other client
counts as one that returned the entry as it was, which is FedAvg of the whole supernet. An entry that all
hold is their mean for any d. With five clients of equal weight a sole holder's step is taken in full at
d = 0, by half at d = 1/4, by a fifth at d = 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.aggregation.holders import Holders


def damped(
    old: NDArray[Any], mean: NDArray[Any], *, name: str, holders: Holders, damping: float
) -> NDArray[Any]:
    """Return what becomes of ``old`` whose holders' mean is ``mean``; neither is written to.

    Where all hold an entry, or ``mean`` equals ``old``, the bits of ``mean`` come back. What is 0 or more in
    both stays so: variances stay variances.
    """
    weight = holders.weight(name, old.shape)
    total = holders.total
    if (weight >= total).all():
        return mean
    dtype = np.result_type(old.dtype, np.float32)
    share = (weight / (weight + damping * (total - weight))).astype(dtype)
    # Not old + share * (mean - old): that turns -0.0 into 0.0.
    moved = np.subtract(old, share * np.subtract(old, mean, dtype=dtype), dtype=dtype)
    return np.where(share < 1, moved, mean).astype(mean.dtype, copy=False)
