"""Robust averages: what a round does against replies that would move an average at will.

Chosen by ``robust=`` for any method (conf/robust); docs/robust.md says what each rule is good for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from corolla.aggregation.holders import Holders
from corolla.aggregation.step_limit import limited_steps
from corolla.aggregation.trimming import trimmed_mean, trimmed_over_holders
from corolla.aggregation.updates import Update
from corolla.settings import Count, settings
from corolla.types import Arrays


@settings
class RobustRule:
    """Steps limited before they are averaged, extremes left out of the average, or both."""

    # Steps are at most this many times as long as the round's median step
    # (`corolla.aggregation.step_limit`); None: as long as they are.
    factor: Annotated[float, Field(ge=1)] | None
    # With fewer, nothing is left out of an entry's average, and with fewer in a round no step is limited:
    # of two values nobody knows the right one.
    min_holders: Annotated[Count, Field(ge=3)]

    @property
    def trims(self) -> bool:
        """Whether extremes are left out."""
        return False

    def cut(self, holders: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return how many of the highest, and as many of the lowest, are left out of so many."""
        return np.zeros_like(holders)

    def limited(self, sent: Arrays, updates: Sequence[Update]) -> list[Update]:
        """Return the updates with steps from ``sent`` as long as they may be."""
        if self.factor is None:
            return list(updates)
        return limited_steps(sent, updates, factor=self.factor, least=self.min_holders)

    def over_holders(
        self, old: NDArray[Any], mean: NDArray[Any], *, name: str, holders: Holders
    ) -> NDArray[Any]:
        """Return ``mean``, the plain average, without the extremes of every entry."""
        return trimmed_over_holders(old, mean, name=name, holders=holders, cut=self.cut)

    def mean(
        self, values: NDArray[Any], weights: Sequence[float] | NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Return the mean over the first axis without extremes; None where the plain mean is to be taken.

        ``values`` are finite arrays of one shape, such as logits, one per client of weight above 0, in the
        order of their clients.
        """
        if not self.trims or not self.cut(np.array([len(values)])).any():
            return None
        return trimmed_mean(values, weights, self.cut)[0]


@settings
class NormClip(RobustRule):
    """Steps limited to ``factor`` times the median; then the plain average."""

    factor: Annotated[float, Field(ge=1)]


@settings
class TrimmedMean(RobustRule):
    """Of h holders, floor(share * h) of the highest and of the lowest values are left out, at least one."""

    share: Annotated[float, Field(ge=0, lt=0.5)]  # 0 leaves nobody out

    @property
    def trims(self) -> bool:
        """Whether extremes are left out."""
        return self.share > 0

    def cut(self, holders: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return k of h; without the small number 0.29 of 100 would be 28."""
        if not self.trims:
            return np.zeros_like(holders)
        count = np.maximum(np.floor(self.share * holders + 1e-9).astype(np.intp), 1)
        return np.where(holders >= self.min_holders, count, 0)


@settings
class Median(RobustRule):
    """The middle value; of an even number the two in the middle, weighted."""

    @property
    def trims(self) -> bool:
        """Extremes are left out."""
        return True

    def cut(self, holders: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return all but the one or two in the middle."""
        return np.where(holders >= self.min_holders, (holders - 1) // 2, 0)


def robust_updates(
    rule: RobustRule | None, sent: Arrays, updates: Sequence[Update]
) -> list[Update]:
    """Return ``updates`` as `RobustRule.limited` does; as they are without a rule."""
    return list(updates) if rule is None else rule.limited(sent, updates)
