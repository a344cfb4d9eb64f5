"""Coverage-weighted averaging: each entry of the supernet, over the clients that hold it.

PerFedRLNAS: Yao & Li, AAAI 2024; HeteroFL: Diao, Ding & Tarokh, ICLR 2021,
https://arxiv.org/abs/2010.01264. Departure: not the weights but their *differences* to the server's
are averaged,

    w' = w - sum_i a_i (w - w_i) / sum_i a_i      sums over the clients i that hold the entry

In exact arithmetic this is the weighted mean (FedAvg's, where all hold everything). In floating
point it leaves an entry that nobody changed bit-identical for any weights, where a sum over a sum
rounds; and its rounding error is relative to the step, not to the weight, so that float32 sums are
precise enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corolla.aggregation.regions import place
from corolla.aggregation.updates import Update, check_update
from corolla.errors import Fault, RefusedError, nearest
from corolla.types import Arrays, client_order

Statistics = Literal["aggregate", "keep"]
"""BatchNorm's running statistics: averaged like weights, or the server's kept (to recalibrate)."""

STATISTICS = ("running_mean", "running_var")
"""Last parts of the names of running statistics."""

_SMALL = 8192  # numbers; larger arrays are worth calls of their own


def coverage_average(
    supernet: Arrays, updates: Sequence[Update], *, statistics: Statistics = "aggregate"
) -> Arrays:
    """Return the next supernet; neither ``supernet`` nor ``updates`` is written to.

    Entries nobody holds keep their value; of integer arrays (counters) the maximum is taken, the
    server's included. Updates are folded by client, so their order matters only among those of
    equal ``client``. Raises `RefusedError` for weights that are not positive, wrong names and
    shapes. NaN and infinities are not looked for: `check_update` does, for replies from outside.
    """
    return momentum_average(supernet, updates, {}, momentum=0.0, statistics=statistics)[0]


def momentum_average(
    supernet: Arrays,
    updates: Sequence[Update],
    velocity: Arrays,
    *,
    momentum: float,
    statistics: Statistics = "aggregate",
) -> tuple[Arrays, Arrays]:
    """Return the next supernet and velocity of FedAvgM (Hsu, Qi & Brown 2019), entry by entry.

    v' = momentum * v + d, w' = w - v', where d is the averaged difference of `coverage_average`.
    An entry that nobody holds in this round neither moves nor loses its velocity: a round that
    does not train it passes it by. Running statistics and integer arrays have no velocity (carried
    on by momentum a variance can become negative). Arrays missing in ``velocity`` start at 0. With
    ``momentum=0`` the supernet is `coverage_average`'s bit for bit and the velocity empty.
    """
    _check(supernet, updates, momentum, statistics)
    _check_velocity(supernet, velocity)
    ordered = sorted(updates, key=lambda update: client_order(update.client))
    averaged = {} if momentum else _average_small(supernet, ordered, statistics)
    moving = dict(velocity) if momentum else {}
    scratch = _Scratch()
    for name, old in supernet.items():
        if name in averaged:
            continue
        is_statistic = name.rpartition(".")[2] in STATISTICS
        parts = [_part(update, name, old) for update in ordered if name in update.regions]
        if not parts or (is_statistic and statistics == "keep"):
            averaged[name] = old.copy()
        elif old.dtype.kind != "f":
            averaged[name] = _maximum(old, parts)
        else:
            step, weight = _step(old, parts, scratch)
            if momentum and not is_statistic:
                past = moving[name] if name in moving else np.zeros_like(step)
                held = weight > np.finfo(weight.dtype).tiny
                moving[name] = np.where(held, momentum * past + step, past)
                np.multiply(moving[name], held, out=step)
            variance = is_statistic and name.endswith("var")
            averaged[name] = _moved(old, step, variance=variance)
    return {name: averaged[name] for name in supernet}, moving


@dataclass(frozen=True)
class _Part:
    """One client's block of one array."""

    index: tuple[Any, ...]
    values: NDArray[Any]
    weight: float


class _Scratch:
    """Buffers used again for every tensor: fresh ones would cost more than the sums in them."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}

    def take(self, use: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array with arbitrary contents, valid until the next call for this use."""
        size = math.prod(shape)
        buffer = self._buffers.get(use)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[use] = np.empty(size, dtype=dtype)
        return buffer[:size].reshape(shape)


def _part(update: Update, name: str, old: NDArray[Any]) -> _Part:
    index = place(update.regions, name, old.shape).key
    return _Part(index, update.arrays[name], update.weight)


