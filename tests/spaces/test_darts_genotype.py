"""Genotypes: the published texts, both forms, round trips, and texts that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.errors import RefusedError
from corolla.spaces.darts_genotype import Genotype, edge_name, edge_pairs
from corolla.spaces.darts_operations import OPERATION_SETS, OPERATIONS
from tests.conftest import make_space
from tests.spaces import from_values
from tests.spaces.test_darts import FULL

# DARTS' second-order genotype as its authors print it (Liu et al., ICLR 2019, Figs. 4 and 5).
DARTS_V2 = """DARTS_V2 = Genotype(
    normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
            ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
    normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
            ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
    reduce_concat=range(2, 6))"""

_CONCAT = "[2, 3, 4, 5]"
_ENTRY = st.sampled_from(OPERATIONS)


def _text(normal: str, reduce: str | None = None, concat: str = _CONCAT) -> str:
    reduce = normal if reduce is None else reduce
    return f"Genotype(normal={normal}, normal_concat={concat}, reduce={reduce}, reduce_concat={concat})"


def _two_a_node(operation: str = "skip_connect") -> list[tuple[str, int]]:
    return [(operation, source) for _ in range(4) for source in (0, 1)]


def test_edges_are_in_the_order_of_darts() -> None:
    assert edge_pairs(2) == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert len(edge_pairs(4)) == 14
    assert edge_name((2, 5)) == "2-5"


def test_published_genotype_by_hand() -> None:
    genotype = Genotype.parse(DARTS_V2)
    sep, skip, none = "sep_conv_3x3", "skip_connect", "none"
    assert genotype.nodes == 4
    assert genotype.normal == (
        *(sep, sep),  # of node 2: from 0, 1
        *(sep, sep, none),
        *(skip, sep, none, none),
        *(skip, none, "dil_conv_3x3", none, none),
    )
    pool = "max_pool_3x3"
    assert genotype.reduce == (
        *(pool, pool),
        *(none, pool, skip),
        *(pool, none, skip, none),
        *(none, pool, skip, none, none),
    )
    # Two entries a node, by node; within a node the edge from the earlier node comes first.
    assert genotype.text().startswith(
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
        "('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), "
        "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    )
    assert Genotype.parse(genotype.text()) == genotype


def test_published_genotype_in_the_spaces() -> None:
    genotype = Genotype.parse(DARTS_V2)
    architecture = FULL.from_genotype(genotype)
    assert FULL.values(architecture)["normal.2-5"] == "dil_conv_3x3"
    assert FULL.values(architecture)["normal.4-5"] == "none"
    assert FULL.genotype(architecture) == genotype
    network = make_space("darts_small", operations="full").network(genotype.alive())
    assert [sum(map(bool, edges)) for edges in network.alive().values()] == [8, 8]
    assert Genotype.of_alive(network.alive(), 4) == genotype


def test_a_space_without_none_names_the_absent_edges() -> None:
    space = make_space("darts_s2")
    genotype = Genotype.parse(_text(repr(_two_a_node())))
    with pytest.raises(RefusedError) as refusal:
        space.from_genotype(genotype)
    assert [fault.key for fault in refusal.value.faults] == [
        f"genotype.{kind}.{edge}"
        for kind in ("normal", "reduce")
        for edge in ("2-3", "2-4", "3-4", "2-5", "3-5", "4-5")
    ]
    assert "has no operation for an absent edge" in str(refusal.value)
    assert "build the network from Genotype.alive()" in str(refusal.value)
    assert space.costs_of(genotype.alive()).params > 0


def test_a_space_names_operations_and_nodes_it_lacks() -> None:
    space = make_space("darts_s3")
    with pytest.raises(
        RefusedError, match=r"normal\.0-2='dil_conv_3x3': space 'darts_s3' has no oper"
    ):
        space.from_genotype(Genotype.parse(_text(repr(_two_a_node("dil_conv_3x3")))))
    small = Genotype.parse(_text("[('none', 0), ('none', 1)]", concat="[2]"))
    with pytest.raises(RefusedError, match="nodes=1: the cells of space 'darts_s3' have 4 nodes"):
        space.from_genotype(small)


@given(normal=st.tuples(*[_ENTRY] * 14), reduce=st.tuples(*[_ENTRY] * 14))
def test_round_trip(normal: tuple[str, ...], reduce: tuple[str, ...]) -> None:
    genotype = Genotype(4, normal, reduce)
    assert Genotype.parse(genotype.text()) == genotype
    assert Genotype.of_alive(genotype.alive(), 4) == genotype


@given(choices=st.tuples(*[st.sampled_from(range(8))] * 28), nodes=st.integers(1, 6))
def test_round_trip_through_the_space(choices: tuple[int, ...], nodes: int) -> None:
    names = tuple(OPERATION_SETS["full"][choice] for choice in choices)
    architecture = from_values(
        FULL, dict(zip([d.name for d in FULL.dimensions], names, strict=True))
    )
    text = FULL.genotype(architecture).text()
    assert FULL.from_genotype(Genotype.parse(text)) == architecture
    edges = len(edge_pairs(nodes))
    other = Genotype(nodes, (names * 2)[:edges], (names * 2)[1 : edges + 1])
    assert Genotype.parse(other.text()) == other


def test_text_of_a_subnet_holds_every_edge() -> None:
    text = FULL.genotype(FULL.middle()).text()
    assert text.count("dil_conv_3x3") == 28
    assert "none" not in text
    assert FULL.genotype(FULL.smallest()).text().count("'none'") == 26


def test_undecided_edges_have_no_text() -> None:
    with pytest.raises(
        RefusedError, match=r"genotype.normal.0-2=\[.*more than one operation is left"
    ):
        Genotype.of_alive(make_space("darts_s2").all_alive(), 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not one Genotype"),
        ("Genotype(", r"cannot be read \(SyntaxError\)"),
        ("Genotype(\0)", "cannot be read"),
        ("(" * 10_000, "cannot be read"),
        ("x" * 30_000, "is longer than 20000 characters"),
        ("Genotyp(normal=[])", "is not one Genotype"),
        ("import os; os.abort()", "is not one Genotype"),
        ("a.Genotype(normal=[])", "is not one Genotype"),
        ("Genotype(normal=[])", r"needs the arguments normal, normal_concat, .* has \['normal'\]"),
        (_text("__import__('os').abort()"), "holds something other than literals"),
        (_text("[]", concat="range(2, 10**9)"), "holds something other than literals"),
        (_text("[]", concat="range(2, 1000)"), "holds something other than literals"),
        (_text("[]", concat="list('ab')"), "holds something other than literals"),
        (_text("[]", concat="[3, 4, 6]"), r"normal_concat=\[3, 4, 6\]: our cells concatenate all"),
        (_text("[]", concat="4"), "our cells concatenate all of their nodes"),
        (_text("[]"), r"has 0 entries; 4 nodes take 8 \(two a node\) or 14 \(every edge\)"),
        (_text("7"), "has 0 entries"),
        (_text(repr([1, *_two_a_node()[1:]])), r"normal=1: is not \(operation, node\)"),
        (_text(repr([("none", True), *_two_a_node()[1:]])), "is not .operation, node."),
        (
            _text(repr([("conv_7x1_1x7", 0), *_two_a_node()[1:]])),
            "normal='conv_7x1_1x7': no such operation",
        ),
        (
            _text(repr([("none", 2), *_two_a_node()[1:]])),
            "node 2 cannot read it. Node 2 reads nodes 0..1",
        ),
        (_text(repr([("none", 1), *_two_a_node()[1:]])), "node 2 reads it twice"),
        (
            f"Genotype(normal={_two_a_node()}, normal_concat={_CONCAT}, reduce=[('none', 0), "
            "('none', 1)], reduce_concat=[2])",
            "the two cells differ in their number of nodes",
        ),
    ],
)
def test_bad_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        Genotype.parse(text)


def test_all_faults_of_a_text_are_shown_at_once() -> None:
    entries = [("sep_conv_3", 0), ("none", 9), *_two_a_node()[2:]]
    with pytest.raises(RefusedError) as refusal:
        Genotype.parse(_text(repr(entries)))
    assert len(refusal.value.faults) == 4  # two in either cell
    assert "Did you mean 'sep_conv_3x3'?" in str(refusal.value)


def test_bad_genotypes_are_refused() -> None:
    with pytest.raises(RefusedError, match="4 nodes have 14 edges, not 13"):
        Genotype(4, ("none",) * 13, ("none",) * 14)
    with pytest.raises(RefusedError, match=r"genotype\.reduce='skip': no such operation"):
        Genotype(1, ("none",) * 2, ("skip", "none"))
