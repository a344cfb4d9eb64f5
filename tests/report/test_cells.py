"""Cells out of choice indices, distances by hand, and who keeps them to oneself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corolla.report.cell_cards import cell_section
from corolla.report.cells import Network, differing, distances, searched
from corolla.report.darts_edges import edge_names
from corolla.report.figures import Figure, brief, matrix
from corolla.report.load import Run
from corolla.report.wording import percent
from corolla.spaces.darts_genotype import KINDS, edge_name, edge_pairs
from tests.report.synthetic_search import dimensions

# One node: edges 0-2 and 1-2 of both cells. 0 absent, 1 skip, 2 sep, 3 both.
_CHOICES = {"a": [1, 2, 3, 0], "b": [1, 0, 3, 0], "c": [2, 0, 1, 2]}


def _run(choices: dict[str, Any], rows: list[dict[str, Any]] | None = None, nodes: int = 1) -> Run:
    per_client = {name: {"choices": row} for name, row in choices.items()}
    summary = {"per_client": per_client, "dimensions": dimensions(nodes=nodes)}
    return Run(Path("run"), {}, {}, [], rows or [], summary)


def _texts(figure: Figure) -> list[list[str]]:
    lines: dict[str, list[str]] = {}
    for row in figure.rows:
        lines.setdefault(row["row"], []).append(row["text"])
    return list(lines.values())


def test_an_index_names_the_operations_of_its_bits() -> None:
    networks = searched(_run(_CHOICES)).networks
    assert [network.name for network in networks] == ["a", "b", "c"]
    assert networks[0].nodes == 1
    assert networks[0].cells == {
        "normal": (("skip_connect",), ("sep_conv_3x3",)),
        "reduce": (("skip_connect", "sep_conv_3x3"), ()),
    }


def test_distance_is_the_number_of_edges_that_differ() -> None:
    a, b, c = searched(_run(_CHOICES)).networks
    # a and b: the sep on 1-2; b and c: 0-2 of either cell and reduce 1-2; a and c: all four.
    assert (differing(a, b), differing(b, c), differing(a, c)) == (1, 3, 4)
    assert distances([a, b, c]).tolist() == [[0, 1, 4], [1, 0, 3], [4, 3, 0]]


def test_edges_are_numbered_as_in_the_space() -> None:
    for nodes in (1, 4):
        names = [f"{kind}.{edge_name(p)}" for kind in KINDS for p in edge_pairs(nodes)]
        assert edge_names(nodes) == names


def test_none_is_as_good_as_absent() -> None:
    candidates = ["none", "skip_connect"]
    names = ("normal.0-2", "normal.1-2", "reduce.0-2", "reduce.1-2")
    listed = [{"name": name, "choices": candidates} for name in names]
    summary = {"per_client": {"a": {"choices": [0, 1, 1, 1]}}, "dimensions": listed}
    (network,) = searched(Run(Path("run"), {}, {}, [], [], summary)).networks
    assert network.cells["normal"] == ((), ("skip_connect",))


@pytest.mark.parametrize(
    "choices",
    [
        {"a": [3, 3, 3, 3], "b": [3, 3, 3, 3]},  # nothing was chosen yet
        {"a": [1, 2, 3]},
        {"a": [1, 2, 3, 4]},
        {"a": "1230"},
        {"a": None},
    ],
)
def test_there_are_no_cells_without_choices(choices: dict[str, Any]) -> None:
    assert searched(_run(choices)).networks == []
    assert cell_section(_run(choices), searched(_run(choices))) is None


def test_other_spaces_have_no_cells() -> None:
    run = _run(_CHOICES)
    assert run.summary is not None
    run.summary["dimensions"][0]["name"] = "mb1.width"
    assert searched(run).networks == []


def test_a_client_that_does_not_tell_has_no_architecture() -> None:
    rows: list[dict[str, Any]] = [
        {"round": 1, "client": "a", "phase": 1.0, "decisions": [], "params": 5},
        {"round": 1, "client": "b", "phase": 1.0, "params": 5},
        {"round": 1, "client": "c", "params": 5},  # of a method without a search of its own
    ]
    run = _run(_CHOICES, rows)
    assert run.silent == {"b"}
    found = searched(run)
    assert [network.name for network in found.networks] == ["a", "c"]
    assert list(found.silent) == ["b"]
    assert "choices" not in run.per_client["b"]


def test_equal_networks_are_drawn_once_and_pairs_are_of_different_ones() -> None:
    run = _run({"a": [1, 2, 3, 0], "b": [1, 2, 3, 0], "c": [1, 0, 3, 0], "d": [2, 0, 1, 2]})
    section = cell_section(run, searched(run))
    assert section is not None
    assert [card.title for card in section.cards] == ["clients a and b", "client c", "client d"]
    assert "4\u00a0clients, 3 different networks" in section.caption
    assert [pair.title for pair in section.pairs] == [
        "Most different: client a and client d",
        "Most alike: client a and client c",
    ]
    assert [pair.note for pair in section.pairs] == [
        "4 of 4 possible edges differ",
        "1 of 4 possible edges differ",
    ]
    assert section.matrix is not None
    # ab 0, ac 1, ad 4, bc 1, bd 4, cd 3: 13 over six pairs.
    assert "on average 2.2. 1\u00a0pair of clients are the same." in section.matrix.note
    assert _texts(section.matrix)[0] == ["\u2013", "0", "1", "4"]


def test_one_architecture_for_all_has_no_difference_to_show() -> None:
    run = _run({"a": [1, 2, 1, 2], "b": [1, 2, 1, 2]})
    section = cell_section(run, searched(run))
    assert section is not None
    assert "All 2\u00a0clients have the same cells" in section.caption
    assert [card.title for card in section.cards] == ["clients a and b"]
    assert section.pairs == []


def test_many_networks_are_limited_and_counted() -> None:
    def digits(number: int) -> list[int]:
        return [number // 4**i % 4 for i in range(4)]

    run = _run({str(i): digits(i + 1) for i in range(100)})
    section = cell_section(run, searched(run))
    assert section is not None
    assert len(section.cards) == 12
    assert "88 networks are left out" in section.caption
    assert section.matrix is not None
    assert len(_texts(section.matrix)) == 24
    assert "Shown are the first 24 of 100 clients." in section.matrix.note


def test_the_legend_names_what_is_drawn() -> None:
    run = _run(_CHOICES)
    section = cell_section(run, searched(run))
    assert section is not None
    assert [words for _, words in section.legend] == [
        "sep 3: sep_conv_3x3",
        "skip: skip_connect",
        "several operations, still undecided",
    ]
    title, svg = section.cards[0].drawings[0]
    assert title == "normal cell"
    assert 'aria-label="client a, normal cell: 0 to 2 skip_connect, 1 to 2 sep_conv_3x3"' in svg
    assert "<title>input 1 to node 2: sep_conv_3x3</title>" in svg


def _cells(figure: Figure) -> list[tuple[str, float | None, str | None]]:
    return [(row["text"], row.get("strength"), row.get("role")) for row in figure.rows]


def test_colours_go_from_the_lowest_to_the_highest_value() -> None:
    table = matrix("t", "", ["a", "b"], [[0.5, 0.75], [1.0, None]], percent)
    assert _cells(table) == [
        *(("50.0", 0.0, "s1"), ("75.0", 0.5, "s1")),
        *(("100.0", 1.0, "s1"), ("\u2013", None, None)),
    ]
    assert [row["own"] for row in table.rows] == [True, False, False, True]


def test_signed_values_have_a_colour_for_either_sign_from_zero() -> None:
    gains = [1.0, -1.0]
    values = [[0.0, -0.5], [0.25, 0.0]]
    table = matrix("t", "", ["a", "b"], values, percent, signed=True, extra_head="g", extra=gains)
    assert _cells(table) == [
        *(("0.0", None, None), ("-50.0", 0.5, "s2"), ("100.0", 1.0, "s1")),
        *(("25.0", 0.25, "s1"), ("0.0", None, None), ("-100.0", 1.0, "s2")),
    ]


def test_long_names_keep_both_ends_and_stay_apart() -> None:
    names = [f"hospital-north-{i}" for i in range(2)]
    table = matrix("t", "", names, [[0.0, 1.0], [1.0, 0.0]], percent)
    assert [row["row"] for row in table.rows[::2]] == ["hospi\u2026rth-0", "hospi\u2026rth-1"]
    assert table.rows[0]["client"] == "hospital-north-0, hospital-north-0"
    assert len(set(brief(["a-long-first-x", "a-long-other-x"], 6).values())) == 2


def test_distances_of_very_many_networks_are_those_of_the_first_400() -> None:
    cells = {"normal": (("skip_connect",), ()), "reduce": ((), ())}
    assert distances([Network(("a",), cells, 1)] * 401).shape == (400, 400)
