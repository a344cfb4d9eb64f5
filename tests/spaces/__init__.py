from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from corolla.spaces.architecture import Architecture, Choice
from corolla.spaces.space import SearchSpace
from corolla.types import Arrays


def from_values(space: SearchSpace, values: Mapping[str, Choice]) -> Architecture:
    """Invert `SearchSpace.values`."""
    return Architecture(tuple(d.choices.index(values[d.name]) for d in space.dimensions))


def trained_statistics(state: Arrays, deviation: float = 0.2) -> Arrays:
    """Give BN statistics and affine parameters values of their own, as training would."""
    rng = np.random.default_rng(1)
    changed = dict(state)
    for name, array in state.items():
        if name.endswith("running_var"):
            changed[name] = rng.uniform(0.5, 2.0, array.shape).astype(np.float32)
        elif name.endswith("running_mean") or ".bn." in name:
            changed[name] = (array + rng.normal(0, deviation, array.shape)).astype(np.float32)
    return changed
