"""Means of what is left when the highest and lowest values of an entry are cut off.

Of an entry that h clients hold, sorted by value, the first k and the last k are left out; the others' mean is
weighted by their weights. Who is left out is decided by counting clients, never by weight: a weight is
something that a client says of itself. Yin et al., ICML 2018, https://arxiv.org/abs/1803.01498, has the
unweighted rule, where everybody holds everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.aggregation.holders import Holders

Cut = Callable[[NDArray[np.intp]], NDArray[np.intp]]
"""How many of the highest, and as many of the lowest, are left out: of h holders k, 0 or 2k < h."""

_COLUMNS = 1 << 16  # entries sorted at once


def trimmed_over_holders(
    old: NDArray[Any], mean: NDArray[Any], *, name: str, holders: Holders, cut: Cut
) -> NDArray[Any]:
    """Return ``mean`` with the trimmed mean in every entry of which anything is cut off.

    ``mean`` is what the plain average made of ``old``; neither is written to. Integers are rounded and are
    never lower than in ``old``.
    """
    held = holders.of(name)
    parts = [holders.updates[number].arrays[name] for number in held]
    weights = np.array([holders.shares[number] for number in held])
    stack = np.full((len(held), *old.shape), np.nan, np.result_type(np.float32, *parts))
    for row, (part, number) in enumerate(zip(parts, held, strict=True)):
        stack[row, ...][holders.places[number][name].key] = part
    trimmed, kept = trimmed_mean(stack, weights, cut)
    if old.dtype.kind != "f":
        trimmed = np.maximum(np.rint(np.where(kept, trimmed, 0.0)), old)
    return np.where(kept, trimmed, mean).astype(mean.dtype, copy=False)


def trimmed_mean(
    values: NDArray[Any], weights: NDArray[np.float64] | Sequence[float], cut: Cut
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the trimmed means over the first axis, and where anything was cut off.

    Args:
        values: (clients, ...); NaN where a client does not hold an entry. Equal values fall in the
            order of the clients.
        weights: one per client, above 0.
        cut: k of h.

    """
    shape, rows = values.shape[1:], values.reshape(len(values), -1)
    means, kept = np.empty(rows.shape[1]), np.empty(rows.shape[1], np.bool_)
    weights = np.asarray(weights, np.float64)
    for start in range(0, rows.shape[1], _COLUMNS):
        here = slice(start, start + _COLUMNS)
        means[here], kept[here] = _trimmed(rows[:, here].T.astype(np.float64), weights, cut)
    return means.reshape(shape), kept.reshape(shape)


def _trimmed(
    values: NDArray[np.float64], weights: NDArray[np.float64], cut: Cut
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Do as `trimmed_mean` for (entries, clients)."""
    count = np.count_nonzero(~np.isnan(values), axis=1)
    left_out = cut(count)
    order = np.argsort(values, axis=1, kind="stable")  # NaN comes last
    values = np.take_along_axis(values, order, axis=1)
    rank = np.arange(values.shape[1])
    stays = (rank >= left_out[:, None]) & (rank < (count - left_out)[:, None])
    share = np.where(stays, weights[order], 0.0)
    lowest = np.take_along_axis(values, left_out[:, None], axis=1)
    # From the lowest up: what all agree on is itself, bit for bit.
    with np.errstate(over="ignore", invalid="ignore"):  # where nothing is cut off
        below = np.where(stays, lowest - values, 0.0)
        mean = lowest[:, 0] - (share * below).sum(axis=1) / share.sum(axis=1)
    return mean, left_out > 0
