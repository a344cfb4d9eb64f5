"""Which architecture a policy deploys: the most probable one that fits the client."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Probabilities = Sequence[NDArray[np.float64]]
"""One vector per dimension, independent of each other."""


def by_probability(
    probabilities: Probabilities,
    *,
    prior: Probabilities | None = None,
    smallest: Sequence[int] | None = None,
) -> Iterator[tuple[int, ...]]:
    """Yield choice indices in order of falling joint probability, the argmax first.

    Of choices that are equally probable the one comes first that is more so in ``prior``, then that of
    ``smallest``, then the lower index. Best-first search over ranks: each step costs a logarithm of what
    was looked at so far.
    """
    order = []
    for d, p in enumerate(probabilities):
        index = np.arange(len(p))
        others = index if smallest is None else index != smallest[d]
        order.append(np.lexsort((index, others, -(p if prior is None else prior[d]), -p)))
    with np.errstate(divide="ignore"):
        ranked = [np.log(p[o]) for p, o in zip(probabilities, order, strict=True)]
    start = (0,) * len(ranked)
    heap = [(-sum(float(r[0]) for r in ranked), start)]
    seen = {start}
    while heap:
        cost, ranks = heapq.heappop(heap)
        yield tuple(int(o[rank]) for o, rank in zip(order, ranks, strict=True))
        for d, rank in enumerate(ranks):
            following = (*ranks[:d], rank + 1, *ranks[d + 1 :])
            if rank + 1 < len(ranked[d]) and following not in seen:
                seen.add(following)
                loss = float(ranked[d][rank] - ranked[d][rank + 1])
                heapq.heappush(heap, (cost + loss, following))


def most_probable(
    probabilities: Probabilities,
    fits: Callable[[tuple[int, ...]], bool],
    *,
    smallest: tuple[int, ...],
    prior: Probabilities | None = None,
    limit: int = 2_000,
) -> tuple[int, ...]:
    """Return the most probable choices that fit; ``smallest`` when none of the first ``limit`` does.

    Ties are resolved as `by_probability` says.
    """
    ranked = by_probability(probabilities, prior=prior, smallest=smallest)
    for count, choices in enumerate(ranked):
        if fits(choices):
            return choices
        if count + 1 >= limit:
            break
    return smallest
