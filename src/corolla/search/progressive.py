"""SPIDER-Searcher: one edge after the other keeps one operation, while the network trains on.

SPIDER (TMLR), section 4.4 and algorithm 2, whose line 8 is inverted: as the text says, the operation with
the highest impact stays, the one whose removal costs most. Phase 1: `warmup_rounds` of training, up to the
next multiple of `recovery_rounds` (line 3). Phase 2: a step decides one edge of the normal and one of the
reduction cell, then, with `topology`, one node of each at a time keeps its best `in_edges` inputs; between
two steps `recovery_rounds` of training. Phase 3: the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Tensor

from corolla.search.decisions import (
    Decision,
    Judge,
    Search,
    carrying_edges_into,
    crowded_nodes,
    undecided_edges,
)
from corolla.search.ranking import Ranking
from corolla.search.topology import thin_node
from corolla.settings import Count, CountOrNone, settings
from corolla.spaces.darts_cells import DartsNetwork, DartsPlan
from corolla.spaces.darts_genotype import KINDS, edge_name, edge_pairs
from corolla.spaces.darts_operations import CARRIES_NOTHING
from corolla.training.variants import Statistics


@settings
class ProgressiveSettings(Ranking):
    """How edges and nodes are decided. Of `Ranking`, only ``criterion=perturbation`` makes use."""

    # perturbation, or a control on the same schedule: random, decisions by lot; costliest, what has most
    # multiply-accumulates stays
    criterion: Literal["perturbation", "random", "costliest"]
    warmup_rounds: CountOrNone  # trained before the first step
    recovery_rounds: Count  # trained from one step to the next
    # After the first multiple of recovery_rounds that the warm-up does not exceed, as published, or right
    # after the warm-up
    first_step: Literal["multiple", "warmup"]
    # training also between the last edges and the first node; not so in the public code
    node_recovery: bool
    # what a round is: one that the client took part in, or one of the federation
    clock: Literal["participations", "rounds"]
    topology: bool  # also choose the edges of every node
    in_edges: Count  # that a node keeps
    statistics: Statistics  # BatchNorm's while scoring: `corolla.training.variants.VariantScorer`


class ProgressiveSearch(Search):
    """Decides edges and nodes by what their absence costs on validation images, by lot, or by size."""

    settings: ProgressiveSettings

    def __init__(self, *, settings: ProgressiveSettings) -> None:
        super().__init__(
            clock=settings.clock, topology=settings.topology, in_edges=settings.in_edges
        )
        self._ranking: Ranking = settings
        self._criterion = settings.criterion
        self.statistics: Statistics = settings.statistics
        self._recovery = settings.recovery_rounds
        multiple = -(-settings.warmup_rounds // settings.recovery_rounds) * self._recovery
        self._first = multiple if settings.first_step == "multiple" else settings.warmup_rounds
        self._node_recovery = settings.node_recovery

    def rounds_needed(self, plan: DartsPlan) -> int:
        """Return how many rounds a client needs to decide everything and train once after that."""
        edges = len(edge_pairs(plan.nodes)) if len(plan.operations) > 1 else 0
        crowded = sum(node > self._in_edges for node in range(2, 2 + plan.nodes))
        nodes = crowded if self._topology else 0
        steps = edges + nodes
        if edges and nodes and not self._node_recovery:
            steps -= 1  # the last edges and the first node in one
        return self._first + max(0, steps - 1) * self._recovery + 1

    def due(self, elapsed: int, last: int | None) -> bool:
        """Tell whether a step is due after ``elapsed`` rounds, the last one having been at ``last``."""
        return elapsed >= (self._first if last is None else last + self._recovery)

    def step(
        self,
        network: DartsNetwork,
        *,
        memory: dict[str, Tensor],
        judge: Judge,
        rng: np.random.Generator,
        round: int,
    ) -> list[Decision]:
        """Decide one edge, or else one node, of each kind of cell, and delete the others for good."""
        made: list[Decision] = []
        if any(undecided_edges(network, kind) for kind in KINDS):
            made = [
                self._operation(network, kind, edge, judge, rng, round)
                for kind in KINDS
                for edge in _one(undecided_edges(network, kind), rng)
            ]
            if self._node_recovery or any(undecided_edges(network, kind) for kind in KINDS):
                return made
        for kind in KINDS if self._topology else ():
            crowded = crowded_nodes(network, kind, self._in_edges)
            for node in _one(sorted(crowded), rng):
                made += thin_node(
                    network,
                    kind,
                    node,
                    crowded[node],
                    in_edges=self._in_edges,
                    judge=judge if self._criterion == "perturbation" else None,
                    ranking=self._ranking,
                    by_cost=self._criterion == "costliest",
                    rng=rng,
                    round=round,
                )
        return made

    def _operation(
        self,
        network: DartsNetwork,
        kind: str,
        edge: int,
        judge: Judge,
        rng: np.random.Generator,
        round: int,
    ) -> Decision:
        pair = edge_pairs(network.plan.nodes)[edge]
        names = list(network.alive()[kind][edge])
        # The edge that alone brings its node anything may not become `none` or `noise`.
        last = carrying_edges_into(network, kind, pair[1]) == [edge]
        eligible = [name for name in names if not (last and name in CARRIES_NOTHING)]
        lots = dict(zip(names, rng.permutation(len(names)).tolist(), strict=True))
        costs = {name: network.macs(kind, edge, name) for name in names}
        evidence: dict[str, Any] = {}
        if self._criterion == "random":
            kept, by = max(eligible, key=lots.__getitem__), "lot"
        elif self._criterion == "costliest":
            kept, by = max(eligible, key=lambda name: (costs[name], lots[name])), "cost"
        else:
            judged = judge(network, [partial(network.masked, kind, edge, name) for name in names])
            scores = dict(zip(names, judged, strict=True))
            verdict = self._ranking.pick(eligible, scores, costs=costs, lots=lots, hurts="most")
            kept, by = verdict.picked, verdict.by
            evidence = {
                "scores": {name: (score.accuracy, score.loss) for name, score in scores.items()},
                "margin": verdict.margin,
                "unit": self._ranking.rank,
                "error": verdict.error,
            }
        removed = tuple(name for name in names if name != kept)
        for name in removed:
            network.prune(kind, edge, name)
        return Decision(
            round=round,
            cell=kind,
            where=edge_name(pair),
            kept=kept,
            removed=removed,
            by=by if len(eligible) > 1 else "only",
            **evidence,
        )


def _one(candidates: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return one candidate drawn uniformly, or none where there are none."""
    return [candidates[int(rng.integers(len(candidates)))]] if candidates else []
