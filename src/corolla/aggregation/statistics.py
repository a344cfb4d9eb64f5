"""BatchNorm's running statistics among named arrays: no gradient moves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from corolla.types import Arrays

Statistics = Literal["aggregate", "keep"]
"""What the server makes of them: averaged like weights, or its own kept (to recalibrate)."""

STATISTICS = ("running_mean", "running_var")
"""Last parts of the names of running statistics."""


def is_statistic(name: str) -> bool:
    """Tell whether an array of this name holds running statistics."""
    return name.rpartition(".")[2] in STATISTICS


def moments_of(statistics: Mapping[str, np.ndarray]) -> Arrays:
    """Return means as they are, and in the place of variances the means of squares: both can be averaged."""
    return {name: array + _squared_mean(statistics, name) for name, array in statistics.items()}


def statistics_of(moments: Mapping[str, np.ndarray]) -> Arrays:
    """Invert `moments_of`; of averages this is the variance within clients and between them."""
    return {
        name: np.maximum(array - _squared_mean(moments, name), 0).astype(array.dtype)
        if _is_variance(name)
        else array
        for name, array in moments.items()
    }


def _is_variance(name: str) -> bool:
    return name.rpartition(".")[2] == STATISTICS[1]


def _squared_mean(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | float:
    """Return what a variance and a mean of squares differ by; 0 for all but these."""
    mean, _, _ = name.rpartition(".")
    return np.square(arrays[f"{mean}.{STATISTICS[0]}"]) if _is_variance(name) else 0.0
