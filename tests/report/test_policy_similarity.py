"""Theorem 1's chart: likeness of policies against likeness of label distributions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corolla.report.client_figures import policy_similarity
from corolla.report.load import Run


def _run(per_client: dict[str, dict[str, Any]]) -> Run:
    return Run(
        path=Path("run"),
        config={},
        environment={},
        rounds=[],
        clients=[],
        summary={"per_client": per_client},
    )


def _client(labels: list[int], *policy: list[float]) -> dict[str, Any]:
    return {"label_counts": labels, "policy": [list(row) for row in policy]}


def test_like_data_and_like_policies_correlate() -> None:
    # By hand, as sums of minima. Labels: ab 0.5, bc 0.2 + 0.1 = 0.3, ac 0.
    # Policies, the mean of two dimensions: ab (0.75 + 1) / 2, bc (0.5 + 0.5) / 2, ac (0.25 + 0.5) / 2.
    chart = policy_similarity(
        _run(
            {
                "a": _client([10, 0, 0], [1.0, 0.0], [0.5, 0.5]),
                "b": _client([5, 4, 1], [0.75, 0.25], [0.5, 0.5]),
                "c": _client([0, 2, 8], [0.25, 0.75], [0.0, 1.0]),
            }
        )
    )
    assert chart is not None
    assert "3\u00a0pairs" in chart.note
    assert "+1.00" in chart.note  # ab > bc > ac in both


def test_there_is_no_chart_without_policies_or_with_two_clients() -> None:
    clients = {name: _client([1, i], [0.5, 0.5]) for i, name in enumerate("ab")}
    assert policy_similarity(_run(clients)) is None
    assert policy_similarity(_run({n: {"label_counts": [1, 2]} for n in "abcd"})) is None


def test_policies_that_never_moved_have_no_relation_to_show() -> None:
    clients = {name: _client([1, i, 3], [0.5, 0.5]) for i, name in enumerate("abcd")}
    assert policy_similarity(_run(clients)) is None


def test_many_clients_are_thinned_out() -> None:
    clients = {
        str(i): _client([1 + i, 200 - i], [i / 200, 1 - i / 200], [0.5, 0.5]) for i in range(200)
    }
    chart = policy_similarity(_run(clients))
    assert chart is not None
    # Every fourth of 200: 50 clients, 50 * 49 / 2 pairs; both likenesses fall with the distance alone.
    assert "1,225\u00a0pairs" in chart.note
    assert "+1.00" in chart.note
