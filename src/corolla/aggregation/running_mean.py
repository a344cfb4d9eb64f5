"""A weighted mean of blocks that lie over each other, in one pass over each block.

Of an entry that blocks 1, 2, ... hold, with weights W_k = a_1 + ... + a_k so far,

    m_k = lerp(x_k, m_(k-1), W_(k-1) / W_k)         lerp(x, m, keep) = m - (1 - keep) (m - x)

Where x_k equals m_(k-1) nothing changes, bit for bit. torch computes lerp this way, in one pass, from
keep = 1/2 up: so blocks are folded heaviest first. Below it computes x + keep (m - x), which for an
entry's first holder is x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from corolla.aggregation.regions import Index, Region, indexer

# An entry's weight before its first holder: x + (-0.0) (m - x) keeps even the sign of x = -0.0.
_NOTHING = -0.0
# Below this share 1 - keep may round to 0, and m - 0 (m - x) would lose the sign of m = -0.0.
_LIGHT = 1e-6
_CALLS = 4096  # entries of weights that cost as much as the calls for one more strip


class Block(NamedTuple):
    """What one client has of an array."""

    region: Region  # resolved: one index per axis
    values: NDArray[Any]  # of the region's shape
    weight: float  # > 0, sums of them fit float32


def fold_blocks(mean: NDArray[Any], blocks: Sequence[Block]) -> None:
    """Write the blocks' weighted mean over ``mean``; entries in no block keep their value.

    ``mean`` is float32 or float64, ``blocks`` are sorted by descending weight. Regions are mostly
    leading blocks: along one axis the array falls into a few strips, each with holders of its own,
    and within a strip the weights so far depend on the other axes alone.
    """
    weights = [block.weight for block in blocks]
    values = [readable(block.values, mean.dtype) for block in blocks]
    axis, edges = _strips(mean.shape, blocks)
    if not edges:
        keys = [row_key(block.region, mean.shape) for block in blocks]
        fold(mean[None], keys, [array[None] for array in values], weights)
        return
    regions = [block.region for block in blocks]
    if axis == 1:
        mean = mean.swapaxes(0, 1)
        values = [array.swapaxes(0, 1) for array in values]
        regions = [(region[1], region[0], *region[2:]) for region in regions]
    spans = [_bounds(region[0]) for region in regions]
    keys = [row_key(region[1:], mean.shape[1:]) for region in regions]
    for low, high in pairwise(edges):
        held = [i for i, (start, stop) in enumerate(spans) if start <= low and high <= stop]
        if held:
            strip = [values[i][low - spans[i][0] : high - spans[i][0]] for i in held]
            fold(mean[low:high], [keys[i] for i in held], strip, [weights[i] for i in held])


def row_key(region: Region, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Return what numpy takes for this region of all rows of an array (rows, *shape)."""
    if any(isinstance(index, tuple) for index in region):
        return (slice(None), *indexer(region, shape))
    return (slice(None), *region)


def fold(
    mean: NDArray[Any],
    keys: Sequence[tuple[Any, ...]],
    values: Sequence[NDArray[Any]],
    weights: Sequence[float],
) -> None:
    """Do as `fold_blocks` where all rows of ``mean`` (rows, ...) have the same holders.

    ``keys`` come from `row_key`, ``values`` from `readable`; they have the shapes that the keys give.
    """
    mean[keys[0]] = values[0]
    if len(keys) == 1:
        return
    total = np.full((1, *mean.shape[1:]), _NOTHING, dtype=mean.dtype)
    total[keys[0]] = heavier = weights[0]
    one = mean.dtype.type(1)
    for key, block, weight in zip(keys[1:], values[1:], weights[1:], strict=True):
        before = total[key]
        after = before + weight
        keep = before / after
        heavier += weight
        if weight < _LIGHT * heavier:
            np.minimum(keep, np.nextafter(one, 0, dtype=one.dtype), out=keep)
        old = mean[key]
        target = torch.from_numpy(old)
        torch.lerp(torch.from_numpy(block), target, torch.from_numpy(keep), out=target)
        total[key] = after
        if isinstance(key[-1], np.ndarray):
            mean[key] = old  # indices gave a copy


def readable(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return what torch takes without a copy or a warning: of this dtype, contiguous, writeable."""
    if values.dtype == dtype and values.flags.carray:
        return values
    return np.array(values, dtype=dtype, order="C")


def _strips(shape: tuple[int, ...], blocks: Sequence[Block]) -> tuple[int, list[int]]:
    """Return the axis along which to cut, and where; no edges where one strip of one row is cheaper."""
    size = math.prod(shape)
    best: tuple[int, list[int]] = (0, [])
    cheapest = _CALLS + size
    for axis in range(min(2, len(shape))):  # channels; kernels have few entries and many edges
        indices = [block.region[axis] for block in blocks]
        if not all(isinstance(index, slice) for index in indices):
            continue
        edges = {edge for index in indices for edge in _bounds(index)}
        cost = _CALLS * (len(edges) - 1) + size // max(shape[axis], 1)
        if cost < cheapest:
            cheapest, best = cost, (axis, sorted(edges))
    return best


def _bounds(index: Index) -> tuple[int, int]:
    return (index.start, index.stop) if isinstance(index, slice) else (index[0], index[-1] + 1)
