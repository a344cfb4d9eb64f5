"""Rows of charts by hand, and that every kind of chart is drawn with all its rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import vl_convert

from corolla.report.client_figures import client_figures, client_rows
from corolla.report.compare_figures import over_seeds
from corolla.report.embed import Charts
from corolla.report.figures import (
    BYTES,
    MEBIBYTES,
    PERCENT,
    Axis,
    Figure,
    curves,
    points,
    spreads,
    table,
)
from corolla.report.load import Run, Spread
from corolla.report.plots import CONFIG, spec
from corolla.report.round_figures import accuracy, round_figures


def _run(clients: dict[str, dict[str, Any]], rounds: list[dict[str, Any]] | None = None) -> Run:
    return Run(Path("run"), {}, {}, rounds or [], [], {"per_client": clients})


def _svg(figure: Figure) -> str:
    content = spec(figure)
    alt.Chart.from_dict(content)  # by Vega-Lite's schema, which a report takes no time for
    content["config"] = CONFIG
    if content.get("width") == "container":
        content["width"] = 340
    return str(vl_convert.vegalite_to_svg(content))


def _marks(svg: str, kind: str) -> int:
    """Return how many marks of a kind the plot has, without the legend's."""
    groups = re.findall(rf'<g class="mark-{kind} role-mark[^>]*>(.*?)</g>', svg, flags=re.DOTALL)
    return sum(group.count("<path") + group.count("<text") for group in groups)


def test_rounds_and_values_are_those_recorded_whatever_else_is_missing() -> None:
    lines = [
        {"round": 1, "test_accuracy": 0.25, "bytes_up": 2**20},
        {"round": 3, "test_accuracy": float("nan"), "bytes_up": 3 * 2**20, "bytes_down": 2**20},
        {"round": 4, "test_accuracy": 0.5, "evaluation": {"global": None}},
    ]
    figures = {figure.title: figure for figure in round_figures(_run({}, lines))}
    assert list(figures) == ["Test accuracy", "Traffic"]
    shown = [(row["x"], row["y"]) for row in figures["Test accuracy"].rows]
    assert shown == [(1, 0.25), (4, 0.5)]
    assert [(row["x"], row["y"]) for row in figures["Traffic"].rows] == [(3, 1), (1, 1), (3, 3)]
    assert figures["Traffic"].y.title == "MiB"
    words = "participants of the round: 25.0 % at round 1 to 50.0 % at round 4."
    assert figures["Test accuracy"].words == f"Test accuracy, by round. {words}"


def test_clients_that_lack_a_number_are_in_the_charts_of_the_others() -> None:
    run = _run(
        {
            "a": {"test_accuracy": 0.5, "params": 10, "memory_budget_mib": 4},
            "b": {"test_accuracy": 0.25, "peak_memory_mib": 3.0},
            "c": {"test_accuracy": None, "params": 30},  # failed in every round
            "d": {"test_accuracy": 0.75, "params": 20},
        }
    )
    assert [row.get("rank") for row in client_rows(run)] == [2, 1, None, 3]
    figures = {figure.title: figure for figure in client_figures(run)}
    # Drawn are a, b and d by rank; a and d by parameters; nobody has both a use and a budget here.
    assert _marks(_svg(figures["Accuracy of every client"]), "symbol") == 3
    assert _marks(_svg(figures["Accuracy against parameters"]), "symbol") == 2
    assert figures["Accuracy against parameters"].words.endswith("50.0 % at 10 to 75.0 % at 20.")
    assert "Memory against budget" not in figures


