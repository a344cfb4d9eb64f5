"""SPIDER-Searcher: one edge after the other keeps one operation, while the network trains on.

SPIDER (TMLR), section 4.4 and algorithm 2, whose line 8 is inverted: as the text says, the operation with
the highest impact stays, the one whose removal costs most accuracy. Phase 1: `warmup_rounds` of training.
Phase 2: a step decides one edge of the normal and one of the reduction cell, then, with `topology`, one node
of each at a time keeps its best `in_edges` inputs; between two steps `recovery_rounds` of training. Phase 3:
the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
from torch import Tensor

from corolla.errors import Fault, RefusedError, nearest
from corolla.search.decisions import (
    Decision,
    Judge,
    LossOf,
    count_undecided,
    crowded_nodes,
    feeds,
    undecided_edges,
)
from corolla.search.topology import thin_node
from corolla.spaces.darts_cells import DartsNetwork, DartsPlan
from corolla.spaces.darts_genotype import KINDS, edge_name, edge_pairs
from corolla.training.variants import Statistics

CRITERIA = ("perturbation", "random")
CLOCKS = ("participations", "rounds")
STATISTICS = ("batch", "running")


class ProgressiveSearch:
    """Decides edges and nodes by what their absence costs on validation images, or by lot.

    Args:
        criterion: ``perturbation``, or ``random``: the same schedule, decisions by lot (a control).
        warmup_rounds: trained before the first step.
        recovery_rounds: trained from one step to the next, 1 or more.
        clock: what a round is: one that the client took part in, or one of the federation.
        topology: also choose the edges of every node.
        in_edges: that a node keeps.
        statistics: BatchNorm's while scoring, see `corolla.training.variants.VariantScorer`.

    Raises:
        RefusedError: values out of range, all at once.

    """

    def __init__(
        self,
        *,
        criterion: Literal["perturbation", "random"],
        warmup_rounds: int,
        recovery_rounds: int,
        clock: Literal["participations", "rounds"],
        topology: bool,
        in_edges: int,
        statistics: Statistics,
    ) -> None:
        faults = [
            Fault(key, value, "is not known", nearest(str(value), known))
            for key, value, known in (
                ("criterion", criterion, CRITERIA),
                ("clock", clock, CLOCKS),
                ("statistics", statistics, STATISTICS),
            )
            if value not in known
        ]
        for key, count, least in (
            ("warmup_rounds", warmup_rounds, 0),
            ("recovery_rounds", recovery_rounds, 1),
            ("in_edges", in_edges, 1),
        ):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                remedy = f"Use a whole number, {least} or more"
                faults.append(Fault(key, count, "is out of range", remedy))
        if not isinstance(topology, bool):
            faults.append(Fault("topology", topology, "is neither true nor false", "Use either"))
        if faults:
            raise RefusedError(faults)
        self._criterion, self.clock, self.statistics = criterion, clock, statistics
        self._warmup, self._recovery = warmup_rounds, recovery_rounds
        self._topology, self._in_edges = topology, in_edges

    def rounds_needed(self, plan: DartsPlan) -> int:
        """Return how many rounds a client needs to decide everything and train once after that."""
        steps = len(edge_pairs(plan.nodes)) if len(plan.operations) > 1 else 0
        if self._topology:
            steps += sum(node > self._in_edges for node in range(2, 2 + plan.nodes))
        return self._warmup + max(0, steps - 1) * self._recovery + 1

    def due(self, elapsed: int, last: int | None) -> bool:
        """Tell whether a step is due after ``elapsed`` rounds, the last one having been at ``last``."""
        return elapsed >= (self._warmup if last is None else last + self._recovery)

    def undecided(self, network: DartsNetwork) -> int:
        """Return how many edges and nodes are still to be decided."""
        return count_undecided(network, topology=self._topology, in_edges=self._in_edges)

    def begin(self, network: DartsNetwork, memory: dict[str, Tensor]) -> None:
        """Prepare a network that was just built: nothing to do, all operations count alike."""

    def hook(self, memory: dict[str, Tensor], validation_loss: LossOf) -> None:
        """Return what follows each backward pass: nothing, only evaluations decide."""

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
        if any(undecided_edges(network, kind) for kind in KINDS):
            return [
                self._operation(network, kind, edge, judge, rng, round)
                for kind in KINDS
                for edge in _one(undecided_edges(network, kind), rng)
            ]
        made: list[Decision] = []
        for kind in KINDS:
            crowded = crowded_nodes(network, kind, self._in_edges)
            for node in _one(sorted(crowded), rng):
                made += thin_node(
                    network,
                    kind,
                    node,
                    crowded[node],
                    in_edges=self._in_edges,
                    judge=None if self._criterion == "random" else judge,
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
        # The edge that alone brings its node anything may not become `none`: the node would be zero.
        last = feeds(network, kind, pair[1]) == [edge]
        eligible = [name for name in names if not (last and name == "none")]
        lots = dict(zip(names, rng.permutation(len(names)).tolist(), strict=True))
        scores: dict[str, tuple[float, float]] = {}
        margin = 0.0
        if self._criterion == "random":
            kept = max(eligible, key=lots.__getitem__)
        else:
            variants = [partial(network.masked, kind, edge, name) for name in names]
            found = judge(network, variants)
            scores = {
                name: (score.accuracy, score.loss) for name, score in zip(names, found, strict=True)
            }
            # Lowest accuracy without it; then highest loss; then by lot, never by place in the list.
            ranked = sorted(eligible, key=lambda n: (scores[n][0], -scores[n][1], lots[n]))
            kept = ranked[0]
            margin = scores[ranked[1]][0] - scores[kept][0] if len(ranked) > 1 else 0.0
        removed = tuple(name for name in names if name != kept)
        for name in removed:
            network.prune(kind, edge, name)
        return Decision(
            round=round,
            cell=kind,
            where=edge_name(pair),
            kept=kept,
            removed=removed,
            scores=scores,
            margin=margin,
        )


def _one(candidates: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return one candidate drawn uniformly, or none where there are none."""
    return [candidates[int(rng.integers(len(candidates)))]] if candidates else []
