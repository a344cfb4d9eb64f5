"""Which edges into a node stay: the topology step of DARTS-PT and of SPIDER's public code.

Wang et al., ICLR 2021 ("Rethinking Architecture Selection in Differentiable NAS"), algorithm 2. In no text of
SPIDER, but in its code and figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from corolla.search.decisions import Decision, Judge, carrying_edges_into
from corolla.search.ranking import Ranking
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
    ranking: Ranking,
    by_cost: bool = False,
    rng: np.random.Generator,
    round: int,
) -> list[Decision]:
    """Delete edges into ``node``, one after the other, until ``in_edges`` are left.

    Each time the edge goes whose removal costs least by ``ranking``, of near ties the costliest, with those
    that went before really gone. Without a judge: by lot, or ``by_cost`` the one with fewest
    multiply-accumulates. The last edge that brings the node anything stays.
    """
    pairs, left, made = edge_pairs(network.plan.nodes), list(edges), []
    while len(left) > in_edges:
        carrying = carrying_edges_into(network, kind, node)
        free = [edge for edge in left if carrying != [edge]]
        lots = dict(zip(rng.permutation(free).tolist(), range(len(free), 0, -1), strict=True))
        costs = {edge: network.macs(kind, edge) for edge in free}
        evidence: dict[str, Any] = {}
        if judge is not None:
            judged = judge(network, [partial(network.masked, kind, edge) for edge in free])
            scores = dict(zip(free, judged, strict=True))
            verdict = ranking.pick(free, scores, costs=costs, lots=lots, hurts="least")
            doomed, by = verdict.picked, verdict.by
            evidence = {
                "scores": {edge_name(pairs[e]): (s.accuracy, s.loss) for e, s in scores.items()},
                "margin": verdict.margin,
                "unit": ranking.rank,
                "error": verdict.error,
            }
        elif by_cost:
            doomed, by = min(free, key=lambda edge: (costs[edge], -lots[edge])), "cost"
        else:
            doomed, by = max(free, key=lots.__getitem__), "lot"
        network.prune(kind, doomed)
        left.remove(doomed)
        made.append(
            Decision(
                round=round,
                cell=kind,
                where=str(node),
                kept="+".join(edge_name(pairs[edge]) for edge in left),
                removed=(edge_name(pairs[doomed]),),
                by=by if len(free) > 1 else "only",
                **evidence,
            )
        )
    return made