def test_a_single_evaluation_is_drawn_with_its_deviation() -> None:
    scores = {"test_accuracy": {"mean": 0.9, "std": 0.2}}
    lines: list[dict[str, Any]] = [{"round": r, "test_accuracy": r / 40} for r in range(1, 21)]
    lines[-1]["evaluation"] = {"personalised": scores}
    figure = accuracy(_run({}, lines))
    assert figure is not None
    alone = figure.rows[0]
    assert (alone["x"], alone["sd"], alone["low"], alone["high"]) == (20, 0.2, 0.7, 1.0)
    svg = _svg(figure)
    visible = re.findall(r'<g class="mark-symbol role-mark.*?</g>', svg, flags=re.DOTALL)[0]
    assert visible.count('opacity="1"') == 1  # of 21 points the one that no line shows
    assert 'class="mark-rule' in svg


def test_means_over_seeds_are_of_the_rounds_that_all_have() -> None:
    means = over_seeds([{1: 0.5, 2: 0.75, 3: 1.0}, {2: 0.25, 3: 0.5}, {}])
    assert {r: s.mean for r, s in means.items()} == {2: 0.5, 3: 0.75}


@pytest.mark.parametrize(
    ("top", "name", "y"), [(6.5 * 2**20, "MiB", 6.5), (0, "B", 0), (1.2, "B", 1.2)]
)
def test_values_are_told_in_the_unit_that_suits_the_largest(
    top: float, name: str, y: float
) -> None:
    figure = curves("t", "n", points("s", [(1, 0.0), (2, top)]), y=BYTES)
    assert figure is not None
    assert (figure.y.title, figure.rows[-1]["y"]) == (name, y)
    assert f"{BYTES.said(top)} at round 2." in figure.words


def test_labels_are_written_out() -> None:
    rows = [{"client": str(i), "use": 90.0 + i, "budget": 100.0 + i} for i in range(40)]
    x, y = Axis("budget", "budget, MiB", MEBIBYTES), Axis("use", "MiB", MEBIBYTES)
    svg = _svg(Figure(kind="dots", title="t", note="n", rows=rows, x=x, y=y, line="equal"))
    assert ">120<" in svg
    assert "e+" not in svg  # as in 1.2e+2


def test_series_differ_in_more_than_colour() -> None:
    rows = [row for i in range(10) for row in points(f"s{i}", [(1, i), (2, i)])]
    figure = curves("t", "n", rows)
    assert figure is not None
    symbols = re.findall(
        r'role-legend-symbol.*?<path[^>]* d="([^"]*)"[^>]*fill="([^"]*)"', _svg(figure), re.DOTALL
    )
    assert len(set(symbols)) == len(symbols) == 10


def test_a_legend_switches_series_and_a_single_one_has_none() -> None:
    two = curves("t", "n", [*points("a", [(1, 1)]), *points("b", [(1, 2)])])
    one = curves("t", "n", points("a", [(1, 1), (2, 2)]))
    assert two is not None
    assert one is not None
    switches = [p for p in spec(two)["params"] if "legend" in str(p.get("bind"))]
    assert [value["series"] for value in switches[0]["value"]] == ["a", "b"]
    assert "role-legend" in _svg(two)
    assert "role-legend" not in _svg(one)


def test_one_table_is_written_once_for_all_its_charts() -> None:
    rows = [{"client": str(i), "a": i, "b": 2.0000001 * i, "c": i} for i in range(4)]
    charts = Charts()
    for column in "ab":
        x, y = Axis(column, column), Axis("c", "c", PERCENT)
        charts.place(Figure(kind="dots", title="t", note="n", rows=rows, x=x, y=y))
    charts.place(table("</script>", "n", [{"row": "a", "column": "</script>", "text": "<"}]))
    content = charts.content()
    assert "<" not in content
    read = json.loads(content)
    assert list(read["specs"]) == ["chart-1", "chart-2", "chart-3"]
    first, _ = read["tables"].values()
    assert first["columns"] == ["client", "a", "b", "c"]
    assert first["rows"][1] == ["1", 1, 2.0, 1]  # six digits


def test_a_deviation_is_cut_where_no_accuracy_can_be() -> None:
    (row,) = spreads("s", [(1, Spread(0.9, 0.25))], clip=(0.0, 1.0))
    assert (row["low"], row["high"]) == (0.65, 1.0)