def _average_small(supernet: Arrays, updates: Sequence[Update], statistics: Statistics) -> Arrays:
    """Return the averages of small arrays that their holders own whole, joined by who holds them.

    A DARTS supernet has thousands of arrays of a few numbers each: one by one, the calls would take
    several times as long as the sums in them. The numbers are those of the usual way, bit for bit.
    """
    groups: dict[tuple[tuple[int, ...], str, bool], list[str]] = {}
    holders: dict[str, list[int]] = {}
    partly: set[str] = set()
    for number, update in enumerate(updates):
        for name in update.regions:
            old = supernet[name]
            if old.size <= _SMALL and old.dtype.kind == "f":
                holders.setdefault(name, []).append(number)
                if not place(update.regions, name, old.shape).whole:
                    partly.add(name)
    for name, held in holders.items():
        last = name.rpartition(".")[2]
        if name in partly or (last in STATISTICS and statistics == "keep"):
            continue
        key = (tuple(held), supernet[name].dtype.str, last == "running_var")
        groups.setdefault(key, []).append(name)
    averaged: Arrays = {}
    scratch = _Scratch()
    for (clients, _, variance), names in groups.items():
        old = _joined(supernet, names)
        parts = [
            _Part((...,), _joined(updates[i].arrays, names), updates[i].weight) for i in clients
        ]
        step, _ = _step(old, parts, scratch)
        joined = _moved(old, step, variance=variance)
        start = 0
        for name in names:
            shape, size = supernet[name].shape, supernet[name].size
            averaged[name] = joined[start : start + size].reshape(shape)
            start += size
    return averaged


def _moved(old: NDArray[Any], step: NDArray[Any], *, variance: bool) -> NDArray[Any]:
    """Return old - step; ``step`` is written over."""
    new: NDArray[Any] = np.subtract(old, step, out=step).astype(old.dtype, copy=False)
    if variance:
        # where all clients say 0, rounding may take the mean just below
        np.maximum(new, 0, out=new)
    return new


def _joined(arrays: Arrays, names: Sequence[str]) -> NDArray[Any]:
    return np.concatenate([arrays[name].reshape(-1) for name in names])


def _step(
    old: NDArray[Any], parts: Sequence[_Part], scratch: _Scratch
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the averaged difference old - new, and the weight of those who hold each entry.

    Where nobody holds, the difference is 0 and the weight the smallest normal number. All sums are
    made in place, on one tensor at a time, which mostly fits the processor's cache.
    """
    dtype = np.result_type(old.dtype, np.float32)  # half precision is summed in float32
    step = np.zeros(old.shape, dtype=dtype)
    heaviest = max(part.weight for part in parts)
    shares = [part.weight / heaviest for part in parts]  # equal weights become exactly 1
    everywhere = all(part.values.size == old.size for part in parts)
    weight = np.zeros((), dtype) if everywhere else scratch.take("weight", old.shape, dtype)
    weight.fill(sum(shares) if everywhere else 0.0)
    for part, share in zip(parts, shares, strict=True):
        difference = scratch.take("difference", part.values.shape, dtype)
        np.subtract(old[part.index], part.values, out=difference, dtype=dtype, casting="same_kind")
        if share != 1.0:
            np.multiply(difference, share, out=difference)
        step[part.index] += difference
        if not everywhere:
            weight[part.index] += share
    # 0 / tiny = 0 for entries nobody holds; a masked division would take three times as long
    np.maximum(weight, np.finfo(dtype).tiny, out=weight)
    np.divide(step, weight, out=step)
    return step, weight


def _maximum(old: NDArray[Any], parts: Sequence[_Part]) -> NDArray[Any]:
    result = old.copy()
    for part in parts:
        result[part.index] = np.maximum(result[part.index], part.values)
    return result


def _check(supernet: Arrays, updates: Sequence[Update], momentum: float, statistics: str) -> None:
    faults = [fault for update in updates for fault in check_update(supernet, update, values=False)]
    if not 0.0 <= momentum < 1.0:
        faults.append(Fault("momentum", momentum, "is outside [0, 1)", "Use 0 for none"))
    if statistics not in ("aggregate", "keep"):
        remedy = nearest(statistics, ("aggregate", "keep"))
        faults.append(Fault("statistics", statistics, "is no policy for buffers", remedy))
    if faults:
        raise RefusedError(faults)


def _check_velocity(supernet: Arrays, velocity: Arrays) -> None:
    faults = [
        Fault("velocity", name, "the supernet has no such array", "Load a state of this supernet")
        for name, array in velocity.items()
        if name not in supernet or supernet[name].shape != array.shape
    ]
    if faults:
        raise RefusedError(faults)
