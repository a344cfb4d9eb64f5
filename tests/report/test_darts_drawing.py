"""Drawings of DARTS cells: well-formed, every edge labelled, nothing on top of another."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.report.darts_drawing import draw_cells, draw_compact, draw_difference, draw_genotype
from corolla.report.darts_looks import brief, short_name
from corolla.spaces.darts_genotype import Genotype, edge_pairs
from corolla.spaces.darts_operations import OPERATIONS

CELLS = st.tuples(*[st.sampled_from(OPERATIONS)] * 14)


def _texts(svg: str) -> list[str]:
    return [
        element.text or ""
        for element in ElementTree.fromstring(svg).iter()
        if _tag(element) == "text"
    ]


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """Return left, top, right, bottom of every rectangle; a label's ground and its tint once."""
    found = {
        tuple(float(element.get(key, "")) for key in ("x", "y", "width", "height"))
        for element in ElementTree.fromstring(svg).iter()
        if _tag(element) == "rect"
    }
    return [(x, y, x + width, y + height) for x, y, width, height in found]


@settings(max_examples=25)
@given(normal=CELLS, reduce=CELLS)
def test_every_edge_has_its_label(normal: tuple[str, ...], reduce: tuple[str, ...]) -> None:
    svg = draw_genotype(Genotype(4, normal, reduce))
    drawn = [name for name in (*normal, *reduce) if name != "none"]
    assert sorted(text for text in _texts(svg) if text in OPERATIONS) == sorted(drawn)
    assert svg.count('<g class="edge">') == len(drawn)
    for (source, target), name in zip(edge_pairs(4), normal, strict=True):
        words = (
            f"<title>{'input' if source < 2 else 'node'} {source} to node {target}: {name}</title>"
        )
        assert words in svg or name == "none"


@settings(max_examples=25)
@given(cell=CELLS)
def test_boxes_and_labels_never_overlap_and_lie_inside(cell: tuple[str, ...]) -> None:
    svg = draw_cells({"": cell})
    boxes = _boxes(svg)
    assert len(boxes) == 7 + sum(name != "none" for name in cell)  # 6 nodes, the output, the labels
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', svg)[0])
    assert min(min(x, y) for x, y, _, _ in boxes) >= 0
    assert all(right <= width and bottom <= height for _, _, right, bottom in boxes)


def test_small_cell_by_hand() -> None:
    svg = draw_cells({"": ["sep_conv_3x3", "none"]}, nodes=1)
    assert _texts(svg) == ["sep_conv_3x3", "input 0", "input 1", "node 2", "output"]
    assert 'aria-label="0 to 2 sep_conv_3x3"' in svg
    assert "<title>input 0 to node 2: sep_conv_3x3</title>" in svg
    # A 12-letter label is 12 * 6.3 + 14 = 89.6 wide, a column 33 + 8 + 10 + 89.6 + 8 = 148.6, so node 2's
    # centre stands at 10 + 33 + 148.6 = 191.6; the label ends 8 before it, 22 below input 0's line at 23.
    assert '<rect x="94" y="36" width="89.6" height="18"' in svg
    # Input 0's line runs from its box to the tap, 10 before the label; input 1 has none.
    assert 'd="M76 23H84"' in svg
    assert 'd="M84 23V39q0 6 6 6H94"' in svg
    assert (
        'd="M191.6 45V105"' in svg
    )  # down to node 2, 100 below input 0, less half a box and the arrow


def test_nodes_without_inputs_are_marked() -> None:
    texts = _texts(draw_cells({"": ["skip_connect", "none", "none", "none", "none"]}, nodes=2))
    assert "node 2" in texts
    assert "node 3 = 0" in texts
    assert 'aria-label="no edges"' in draw_cells({"": ["none"] * 14})


def test_several_operations_on_an_edge() -> None:
    svg = draw_cells(
        {"s3": [("none", "skip_connect", "sep_conv_3x3")] * 2, "full": [OPERATIONS, ()]}, nodes=1
    )
    assert _texts(svg).count("skip_connect + sep_conv_3x3") == 2
    assert "8 operations" in _texts(svg)
    assert f"input 0 to node 2: {' + '.join(OPERATIONS[1:])}</title>" in svg


def test_inline_takes_the_pages_colours_and_a_file_brings_its_own() -> None:
    inline = draw_cells({"": ["sep_conv_3x3", "max_pool_3x3"]}, nodes=1)
    file = draw_cells({"": ["sep_conv_3x3", "max_pool_3x3"]}, nodes=1, standalone=True)
    used = set(re.findall(r"var\(--(\w+)\)", inline))
    assert {"s1", "s2", "ink", "muted", "surface"} == used
    assert "<style" not in inline
    assert not re.search("#[0-9a-f]{3}", inline)
    assert 'xmlns="http://www.w3.org/2000/svg"' in file
    style = file[file.index("<style>") : file.index("</style>")]
    assert all(style.count(f"--{role}:#") == 2 for role in used)  # light and dark
    assert "prefers-color-scheme:dark" in style


