"""BatchNorm's running statistics among named arrays: no gradient moves them."""

from __future__ import annotations

from typing import Literal

Statistics = Literal["aggregate", "keep"]
"""What the server makes of them: averaged like weights, or its own kept (to recalibrate)."""

STATISTICS = ("running_mean", "running_var")
"""Last parts of the names of running statistics."""


def is_statistic(name: str) -> bool:
    """Tell whether an array of this name holds running statistics."""
    return name.rpartition(".")[2] in STATISTICS
