"""How much the largest subnet of a round weighs in the average: much at first, as any other at the end.

SuperFedNAS: Khare et al., ECCV 2024, https://arxiv.org/abs/2301.10879 ("MaxNet"). Of a round t = 0, 1, ...
and T, the rounds in which the weight falls,

    beta(t) = start [(1 - a) (1 + cos(pi t / T)) / 2 + a]      a = final / start; final from T on

is the say of the largest subnet; the others share 1 - beta(t) evenly. An entry is the mean over those that
hold it, by these weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from corolla.aggregation.updates import Update


def largest_weight(t: int, *, falling: float, start: float, final: float) -> float:
    """Return beta(t).

    Args:
        t: rounds that lie behind.
        falling: T, rounds in which the weight falls; 0: it is ``final`` from the first on.
        start: at t = 0.
        final: from t = T on.

    """
    if t >= falling:
        return final
    a = final / start
    return start * ((1 - a) * (1 + math.cos(math.pi * t / falling)) / 2 + a)


def weighed(updates: Sequence[Update], is_largest: Sequence[bool], beta: float) -> list[Update]:
    """Return the updates with their weights of a round: ``beta``, 0 < beta < 1, is for all of the largest.

    Where all are, or none is, the largest, they weigh the same.
    """
    count, most = len(updates), sum(is_largest)
    if most in (0, count):
        return [replace(update, weight=1.0) for update in updates]
    shares = {True: beta / most, False: (1 - beta) / (count - most)}
    return [
        replace(update, weight=shares[largest])
        for update, largest in zip(updates, is_largest, strict=True)
    ]
