from __future__ import annotations

from collections.abc import Mapping

from corolla.spaces.architecture import Architecture, Choice
from corolla.spaces.space import SearchSpace


def from_values(space: SearchSpace, values: Mapping[str, Choice]) -> Architecture:
    """Invert `SearchSpace.values`."""
    return Architecture(tuple(d.choices.index(values[d.name]) for d in space.dimensions))
