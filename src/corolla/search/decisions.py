"""What a search on a DARTS network decided, and on what evidence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from corolla.spaces.darts_cells import DartsNetwork, DartsPlan
from corolla.spaces.darts_genotype import KINDS, edge_pairs
from corolla.spaces.darts_operations import CARRIES_NOTHING
from corolla.training.learner import Hook
from corolla.training.variants import Statistics, Variant, VariantScore

Judge = Callable[[nn.Module, Sequence[Variant]], list[VariantScore]]
"""Scores variants of a network on validation images: `corolla.training.variants.VariantScorer`."""

LossOf = Callable[[nn.Module], Tensor]
"""Cross-entropy of a network on the next validation batch."""


class Search(ABC):
    """Turns a client's mixed network into its own, step by step, as `corolla.search.progressive` does.

    ``memory`` holds a search's own tensors, finite, from round to round; the client keeps it on its disk.
    """

    clock: str  # participations | rounds: what the rounds below are counted in
    statistics: Statistics  # BatchNorm's while variants are scored

    def __init__(self, *, clock: str, topology: bool, in_edges: int) -> None:
        """With ``topology`` nodes are decided, too: each keeps ``in_edges`` edges."""
        self.clock = clock
        self._topology, self._in_edges = topology, in_edges

    @abstractmethod
    def rounds_needed(self, plan: DartsPlan) -> int:
        """Return how many rounds a client needs to decide everything and train once after that."""

    @abstractmethod
    def due(self, elapsed: int, last: int | None) -> bool:
        """Tell whether a step is due after ``elapsed`` rounds, the last one having been at ``last``."""

    def undecided(self, network: DartsNetwork) -> int:
        """Return how many edges, and nodes with too many of them, are still to be decided."""
        edges = sum(len(undecided_edges(network, kind)) for kind in KINDS)
        crowded = sum(len(crowded_nodes(network, kind, self._in_edges)) for kind in KINDS)
        return edges + crowded if self._topology else edges

    def begin(self, network: DartsNetwork, memory: dict[str, Tensor]) -> None:  # noqa: B027 - most need not
        """Prepare a network that was just built from its saved state, if there is anything to."""

    def hook(self, memory: dict[str, Tensor], validation_loss: LossOf) -> Hook | None:
        """Return what follows each backward pass of the undecided network: nothing, if evaluations decide."""
        return None

    @abstractmethod
    def step(
        self,
        network: DartsNetwork,
        *,
        memory: dict[str, Tensor],
        judge: Judge,
        rng: np.random.Generator,
        round: int,
    ) -> list[Decision]:
        """Decide what is due and delete what was not chosen from the network."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One choice: an operation for an edge, or an edge that a node loses.

    ``scores`` holds for each candidate accuracy (0..1) and mean loss of the network *without* it on the
    validation images; it is empty where nothing was measured. ``by`` names what decided: ``loss`` or
    ``accuracy``; ``cost``, where the best were as good as equal; ``lot``; ``only``, where nothing else
    could be chosen; ``alpha``. ``margin``: by how much the choice is ahead of the runner-up, in ``unit``;
    below 0 where of a near tie the cheaper was taken. ``error``: the margin's standard error.
    """

    round: int  # federation round, before whose training it was made
    cell: str  # normal | reduce
    where: str  # the edge (0-2), or the node (4)
    kept: str  # operation, or the edges that are left, joined by +
    removed: tuple[str, ...]  # operations, or edges
    by: str
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    margin: float = 0.0
    unit: str = ""  # loss | accuracy | weight; empty: nothing was measured
    error: float = 0.0

    def __str__(self) -> str:
        """Return one line for the log."""
        without = ", ".join(f"{n} {100 * a:.1f} %, {x:.3f}" for n, (a, x) in self.scores.items())
        apart = f"{self.unit} {self.margin:.3f} apart"
        evidence = f" (accuracy and loss without {without}; by {self.by}, {apart})"
        return f"{self.cell} {self.where} keeps {self.kept}{evidence if without else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able record."""
        return {
            "round": self.round,
            "cell": self.cell,
            "where": self.where,
            "kept": self.kept,
            "removed": list(self.removed),
            "scores": {name: list(pair) for name, pair in self.scores.items()},
            "by": self.by,
            "margin": self.margin,
            "unit": self.unit,
            "error": self.error,
        }


def undecided_edges(network: DartsNetwork, kind: str) -> list[int]:
    """Return the edges of a kind of cell on which several operations are left."""
    return [edge for edge, names in enumerate(network.alive()[kind]) if len(names) > 1]


def crowded_nodes(network: DartsNetwork, kind: str, in_edges: int) -> dict[int, list[int]]:
    """Return node -> its edges, for the nodes that read more than ``in_edges`` others."""
    reading: dict[int, list[int]] = {}
    for edge, ((_, target), names) in enumerate(
        zip(edge_pairs(network.plan.nodes), network.alive()[kind], strict=True)
    ):
        if names:
            reading.setdefault(target, []).append(edge)
    return {node: edges for node, edges in reading.items() if len(edges) > in_edges}


def carrying_edges_into(network: DartsNetwork, kind: str, node: int) -> list[int]:
    """Return the edges into ``node`` that bring it anything; ``none`` and ``noise`` alone do not."""
    pairs = edge_pairs(network.plan.nodes)
    return [
        edge
        for edge, names in enumerate(network.alive()[kind])
        if pairs[edge][1] == node and set(names) - CARRIES_NOTHING
    ]