def test_titles_are_escaped_and_nothing_runs() -> None:
    svg = draw_cells(
        {'<script>alert(1)</script> & "x"': ["noise", "none"]}, nodes=1, standalone=True
    )
    tags = {_tag(element) for element in ElementTree.fromstring(svg).iter()}
    assert tags <= {"svg", "style", "g", "title", "path", "rect", "circle", "text"}
    assert '<script>alert(1)</script> & "x"' in _texts(svg)


def test_a_cell_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a cell of 4 nodes has 14 edges, got 2 operations"):
        draw_cells({"": ["none", "none"]})


MIXED = st.tuples(*[st.lists(st.sampled_from(OPERATIONS[1:]), max_size=2, unique=True)] * 14)


@settings(max_examples=25)
@given(cell=MIXED)
def test_compact_drawings_have_all_edges_at_one_scale(cell: tuple[list[str], ...]) -> None:
    svg = draw_compact(cell)
    alive = [names for names in cell if names]
    assert svg.count('<g class="edge">') == len(alive)
    for names in alive:
        assert f": {' + '.join(names)}</title>" in svg
    # Columns do not depend on what is drawn: 2 * 2 + 19 + 5 * 54 pixels, and 8 px a letter at most.
    assert re.search(r'viewBox="0 0 ([\d.]+)', svg).group(1) == re.search(  # type: ignore[union-attr]
        r'viewBox="0 0 ([\d.]+)', draw_compact([()] * 14)
    ).group(1)  # type: ignore[union-attr]
    boxes = _boxes(svg)
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_a_compact_edge_with_several_operations_shows_all_their_colours() -> None:
    svg = draw_compact([("skip_connect", "sep_conv_3x3"), "max_pool_3x3"], nodes=1, said="x: ")
    assert _texts(svg) == ["2 ops", "max", "0", "1", "2", "out"]
    assert set(re.findall(r'<path [^>]*fill="var\(--(s\d)\)"', svg)) == {"s1", "s3"}
    assert 'aria-label="x: 0 to 2 skip_connect + sep_conv_3x3, 1 to 2 max_pool_3x3"' in svg


def test_a_difference_tells_whose_each_edge_is() -> None:
    svg = draw_difference(
        ["skip_connect", "sep_conv_3x3", "sep_conv_3x3", (), "max_pool_3x3"],
        ["skip_connect", "skip_connect", (), "avg_pool_3x3", "max_pool_3x3"],
        names=("ours", "theirs"),
        nodes=2,
    )
    titles = re.findall(r"<title>(.*?)</title>", svg)
    assert titles == [
        "input 0 to node 2: skip_connect, both",
        "input 1 to node 2: sep_conv_3x3 for ours, skip_connect for theirs",
        "input 0 to node 3: sep_conv_3x3, ours only",
        "input 1 to node 3: avg_pool_3x3, theirs only",
        "node 2 to node 3: max_pool_3x3, both",
    ]
    label = (
        "1 to 2 sep_conv_3x3 for ours, skip_connect for theirs, 0 to 3 sep_conv_3x3, ours only, "
        "1 to 3 avg_pool_3x3, theirs only"
    )
    assert f'aria-label="{label}"' in svg
    alike, other, first, second, _ = re.findall(r'<g class="edge">(.*?)</g>', svg)
    assert set(re.findall(r"--(\w+)", alike)) == {"surface", "muted"}
    assert "sep 3 | skip" in other
    assert {"s1", "s2"} <= set(re.findall(r"--(\w+)", other))
    assert set(re.findall(r"--(\w+)", first)) == {"surface", "s1"}
    assert set(re.findall(r"--(\w+)", second)) == {"surface", "s2"}
    assert "stroke-dasharray" in second  # not by colour alone
    assert "stroke-dasharray" not in first


def test_equal_cells_have_nothing_coloured() -> None:
    cell = ["skip_connect", "sep_conv_3x3"]
    svg = draw_difference(cell, cell, names=("a", "b"), nodes=1)
    assert 'aria-label="a and b have the same cell"' in svg
    assert not re.search(r"--s\d", svg)


def test_as_many_but_other_operations_are_named() -> None:
    pairs = (("skip_connect", "noise"), ("skip_connect", "sep_conv_3x3"))
    svg = draw_difference([pairs[0], ()], [pairs[1], ()], names=("a", "b"), nodes=1)
    assert "skip+noise | skip+sep 3" in _texts(svg)


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        ("sep_conv_5x5", "sep 5"),
        ("dil_conv_3x3", "dil 3"),
        ("skip_connect", "skip"),
        ("max_pool_3x3", "max"),
        ("something_new", "somet…"),
        (("a", "b"), "2 ops"),
    ],
)
def test_short_names(operations: str | tuple[str, ...], words: str) -> None:
    assert short_name(operations) == words


def test_only_candidates_of_operations_are_shortened() -> None:
    assert brief("skip_connect+sep_conv_3x3") == "skip+sep 3"
    assert brief("absent") == "absent"
    assert brief("24") == "24"
