"""Which edges into a node stay: the topology step of DARTS-PT and of SPIDER's public code.

Wang et al., ICLR 2021 ("Rethinking Architecture Selection in Differentiable NAS"), algorithm 2. In no text of
SPIDER, but in its code and figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from corolla.search.decisions import Decision, Judge, feeds
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_genotype import edge_name, edge_pairs


def thin_node(
    network: DartsNetwork,
    kind: str,
    node: int,
    edges: Sequence[int],
    *,
    in_edges: int,
    judge: Judge | None,
    rng: np.random.Generator,
    round: int,
) -> list[Decision]:
    """Delete edges into ``node``, one after the other, until ``in_edges`` are left.

    Each time the edge goes whose removal leaves the highest accuracy (then the lowest loss, then by
    lot), with those that went before really gone. Without a judge: by lot. The last edge that brings
    the node anything stays.
    """
    pairs, left, made = edge_pairs(network.plan.nodes), list(edges), []
    while len(left) > in_edges:
        feeding = feeds(network, kind, node)
        free = [edge for edge in left if feeding != [edge]]
        lots = rng.permutation(len(free))
        scores: dict[str, tuple[float, float]] = {}
        order = [free[i] for i in lots]
        if judge is not None:
            found = judge(network, [partial(network.masked, kind, edge) for edge in free])
            keys = {
                edge: (-score.accuracy, score.loss, lot)
                for edge, score, lot in zip(free, found, lots, strict=True)
            }
            order = sorted(free, key=keys.__getitem__)
            scores = {
                edge_name(pairs[edge]): (score.accuracy, score.loss)
                for edge, score in zip(free, found, strict=True)
            }
        doomed = order[0]
        network.prune(kind, doomed)
        left.remove(doomed)
        margin = 0.0
        if judge is not None and len(order) > 1:
            first, second = (scores[edge_name(pairs[edge])][0] for edge in order[:2])
            margin = first - second
        made.append(
            Decision(
                round=round,
                cell=kind,
                where=str(node),
                kept="+".join(edge_name(pairs[edge]) for edge in left),
                removed=(edge_name(pairs[doomed]),),
                scores=scores,
                margin=margin,
            )
        )
    return made
