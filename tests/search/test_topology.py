"""Which edges a node keeps: one deletion after the other, by judges whose scores are made by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from corolla.search.decisions import Decision
from corolla.search.ranking import Ranking
from corolla.search.topology import thin_node
from corolla.spaces.darts_genotype import KINDS, edge_pairs
from tests.search.judges import HandMade, Watched, watched

PAIRS = edge_pairs(4)


def decided(names: Mapping[int, str] | None = None, *, nodes: int = 4) -> Watched:
    """Return a network with one operation on every edge: sep_conv_3x3 unless ``names`` says otherwise."""
    edges = range(len(edge_pairs(nodes)))
    kept = tuple(((names or {}).get(edge, "sep_conv_3x3"),) for edge in edges)
    return watched("s3", nodes, dict.fromkeys(KINDS, kept))


def into(node: int) -> list[int]:
    return [edge for edge, pair in enumerate(PAIRS) if pair[1] == node]


def thin(
    network: Watched,
    node: int,
    judge: HandMade | None,
    *,
    kind: str = "normal",
    seed: int = 0,
    in_edges: int = 2,
    edges: Sequence[int] | None = None,
) -> list[Decision]:
    return thin_node(
        network,
        kind,
        node,
        into(node) if edges is None else edges,
        in_edges=in_edges,
        judge=judge,
        ranking=Ranking(rank="accuracy", near_ties=0.0),
        rng=np.random.default_rng(seed),
        round=9,
    )


def left(network: Watched, node: int, kind: str = "normal") -> list[str]:
    """Return the nodes that ``node`` still reads."""
    alive = network.alive()[kind]
    return [str(PAIRS[edge][0]) for edge in into(node) if alive[edge]]


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_five_edges_cost_twelve_evaluations_and_those_deleted_are_really_off(kind: str) -> None:
    # Accuracy without the edge from node 0, 1, ... 4: 1 hurts least, then 4, then 0.
    without = dict(zip(into(5), (0.6, 0.9, 0.3, 0.5, 0.8), strict=True))
    judge = HandMade(lambda kind, edge, operation: (without[edge], 1.0))
    network = decided()
    made = thin(network, 5, judge, kind=kind)
    assert [len(call) for call in judge.calls] == [5, 4, 3]
    gone = [[PAIRS[e][0] for e in into(5) if not alive[kind][e]] for alive in judge.alive]
    assert gone == [[], [1], [1, 4]]  # what the judge saw when it was asked
    assert all(without[2] is None and without[0] == kind for c in judge.calls for without in c)
    assert left(network, 5, kind) == ["2", "3"]
    assert [decision.removed for decision in made] == [("1-5",), ("4-5",), ("0-5",)]
    assert [d.kept for d in made] == ["0-5+2-5+3-5+4-5", "0-5+2-5+3-5", "2-5+3-5"]
    assert [d.margin for d in made] == pytest.approx([0.9 - 0.8, 0.8 - 0.6, 0.6 - 0.5])
    assert {(d.cell, d.where, d.round) for d in made} == {(kind, "5", 9)}
    assert made[2].scores == {"0-5": (0.6, 1.0), "2-5": (0.3, 1.0), "3-5": (0.5, 1.0)}
    other = {"normal": "reduce", "reduce": "normal"}[kind]
    assert all(network.alive()[other])
    assert all(names for e, names in enumerate(network.alive()[kind]) if e not in into(5))


def test_of_two_edges_that_stand_in_for_each_other_one_stays() -> None:
    """All scored at once both would go: each alone is not missed while the other one is there."""
    network = decided()
    twins = {0, 1}

    def score(kind: str, edge: int, operation: str | None) -> tuple[float, float]:
        here = {PAIRS[e][0] for e in into(4) if network.alive()[kind][e]} - {PAIRS[edge][0]}
        return 0.2 + 0.4 * bool(here & twins) + 0.1 * (2 in here) + 0.3 * (3 in here), 1.0

    thin(network, 4, HandMade(score))
    kept = left(network, 4)
    assert kept[1] == "3"
    assert kept[0] in "01"


def test_ties_go_by_the_loss_then_by_lot() -> None:
    losses = dict(zip(into(3), (1.2, 0.9, 1.1), strict=True))
    for seed in range(4):
        network = decided(nodes=2)
        thin(network, 3, HandMade(lambda kind, edge, _: (0.5, losses[edge])), seed=seed)
        assert left(network, 3) == ["0", "2"]  # without 0-3 and 2-3 the loss is higher
    found: Counter[str] = Counter()
    for seed in range(30):
        network = decided(nodes=2)
        (decision,) = thin(network, 3, HandMade(lambda *_: (0.5, 1.0)), seed=seed)
        assert decision.margin == 0
        found.update(decision.removed)
    assert set(found) == {"0-3", "1-3", "2-3"}
    assert min(found.values()) >= 3


def test_accuracy_comes_before_the_loss() -> None:
    scores = dict(zip(into(3), ((0.5, 0.1), (0.6, 9.0), (0.4, 0.0)), strict=True))
    network = decided()
    thin(network, 3, HandMade(lambda kind, edge, _: scores[edge]))
    assert left(network, 3) == ["0", "2"]


def test_without_a_judge_edges_go_by_lot() -> None:
    found: Counter[tuple[str, ...]] = Counter()
    for seed in range(24):
        network = decided(nodes=3)
        made = thin(network, 4, None, seed=seed)
        assert len(made) == 2
        assert all(not d.scores and d.margin == 0 for d in made)
        found[tuple(left(network, 4))] += 1
    assert len(found) == 6  # two of four
    assert min(found.values()) >= 1


@pytest.mark.parametrize("asks", [True, False])
def test_the_last_edge_that_feeds_a_node_stays(asks: bool) -> None:
    """Even where the judge finds that its removal would do good."""
    for feeding in into(4):
        names = {edge: "none" for edge in into(4) if edge != feeding}
        for count in (1, 2):
            network = decided(names)
            judge = HandMade(lambda kind, edge, _, it=feeding: (0.9 if edge == it else 0.1, 1.0))
            made = thin(network, 4, judge if asks else None, in_edges=count)
            alive = network.alive()["normal"]
            assert alive[feeding] == ("sep_conv_3x3",)
            assert sum(bool(alive[edge]) for edge in into(4)) == count
            assert all(without[1] != feeding for call in judge.calls for without in call)
            assert len(made) == 4 - count


def test_an_edge_of_none_counts_as_an_input_and_goes_first_when_nothing_gets_better() -> None:
    network = decided({into(3)[1]: "none"})
    judge = HandMade(lambda kind, edge, _: (0.7 if edge == into(3)[1] else 0.6, 1.0))
    (decision,) = thin(network, 3, judge)
    assert decision.removed == ("1-3",)


def test_nothing_is_deleted_or_asked_where_few_edges_are_left() -> None:
    network, judge = decided(), HandMade(lambda *_: (0.5, 1.0))
    assert thin(network, 2, judge) == []
    assert thin(network, 5, judge, in_edges=5) == []
    assert judge.calls == []
    assert left(network, 5) == list("01234")
