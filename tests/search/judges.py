"""DARTS networks that are cheap to build, and judges whose scores are made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import nn

from corolla.spaces.darts_cells import DartsNetwork, DartsPlan
from corolla.spaces.darts_genotype import Alive, edge_pairs
from corolla.spaces.darts_mixed import MixedDartsSpace
from corolla.training.variants import Variant, VariantScore
from tests.conftest import make_space


@cache
def tiny_space(operations: str | tuple[str, ...] = "s2", nodes: int = 4) -> MixedDartsSpace:
    """Return the smallest DARTS space: one normal cell, then two that reduce."""
    space: MixedDartsSpace = make_space(
        "darts_s2_mixed_small",
        operations=operations,
        nodes=nodes,
        channels=2,
        cells=3,
        resolution=8,
        num_classes=4,
    )
    return space


class Watched(DartsNetwork):
    """Knows what is masked at the moment, so that a judge can score by it."""

    def __init__(self, plan: DartsPlan, alive: Alive) -> None:
        super().__init__(plan, alive)
        self.without: list[tuple[str, int, str | None]] = []

    @contextmanager
    def masked(self, kind: str, edge: int, operation: str | None = None) -> Iterator[None]:
        with super().masked(kind, edge, operation):
            self.without.append((kind, edge, operation))
            yield
            self.without.pop()


def watched(
    operations: str | tuple[str, ...] = "s2", nodes: int = 4, alive: Alive | None = None
) -> Watched:
    """Return a network, by default the mixed one, without numbers: no judge of this file runs it."""
    space = tiny_space(operations, nodes)
    with torch.device("meta"):
        return Watched(space.plan, alive or space.all_alive())


def scored(right: Sequence[float], losses: Sequence[float]) -> VariantScore:
    """Return a score of its images one by one; the same for all: differences without an error."""
    count = len(losses)
    return VariantScore(
        accuracy=right[0] if len(set(right)) == 1 else sum(right) / count,
        loss=losses[0] if len(set(losses)) == 1 else sum(losses) / count,
        num_examples=count,
        losses=torch.tensor(losses, dtype=torch.float64),
        right=torch.tensor(right, dtype=torch.float64),
    )


@dataclass
class HandMade:
    """A judge that gives (accuracy, loss) by what is left out, and notes what it saw."""

    score: Callable[[str, int, str | None], tuple[float, float]]
    calls: list[list[tuple[str, int, str | None]]] = field(default_factory=list)
    alive: list[dict[str, tuple[tuple[str, ...], ...]]] = field(default_factory=list)

    def __call__(self, network: nn.Module, variants: Sequence[Variant]) -> list[VariantScore]:
        assert isinstance(network, Watched)
        found, seen = [], []
        for variant in variants:
            with variant():
                (without,) = network.without  # one thing at a time
            seen.append(without)
            accuracy, loss = self.score(*without)
            found.append(scored([accuracy] * 10, [loss] * 10))
        self.calls.append(seen)
        self.alive.append(network.alive())
        return found


def by_operation(**scores: tuple[float, float]) -> HandMade:
    """Return a judge to whom only the operation that is left out matters."""
    return HandMade(lambda kind, edge, operation: scores[str(operation)])


def nobody(network: nn.Module, variants: Sequence[Variant]) -> list[VariantScore]:
    raise AssertionError("a random search asks nobody")


def in_edges(network: DartsNetwork, kind: str) -> dict[int, int]:
    """Return how many edges every node reads."""
    pairs, alive = edge_pairs(network.plan.nodes), network.alive()[kind]
    return {
        node: sum(bool(names) for names, pair in zip(alive, pairs, strict=True) if pair[1] == node)
        for node in range(2, 2 + network.plan.nodes)
    }
