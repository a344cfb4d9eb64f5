"""An architecture with what a real evaluation of its subnet gave."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from corolla.spaces.architecture import Architecture


@dataclass(frozen=True)
class Measured:
    """One subnet's score on validation images."""

    architecture: Architecture
    loss: float  # mean cross-entropy, lower is better; not finite: the subnet diverged
    accuracy: float  # fraction, 0..1

    @property
    def rank(self) -> tuple[float, float, tuple[int, ...]]:
        """Sort key, best first: loss (not finite: last), higher accuracy, order of the choices."""
        loss = self.loss if math.isfinite(self.loss) else math.inf
        accuracy = self.accuracy if math.isfinite(self.accuracy) else 0.0
        return loss, -accuracy, self.architecture.choices


def distinct(measured: Iterable[Measured]) -> dict[Architecture, Measured]:
    """Return one pair per architecture, the best of several, in the order of the choices."""
    best: dict[Architecture, Measured] = {}
    for pair in sorted(measured, key=lambda pair: pair.rank):
        best.setdefault(pair.architecture, pair)
    return dict(sorted(best.items()))


def finite(measured: Iterable[Measured]) -> list[Measured]:
    """Return the pairs of `distinct` whose loss is a finite number: what can be learnt from."""
    return [pair for pair in distinct(measured).values() if math.isfinite(pair.loss)]
