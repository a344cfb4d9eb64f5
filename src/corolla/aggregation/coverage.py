"""Coverage-weighted averaging: each entry of the supernet, over the clients that hold it.

PerFedRLNAS: Yao & Li, AAAI 2024; HeteroFL: Diao, Ding & Tarokh, ICLR 2021,
https://arxiv.org/abs/2010.01264.

    w' = sum_i a_i w_i / sum_i a_i      sums over the clients i that hold the entry

which is FedAvg where all hold everything. Departure, in floating point: the sums are made as a running
mean (`corolla.aggregation.running_mean`), which leaves an entry that nobody changed bit-identical
for any weights, where a sum over a sum rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.aggregation.damping import damped
from corolla.aggregation.holders import Holders
from corolla.aggregation.robust import RobustRule
from corolla.aggregation.running_mean import Block, fold, fold_blocks, readable, row_key
from corolla.aggregation.statistics import Statistics, is_statistic
from corolla.aggregation.updates import Update, check_update
from corolla.errors import Fault, nearest, refuse
from corolla.types import Arrays, client_order

_SMALL = 8192  # numbers; larger arrays are worth calls of their own


def coverage_average(
    supernet: Arrays,
    updates: Sequence[Update],
    *,
    statistics: Statistics = "aggregate",
    damping: float = 0.0,
    rule: RobustRule | None = None,
) -> Arrays:
    """Return the next supernet; neither ``supernet`` nor ``updates`` is written to.

    Entries nobody holds keep their value; of integer arrays (counters) the maximum is taken, the
    server's included. Updates are folded by weight and client, so their order matters only among those
    of equal ``client`` and weight. Raises `RefusedError` for weights that are not positive, wrong names and
    shapes. NaN and infinities are not checked here: `check_update` does that, for replies from outside.
    """
    averaged, _ = momentum_average(
        supernet, updates, {}, momentum=0.0, statistics=statistics, damping=damping, rule=rule
    )
    return averaged


def momentum_average(
    supernet: Arrays,
    updates: Sequence[Update],
    velocity: Arrays,
    *,
    momentum: float,
    statistics: Statistics = "aggregate",
    damping: float = 0.0,
    rule: RobustRule | None = None,
) -> tuple[Arrays, Arrays]:
    """Return the next supernet and velocity of FedAvgM (Hsu, Qi & Brown 2019), entry by entry.

    v' = momentum * v + d, w' = w - v', where d is w minus the mean of `coverage_average`.
    An entry that no client holds in this round neither moves nor loses its velocity: a round that
    does not train it passes it by. Running statistics and integer arrays have no velocity (carried
    on by momentum a variance can become negative). Arrays missing in ``velocity`` start at 0. With
    ``momentum=0`` the supernet is `coverage_average`'s bit for bit and the velocity empty.
    """
    _check(supernet, updates, momentum, statistics, damping)
    _check_velocity(supernet, velocity)
    if rule is not None:
        updates = rule.limited(supernet, updates)
    ordered = sorted(updates, key=lambda update: (-update.weight, client_order(update.client)))
    holders = Holders(supernet, ordered)
    averaged = _averages(supernet, holders, statistics)
    for name in holders.who:
        if statistics == "keep" and is_statistic(name):
            continue
        old = supernet[name]
        if rule is not None and rule.trims:
            averaged[name] = rule.over_holders(old, averaged[name], name=name, holders=holders)
        if damping and old.dtype.kind == "f":
            mean = averaged[name]
            averaged[name] = damped(old, mean, name=name, holders=holders, damping=damping)
    if not momentum:
        return averaged, {}
    moving = dict(velocity)
    for name, old in supernet.items():
        if name not in holders.who or old.dtype.kind != "f" or is_statistic(name):
            continue
        step = np.subtract(old, averaged[name], dtype=_dtype(old))
        held = holders.mask(name, old.shape)
        past = moving[name] if name in moving else np.zeros_like(step)
        moving[name] = np.where(held, momentum * past + step, past)
        averaged[name] = np.where(held, old - moving[name], old).astype(old.dtype, copy=False)
    return averaged, moving


def _averages(supernet: Arrays, holders: Holders, statistics: Statistics) -> Arrays:
    """Return the next supernet, its small arrays joined by who holds which part of them.

    A DARTS supernet has thousands of arrays of a few numbers each: one by one, the calls would take
    several times as long as the sums in them.
    """
    averaged: Arrays = {}
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, old in supernet.items():
        who = holders.who.get(name, 0)
        if not who or (statistics == "keep" and is_statistic(name)):
            averaged[name] = old.copy()
        elif old.dtype.kind != "f":
            averaged[name] = _maximum(old, holders, name)
        else:
            key: tuple[Any, ...] = (old.dtype.num, who)
            if old.size > _SMALL:
                key = (name,)
            elif name in holders.partly:
                # an architecture's equal places are one object; this call keeps all of them alive
                key = (*key, *(id(holders.places[number][name]) for number in holders.of(name)))
            groups.setdefault(key, []).append(name)
    for names in groups.values():
        averaged |= _averages_of(names, supernet, holders)
    return {name: averaged[name] for name in supernet}


def _averages_of(names: Sequence[str], supernet: Arrays, holders: Holders) -> Arrays:
    """Return the averages of arrays that the same clients hold, the same parts of."""
    name = names[0]
    old = supernet[name]
    held = holders.of(name)
    shares = [holders.shares[number] for number in held]
    parts = [holders.updates[number].arrays for number in held]
    places = [holders.places[number][name] for number in held]
    if old.size > _SMALL and name in holders.partly:
        mean = old.astype(_dtype(old))
        blocks = zip(places, parts, shares, strict=True)
        fold_blocks(mean, [Block(place.region, part[name], a) for place, part, a in blocks])
        return {name: mean.astype(old.dtype, copy=False)}
    if name in holders.partly:
        keys = [row_key(place.region, old.shape) for place in places]
        mean = _stacked(supernet, names).astype(_dtype(old), copy=False)
        values = [_stacked(part, names) for part in parts]
    else:
        keys = [row_key((), ())] * len(held)
        values = [_joined(part, names) for part in parts]
        mean = np.empty(values[0].shape, _dtype(old))
    fold(mean, keys, [readable(block, mean.dtype) for block in values], shares)
    mean = mean.astype(old.dtype, copy=False)
    if name in holders.partly:
        return dict(zip(names, mean, strict=True))
    averaged: Arrays = {}
    start = 0
    for each in names:
        shape, size = supernet[each].shape, supernet[each].size
        averaged[each] = mean[start : start + size].reshape(shape)
        start += size
    return averaged


def _joined(arrays: Arrays, names: Sequence[str]) -> NDArray[Any]:
    if len(names) == 1:
        return arrays[names[0]].reshape(-1)
    return np.concatenate([arrays[name].reshape(-1) for name in names])


def _stacked(arrays: Arrays, names: Sequence[str]) -> NDArray[Any]:
    joined = np.concatenate([arrays[name] for name in names])  # np.stack takes longer
    return joined.reshape(len(names), *arrays[names[0]].shape)


def _dtype(old: NDArray[Any]) -> np.dtype[Any]:
    return np.result_type(old.dtype, np.float32)  # half precision is averaged in float32


def _maximum(old: NDArray[Any], holders: Holders, name: str) -> NDArray[Any]:
    result = old.copy()
    for number in holders.of(name):
        key = holders.places[number][name].key
        result[key] = np.maximum(result[key], holders.updates[number].arrays[name])
    return result


def _check(
    supernet: Arrays,
    updates: Sequence[Update],
    momentum: float,
    statistics: str,
    damping: float,
) -> None:
    faults = [fault for update in updates for fault in check_update(supernet, update, values=False)]
    if not 0.0 <= momentum < 1.0:
        faults.append(
            Fault(
                "momentum", momentum, "is outside [0, 1)", "Use a number from 0 (none) to below 1"
            )
        )
    if not 0 <= damping <= 1:
        remedy = "Use a number from 0 (none, as published) to 1"
        faults.append(Fault("damping", damping, "is not between 0 and 1", remedy))
    if statistics not in ("aggregate", "keep"):
        remedy = nearest(statistics, ("aggregate", "keep"))
        faults.append(Fault("statistics", statistics, "is not known", remedy))
    refuse(faults)


def _check_velocity(supernet: Arrays, velocity: Arrays) -> None:
    faults = [
        Fault("velocity", name, "the supernet has no such array", "Load a state of this supernet")
        for name, array in velocity.items()
        if name not in supernet or supernet[name].shape != array.shape
    ]
    refuse(faults)
