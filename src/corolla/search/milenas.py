"""MiLeNAS as SPIDER's searcher: weights of the operations, learned by gradient on both splits.

SPIDER (TMLR), appendix C; He et al., CVPR 2020 (MiLeNAS), first order. For `search_rounds` rounds each batch
also moves alpha <- alpha - lr (grad_alpha F_train + lambda grad_alpha F_val), outputs being mixed by
softmax(alpha); then every edge keeps its strongest operation and, with `topology`, every node its `in_edges`
strongest edges (as DARTS does; the paper does not say).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from corolla.search.decisions import Decision, Judge, LossOf, Search, crowded_nodes
from corolla.settings import Count, NonNegative, Positive, settings
from corolla.spaces.darts_cells import DartsNetwork, DartsPlan
from corolla.spaces.darts_genotype import KINDS, edge_name, edge_pairs
from corolla.spaces.darts_operations import CARRIES_NOTHING
from corolla.training.learner import Hook
from corolla.training.statistics import batch_statistics
from corolla.training.variants import Statistics


@settings
class MilenasSettings:
    """Settings of `MilenasSearch`."""

    search_rounds: Count  # of training with alpha
    lr: Positive  # eta_alpha
    validation_weight: NonNegative  # lambda_alpha
    # what a round is: one that the client took part in, or one of the federation
    clock: Literal["participations", "rounds"]
    topology: bool  # also choose the edges of every node
    in_edges: Count  # that a node keeps


class MilenasSearch(Search):
    """Learns alpha beside the weights, decides everything at once after ``search_rounds``."""

    statistics: Statistics = "batch"  # it scores no variants
    settings: MilenasSettings

    def __init__(self, *, settings: MilenasSettings) -> None:
        super().__init__(
            clock=settings.clock, topology=settings.topology, in_edges=settings.in_edges
        )
        self._rounds, self._lr = settings.search_rounds, settings.lr
        self._weight = settings.validation_weight

    def rounds_needed(self, plan: DartsPlan) -> int:
        """Return how many rounds a client needs to decide everything and train once after that."""
        return self._rounds + 1

    def due(self, elapsed: int, last: int | None) -> bool:
        """Tell whether the decisions are due after ``elapsed`` rounds."""
        return elapsed >= self._rounds

    def begin(self, network: DartsNetwork, memory: dict[str, Tensor]) -> None:
        """Have the network mix its operations by softmax(alpha), as long as they are undecided."""
        if not self.undecided(network):
            return
        shape = (len(edge_pairs(network.plan.nodes)), len(network.plan.operations))
        device = next(network.parameters()).device
        for kind in KINDS:
            alpha = memory.get(kind, torch.zeros(shape))
            memory[kind] = alpha.detach().to(device).requires_grad_()
        network.mixture = lambda: {kind: memory[kind].softmax(1) for kind in KINDS}

    def hook(self, memory: dict[str, Tensor], validation_loss: LossOf) -> Hook:
        """Return what moves alpha after each backward pass of the weights."""

        def move(network: nn.Module) -> None:
            alphas = [memory[kind] for kind in KINDS]
            on_train = [
                torch.zeros_like(alpha) if alpha.grad is None else alpha.grad for alpha in alphas
            ]
            for alpha in alphas:
                alpha.grad = None  # of the next batch alone
            with batch_statistics(network):
                on_validation = torch.autograd.grad(validation_loss(network), alphas)
            with torch.no_grad():
                for alpha, train, validation in zip(alphas, on_train, on_validation, strict=True):
                    alpha.sub_(self._lr * (train + self._weight * validation))

        return move

    def step(
        self,
        network: DartsNetwork,
        *,
        memory: dict[str, Tensor],
        judge: Judge,
        rng: np.random.Generator,
        round: int,
    ) -> list[Decision]:
        """Keep what alpha weighs most, on every edge and, with topology, at every node."""
        made: list[Decision] = []
        for kind in KINDS:
            strength = memory[kind].detach().softmax(1).cpu()
            # Where two weigh the same, the lot decides, not the place in the list.
            lots = torch.from_numpy(rng.permutation(strength.numel())).view(strength.shape)
            sustaining = self._sustaining(network, strength, lots)
            made += [
                self._operation(
                    network, kind, edge, strength[edge], lots[edge], round, edge in sustaining
                )
                for edge in range(len(edge_pairs(network.plan.nodes)))
            ]
            if self._topology:
                crowded = crowded_nodes(network, kind, self._in_edges)
                for node, edges in sorted(crowded.items()):
                    made.append(self._node(network, kind, node, edges, strength, lots, round))
        network.mixture = None
        memory.clear()
        return made

    def _sustaining(self, network: DartsNetwork, strength: Tensor, lots: Tensor) -> set[int]:
        """Return for each node the edge on which an operation that carries anything is strongest.

        There it stays, so that no node ends as noise alone.
        """
        operations = network.plan.operations
        carrying = [i for i, name in enumerate(operations) if name not in CARRIES_NOTHING]
        into: dict[int, list[int]] = {}
        for edge, (_, target) in enumerate(edge_pairs(network.plan.nodes)):
            into.setdefault(target, []).append(edge)
        return {
            max(
                edges,
                key=lambda e: max((float(strength[e, i]), int(-lots[e, i])) for i in carrying),
            )
            for edges in into.values()
        }

    def _operation(
        self,
        network: DartsNetwork,
        kind: str,
        edge: int,
        strength: Tensor,
        lots: Tensor,
        round: int,
        sustains: bool,
    ) -> Decision:
        operations, pair = network.plan.operations, edge_pairs(network.plan.nodes)[edge]
        # `none` only competes for how much an edge counts, as in DARTS: no edge becomes it.
        banned = CARRIES_NOTHING if sustains else {"none"}
        real = [i for i, name in enumerate(operations) if name not in banned]
        ranked = sorted(real, key=lambda i: (-float(strength[i]), int(lots[i])))
        kept = operations[ranked[0]]
        removed = tuple(name for name in network.alive()[kind][edge] if name != kept)
        for name in removed:
            network.prune(kind, edge, name)
        margin = float(strength[ranked[0]] - strength[ranked[1]]) if len(ranked) > 1 else 0.0
        return Decision(
            round=round,
            cell=kind,
            where=edge_name(pair),
            kept=kept,
            removed=removed,
            by="alpha",
            margin=margin,
            unit="weight",
        )

    def _node(
        self,
        network: DartsNetwork,
        kind: str,
        node: int,
        edges: list[int],
        strength: Tensor,
        lots: Tensor,
        round: int,
    ) -> Decision:
        pairs = edge_pairs(network.plan.nodes)
        operations = network.plan.operations
        chosen = {edge: operations.index(network.alive()[kind][edge][0]) for edge in edges}
        ranked = sorted(
            edges,
            key=lambda e: (-float(strength[e, chosen[e]]), int(lots[e, chosen[e]])),
        )
        carrying = [e for e in ranked if operations[chosen[e]] not in CARRIES_NOTHING]
        if carrying[0] not in ranked[: self._in_edges]:  # noise alone would be left
            ranked.remove(carrying[0])
            ranked.insert(self._in_edges - 1, carrying[0])
        kept, doomed = sorted(ranked[: self._in_edges]), ranked[self._in_edges :]
        for edge in doomed:
            network.prune(kind, edge)
        last, first = ranked[self._in_edges - 1], doomed[0]
        return Decision(
            round=round,
            cell=kind,
            where=str(node),
            kept="+".join(edge_name(pairs[edge]) for edge in kept),
            removed=tuple(edge_name(pairs[edge]) for edge in doomed),
            by="alpha",
            unit="weight",
            margin=float(strength[last, chosen[last]] - strength[first, chosen[first]]),
        )
