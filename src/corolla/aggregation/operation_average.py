"""OPA of FedorAS: every array by the samples that went through it.

Dudziak, Laskaridis & Fernandez-Marques, "FedorAS: Federated Architecture Search under system heterogeneity",
2022, https://arxiv.org/abs/2206.11239. Of client k, n_k its weight and s_k,op the share of its samples that
went through the operation,

    w_op' = sum_k n_k s_k,op w_k,op / sum_k n_k s_k,op

An operation that no sample went through keeps the server's value; where every sample goes through everything
that a client holds this is `corolla.aggregation.coverage`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from corolla.aggregation.coverage import momentum_average
from corolla.aggregation.robust import RobustRule, robust_updates
from corolla.aggregation.updates import Update
from corolla.types import Arrays


def operation_average(
    supernet: Arrays,
    updates: Sequence[Update],
    shares: Sequence[Mapping[str, float]],
    velocity: Arrays,
    *,
    momentum: float,
    damping: float = 0.0,
    rule: RobustRule | None = None,
) -> tuple[Arrays, Arrays]:
    """Return the next supernet and velocity; no argument is written to.

    Args:
        supernet: the server's arrays.
        updates: of the clients.
        shares: of each update: name -> share, 0 to 1, of its samples that went through the array; 1 where a
            name is missing.
        velocity: of server momentum, as `momentum_average` takes it.
        momentum: of the server; 0: none.
        damping: say of clients through whose copy of an array no sample went, for its old value.
        rule: steps are limited over whole updates, extremes left out array by array.

    """
    if rule is not None:  # over whole updates; below they are taken apart
        updates = robust_updates(rule, supernet, updates)
        rule = replace(rule, factor=None)
    groups: dict[tuple[float, ...], list[str]] = {}
    for name in supernet:
        through = tuple(
            said.get(name, 1.0) if name in update.arrays else 0.0
            for update, said in zip(updates, shares, strict=True)
        )
        # Who holds it, and each of them all of the time: one call for all of these arrays.
        group = (1.0,) if all(share in (0.0, 1.0) for share in through) else through
        groups.setdefault(group, []).append(name)
    averaged: Arrays = {}
    moving: Arrays = {}
    for names in groups.values():
        part, moved = momentum_average(
            {name: supernet[name] for name in names},
            [_part(update, said, names) for update, said in zip(updates, shares, strict=True)],
            {name: velocity[name] for name in names if name in velocity},
            momentum=momentum,
            damping=damping,
            rule=rule,
        )
        averaged |= part
        moving |= moved
    return {name: averaged[name] for name in supernet}, moving


def _part(update: Update, said: Mapping[str, float], names: Sequence[str]) -> Update:
    """Return what samples went through, of the arrays that are averaged together, and its weight."""
    own = [name for name in names if name in update.arrays and said.get(name, 1.0) > 0]
    weight = update.weight * (said.get(own[0], 1.0) if own else 1.0)
    if len(own) == len(update.arrays):
        return replace(update, weight=weight)
    return replace(
        update,
        arrays={name: update.arrays[name] for name in own},
        regions={name: update.regions[name] for name in own},
        weight=weight,
    )
