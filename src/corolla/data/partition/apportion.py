"""Whole numbers from fractions, with exact totals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def largest_remainder(
    quotas: NDArray[np.float64],
    total: int,
    capacity: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Round ``quotas`` to whole numbers that sum to ``total`` and stay within ``capacity``.

    Each gets the whole part of its quota; what is left goes, one by one, to those that miss most of
    theirs (Hamilton's method), ties in random order.

    Args:
        quotas: non-negative, (n,); sum to ``total``.
        total: what the result sums to.
        capacity: upper bounds, (n,); sum to at least ``total``.
        rng: breaks ties.

    Raises:
        ValueError: ``capacity`` is too small.
    """
    if int(capacity.sum()) < total:
        raise ValueError(f"cannot place {total} in places for {int(capacity.sum())}")
    given = np.minimum(np.floor(quotas).astype(np.int64), capacity)
    tie = rng.permutation(len(quotas))
    while (left := total - int(given.sum())) > 0:
        missing = np.where(given < capacity, quotas - given, -np.inf)
        order = np.lexsort((tie, -np.round(missing, 9)))[:left]
        given[order[given[order] < capacity[order]]] += 1
    return given


def fit_to_supply(
    shares: NDArray[np.float64],
    size: int,
    supply: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Turn every row of ``shares`` into ``size`` images, using at most ``supply`` of each column.

    Where a label is asked for more often than it is there, all who want it give up the same
    proportion and take more of their other labels (iterative proportional fitting, which stays as
    near to ``shares`` as the supply allows); rounding is repaired where it costs least.

    Args:
        shares: each row's label distribution, (rows, labels), rows sum to 1.
        size: images per row.
        supply: images per label, (labels,), at least rows * size in all.
        rng: breaks ties.

    Returns:
        Images per row and label, int64 (rows, labels).

    Raises:
        ValueError: ``supply`` is too small.
    """
    if len(shares) * size > int(supply.sum()):
        raise ValueError(f"{len(shares)} rows of {size} from a supply of {int(supply.sum())}")
    wanted = (shares + 1e-12) * size  # nobody is shut out of the labels that are left over
    for _ in range(200):
        wanted *= size / wanted.sum(1, keepdims=True)
        asked = wanted.sum(0)
        if (asked <= supply + 1e-9).all():
            break
        wanted *= np.minimum(1.0, supply / np.maximum(asked, 1e-300))
    wanted *= size / wanted.sum(1, keepdims=True)
    unlimited = np.full(supply.shape, size, dtype=np.int64)
    given = np.stack([largest_remainder(row, size, unlimited, rng) for row in wanted])
    while (given.sum(0) > supply).any():
        over = int(np.argmax(given.sum(0) - supply))
        spare = given.sum(0) < supply
        surplus = np.where(given[:, over] > 0, given[:, over] - wanted[:, over], -np.inf)
        row = int(np.argmax(surplus))
        into = int(np.argmax(np.where(spare, wanted[row] - given[row], -np.inf)))
        given[row, over] -= 1
        given[row, into] += 1
    return given
