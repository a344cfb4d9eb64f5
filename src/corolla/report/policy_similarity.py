"""Do clients with like data get like policies? PerFedRLNAS, Theorem 1, as a chart over pairs of clients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from corolla.report.curves import few_ticks
from corolla.report.drawing import Chart, draw, percent_axis, stroke
from corolla.report.load import Record, Run
from corolla.report.wording import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CLIENTS = 64  # whose pairs are drawn: 2,016 of them
_FEWEST_PAIRS = 3


def policy_similarity(run: Run, uid: str) -> Chart | None:
    """Return similarity of policies against similarity of label distributions, a dot per pair.

    Similarity is one minus the total variation distance: 1 for the same distribution, 0 for two that
    share nothing; of policies the mean over the dimensions that have a choice. None where a run has no
    policies, or fewer than three pairs of clients.
    """
    known = [
        (labels, policy)
        for record in run.per_client.values()
        if (labels := _labels(record)) is not None and (policy := _policy(record)) is not None
    ]
    step = max(1, -(-len(known) // _MOST_CLIENTS))
    pairs = list(itertools.combinations(known[::step], 2))
    if len(pairs) < _FEWEST_PAIRS:
        return None
    xs = [_shared([a[0]], [b[0]]) for a, b in pairs]
    ys = [_shared(a[1], b[1]) for a, b in pairs]
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None  # all policies as they began: there is no relation to show
    rank = float(spearmanr(xs, ys).statistic)

    def paint(axes: Axes) -> None:
        look: dict[str, Any] = {"markersize": 3, "markeredgewidth": 0, "alpha": 0.55}
        axes.plot(xs, ys, **(stroke(0).dots | look))
        few_ticks(axes)
        axes.xaxis.set_major_formatter(percent_axis())
        axes.yaxis.set_major_formatter(percent_axis())
        axes.set_xlabel("likeness of label distributions")

    text = (
        f"Likeness of policies against likeness of label distributions, {plural(len(pairs), 'pair')} of "
        f"clients: Spearman correlation {rank:+.2f}."
    )
    svg = draw(uid, paint, description=text)
    title = "Like data, like policies?"
    return Chart(title, f"likeness of policies; rank correlation {rank:+.2f}", text, svg)


def _shared(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> float:
    return float(np.mean([np.minimum(p, q).sum() for p, q in zip(a, b, strict=True)]))


def _labels(record: Record) -> NDArray[np.float64] | None:
    counts = np.asarray(record.get("label_counts") or [], dtype=np.float64)
    return counts / counts.sum() if counts.size and counts.sum() > 0 else None


def _policy(record: Record) -> list[NDArray[np.float64]] | None:
    rows = record.get("policy")
    return [np.asarray(row, dtype=np.float64) for row in rows] if rows else None
