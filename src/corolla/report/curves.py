"""Curves over rounds, and the axes they stand on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from corolla.report.drawing import ROLE, stroke
from corolla.report.load import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Sequence[tuple[int, float]]


def plot(axes: Axes, curve: Curve, line: dict[str, Any], **more: Any) -> None:
    """Plot (round, value) pairs; few points, or points with gaps, get markers."""
    axes.plot([r for r, _ in curve], [v for _, v in curve], **{**line, **dotted(curve), **more})


def band(
    axes: Axes,
    spreads: Sequence[tuple[int, Spread]],
    index: int = 0,
    clip: tuple[float, float] | None = (0.0, 1.0),
) -> None:
    """Plot means with a band of one standard deviation; a single round becomes an error bar."""
    rounds = [r for r, _ in spreads]
    means = np.array([s.mean for _, s in spreads])
    deviations = np.array([s.std or 0.0 for _, s in spreads])
    if len(rounds) == 1:
        color = ROLE[stroke(index).role]
        axes.errorbar(rounds, means, yerr=deviations, color=color, fmt="o", capsize=4)
        return
    low, high = means - deviations, means + deviations
    if clip:
        low, high = np.clip(low, *clip), np.clip(high, *clip)
    color = ROLE[stroke(index).role]
    axes.fill_between(rounds, low, high, color=color, alpha=0.17, linewidth=0)
    plot(axes, list(zip(rounds, means.tolist(), strict=True)), stroke(index).line, linewidth=2.2)


def rounds_axis(axes: Axes) -> None:
    """Label the x axis with whole rounds, and keep the y axis to a handful of ticks."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("round")


def few_ticks(axes: Axes, across: int = 4) -> None:
    """Limit the ticks of both axes so that labels with units do not touch."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=across))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def dotted(points: Iterable[Any]) -> dict[str, Any]:
    """Return keyword arguments that mark each of few points; many need no marks."""
    xs = [point[0] for point in points]
    sparse = len(xs) <= 12
    return {"marker": "o", "markersize": 4.5} if sparse else {}
