"""How the edges of a DARTS cell are numbered; as in `corolla.spaces`, which would bring torch along."""

from __future__ import annotations

KINDS = ("normal", "reduce")


def edge_pairs(nodes: int) -> tuple[tuple[int, int], ...]:
    """Return (source, target) of all edges in DARTS' order: (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), ..."""
    return tuple((source, target) for target in range(2, 2 + nodes) for source in range(target))


def edge_names(nodes: int) -> list[str]:
    """Return the dimensions' names, ``normal.0-2`` and on."""
    return [f"{kind}.{s}-{t}" for kind in KINDS for s, t in edge_pairs(nodes)]
