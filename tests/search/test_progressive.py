"""SPIDER-Searcher with judges whose scores are made by hand: what stays, what it costs, how it ends."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.search.decisions import Decision
from corolla.search.progressive import ProgressiveSearch, ProgressiveSettings
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_genotype import KINDS, edge_pairs
from corolla.training.variants import VariantScorer
from tests.search.judges import HandMade, by_operation, in_edges, nobody, tiny_space, watched
from tests.training.conftest import colourful, sgd

SETS = ("s2", "s3", "s4", "full")


def search(**changes: Any) -> ProgressiveSearch:
    values: dict[str, Any] = {
        "criterion": "perturbation",
        "rank": "accuracy",
        "near_ties": 0.0,
        "warmup_rounds": 3,
        "recovery_rounds": 2,
        "first_step": "warmup",
        "node_recovery": True,
        "clock": "participations",
        "topology": True,
        "in_edges": 2,
        "statistics": "batch",
    }
    return ProgressiveSearch(settings=ProgressiveSettings(**(values | changes)))


def step(
    searcher: ProgressiveSearch, network: DartsNetwork, judge: Any, seed: int = 0, round: int = 5
) -> list[Decision]:
    rng = np.random.default_rng(seed)
    return searcher.step(network, memory={}, judge=judge, rng=rng, round=round)


def take_part(
    searcher: ProgressiveSearch, network: DartsNetwork, judge: Any, seed: int = 0
) -> tuple[list[int], list[Decision], int]:
    """Take part in round after round, as a client does; return when steps were made, all decisions,
    and after how many rounds the decided network had been trained once."""
    rng = np.random.default_rng(seed)
    participations, last, steps, decisions = 0, None, [], []
    while True:
        if searcher.undecided(network) and searcher.due(participations, last):
            decisions += searcher.step(
                network, memory={}, judge=judge, rng=rng, round=participations + 1
            )
            last = participations
            steps.append(participations)
        participations += 1  # trained
        if not searcher.undecided(network):
            return steps, decisions, participations


# --- which operation stays ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "skip", "sep", "kept", "by", "margin"),
    [
        # The paper's text: 80 %/60 % keeps the 60 %.
        ("accuracy", (0.8, 1.0), (0.6, 1.0), "sep_conv_3x3", "accuracy", 0.2),
        ("accuracy", (0.6, 1.0), (0.8, 1.0), "skip_connect", "accuracy", 0.2),
        ("accuracy", (0.6, 0.1), (0.8, 9.0), "skip_connect", "accuracy", 0.2),
        ("accuracy", (0.7, 1.5), (0.7, 1.4), "skip_connect", "loss", 0.0),
        ("accuracy", (0.7, 1.4), (0.7, 1.5), "sep_conv_3x3", "loss", 0.0),
        ("loss", (0.6, 0.5), (0.8, 0.75), "sep_conv_3x3", "loss", 0.25),
        ("loss", (0.6, 0.5), (0.8, 0.5), "skip_connect", "accuracy", 0.0),
        ("loss", (0.8, 0.5), (0.6, 0.5), "sep_conv_3x3", "accuracy", 0.0),
        ("loss", (0.7, 0.5), (0.7, 0.5), "skip_connect", "cost", 0.0),  # the cheaper
        ("accuracy", (0.7, 0.5), (0.7, 0.5), "skip_connect", "cost", 0.0),
    ],
)
def test_the_operation_stays_whose_removal_hurts_most(
    rank: str,
    skip: tuple[float, float],
    sep: tuple[float, float],
    kept: str,
    by: str,
    margin: float,
) -> None:
    for seed in range(4):  # whatever the lot says
        network = watched(nodes=1)
        judge = by_operation(skip_connect=skip, sep_conv_3x3=sep)
        decisions = step(search(rank=rank), network, judge, seed=seed, round=7)
        assert [decision.cell for decision in decisions] == ["normal", "reduce"]
        for decision in decisions:
            (gone,) = {"skip_connect", "sep_conv_3x3"} - {kept}
            assert (decision.kept, decision.removed, decision.round) == (kept, (gone,), 7)
            assert decision.scores == {"skip_connect": skip, "sep_conv_3x3": sep}
            assert decision.margin == pytest.approx(margin)
            assert (decision.by, decision.unit) == (by, rank)
            edge = ("0-2", "1-2").index(decision.where)
            alive = network.alive()[decision.cell]
            assert alive[edge] == (kept,)
            assert alive[1 - edge] == ("skip_connect", "sep_conv_3x3")


def test_the_margin_is_the_distance_to_the_runner_up() -> None:
    judge = by_operation(none=(0.9, 1.0), skip_connect=(0.65, 1.0), sep_conv_3x3=(0.5, 1.0))
    first, _ = step(search(), watched("s3"), judge)
    assert (first.kept, set(first.removed)) == ("sep_conv_3x3", {"none", "skip_connect"})
    assert first.margin == pytest.approx(0.15)
    assert first.to_dict() == {
        "round": 5,
        "cell": "normal",
        "where": first.where,
        "kept": "sep_conv_3x3",
        "removed": ["none", "skip_connect"],
        "scores": {"none": [0.9, 1.0], "skip_connect": [0.65, 1.0], "sep_conv_3x3": [0.5, 1.0]},
        "by": "accuracy",
        "margin": first.margin,
        "unit": "accuracy",
        "error": 0.0,
    }


def test_a_total_tie_goes_to_the_cheapest_and_by_lot_where_costs_are_equal_too() -> None:
    judge = HandMade(lambda *_: (0.7, 1.0))
    # Two decisions a step. With nodes=2 and one step no edge is the last that feeds its node.
    pools = ("max_pool_3x3", "avg_pool_3x3")  # neither multiplies anything
    kept = {
        operations: Counter(
            (decision.kept, decision.by)
            for seed in range(30)
            for decision in step(search(), watched(operations, 2), judge, seed=seed)
        )
        for operations in ("s2", "s3", pools)
    }
    assert set(kept["s2"]) == {("skip_connect", "cost")}
    assert {name for name, _ in kept["s3"]} <= {"none", "skip_connect"}  # both free at stride 1
    assert set(kept[pools]) == {(name, "lot") for name in pools}
    assert min(kept[pools].values()) > 15  # of 60


def test_the_edge_is_drawn() -> None:
    judge = by_operation(skip_connect=(0.8, 1.0), sep_conv_3x3=(0.6, 1.0))
    found = Counter(
        (decision.cell, decision.where)
        for seed in range(40)
        for decision in step(search(), watched(nodes=1), judge, seed=seed)
    )
    assert set(found) == {(kind, edge) for kind in KINDS for edge in ("0-2", "1-2")}
    assert min(found.values()) > 8


def test_the_reduction_cell_is_scored_with_the_normal_cells_decision_in_place() -> None:
    judge = by_operation(skip_connect=(0.8, 1.0), sep_conv_3x3=(0.6, 1.0))
    network = watched()
    normal, _ = step(search(), network, judge)
    assert [[without[0] for without in call] for call in judge.calls] == [
        ["normal", "normal"],
        ["reduce", "reduce"],
    ]
    before, after = judge.alive
    assert Counter(map(len, before["normal"])) == {2: 14}
    assert Counter(map(len, after["normal"])) == {2: 13, 1: 1}
    assert (normal.kept,) in after["normal"]
    assert Counter(map(len, after["reduce"])) == {2: 14}


def test_the_same_generator_gives_the_same_decisions() -> None:
    scores = np.random.default_rng(3).choice([0.2, 0.4], (2, 14, 3))

    def score(kind: str, edge: int, operation: str | None) -> tuple[float, float]:
        column = ("none", "skip_connect", "sep_conv_3x3").index(operation) if operation else 0
        return float(scores[KINDS.index(kind), edge, column]), 1.0

    first, again, other = (
        take_part(search(), watched("s3"), HandMade(score), seed=seed)[1] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


# --- what it costs --------------------------------------------------------------------------------------


def test_a_client_makes_100_validation_passes_in_all() -> None:
    """The count of the public code: 14 + 14 edges of two operations, then 3, 4 + 3 and 5 + 4 + 3 edges."""
    torch.manual_seed(0)
    network = tiny_space().supernet()
    scorer = VariantScorer(sgd(), colourful(4), batch_size=4)
    searcher = search(warmup_rounds=0, recovery_rounds=1)
    made = step(searcher, network, scorer)
    assert [len(decision.scores) for decision in made] == [2, 2]
    assert scorer.passes == 2 * 2  # two for each edge, and none of the whole network
    _, rest, _ = take_part(searcher, network, scorer)
    assert scorer.passes == 100
    assert sum(len(decision.scores) for decision in made + rest) == 100
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_the_random_control_asks_nobody_and_keeps_the_schedule() -> None:
    judge = by_operation(skip_connect=(0.8, 1.0), sep_conv_3x3=(0.6, 1.0), **{"None": (0.5, 1.0)})
    asked, scored, _ = take_part(search(), watched(), judge)
    drawn, lots, _ = take_part(search(criterion="random"), watched(), nobody)
    # 14 edges and 3 nodes, after 3 rounds, then every 2.
    assert asked == drawn == [3 + 2 * index for index in range(17)]
    where = lambda made: Counter((d.round, d.cell, len(d.removed)) for d in made)  # noqa: E731
    assert where(scored) == where(lots)
    assert all(not decision.scores and decision.margin == 0 for decision in lots)
    assert all(len(decision.scores) > 1 for decision in scored)


def test_the_random_control_draws_operations_and_edges() -> None:
    kept: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for seed in range(10):
        _, made, _ = take_part(search(criterion="random"), watched("s2", 2), nobody, seed=seed)
        kept.update(d.kept for d in made if "-" in d.where)
        left.update(d.kept for d in made if d.where == "3")
    # 100 edges; 20 nodes that keep two of three inputs.
    assert 30 < kept["skip_connect"] < 70
    assert set(left) == {"0-3+1-3", "0-3+2-3", "1-3+2-3"}


def test_the_costliest_control_keeps_what_multiplies_most() -> None:
    network = watched("full")
    _, made, _ = take_part(search(criterion="costliest"), network, nobody)
    assert {d.kept for d in made if "-" in d.where} == {"sep_conv_5x5"}
    assert {d.by for d in made if "-" in d.where} == {"cost"}
    # Edges of stride 2 have outputs as large as the others': any two may be left.
    assert all(count == 2 for kind in KINDS for count in in_edges(network, kind).values())


# --- none and noise -------------------------------------------------------------------------------------


def test_none_does_not_take_a_nodes_last_input() -> None:
    judge = by_operation(none=(0.1, 2.0), skip_connect=(0.5, 1.0), sep_conv_3x3=(0.4, 1.0))
    for seed in range(4):
        network = watched("s3", 1)
        first, second = (step(search(), network, judge, seed=seed) for _ in range(2))
        assert [decision.kept for decision in first] == ["none", "none"]
        assert [decision.kept for decision in second] == ["sep_conv_3x3", "sep_conv_3x3"]
        # It is scored all the same; the margin is to the runner-up that could have been kept.
        assert all(set(d.scores) == {"none", "skip_connect", "sep_conv_3x3"} for d in second)
        assert [decision.margin for decision in second] == pytest.approx([0.1, 0.1])


def test_noise_does_not_take_a_nodes_last_input() -> None:
    judge = by_operation(noise=(0.1, 2.0), sep_conv_3x3=(0.5, 1.0))
    network = watched("s4", 1)
    first, second = (step(search(), network, judge) for _ in range(2))
    assert [decision.kept for decision in first] == ["noise", "noise"]
    assert [decision.kept for decision in second] == ["sep_conv_3x3", "sep_conv_3x3"]
    assert {decision.by for decision in second} == {"only"}


# --- how it ends ----------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    operations=st.sampled_from(SETS),
    nodes=st.integers(1, 4),
    inputs=st.integers(1, 3),
    topology=st.booleans(),
    criterion=st.sampled_from(["perturbation", "random", "costliest"]),
    together=st.booleans(),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_every_search_ends_with_one_operation_an_edge_and_no_node_without_input(
    operations: str,
    nodes: int,
    inputs: int,
    topology: bool,
    criterion: str,
    together: bool,
    levels: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    judge = HandMade(lambda *_: (float(rng.integers(levels)), float(rng.integers(levels))))
    searcher = search(
        criterion=criterion,
        topology=topology,
        in_edges=inputs,
        warmup_rounds=int(rng.integers(3)),
        recovery_rounds=int(rng.integers(1, 4)),
        first_step=("multiple", "warmup")[int(rng.integers(2))],
        node_recovery=not together,
    )
    network = watched(operations, nodes)
    steps, decisions, rounds = take_part(searcher, network, judge, seed=seed)
    assert rounds == searcher.rounds_needed(network.plan)
    assert (len(judge.calls) == 0) == (criterion != "perturbation")
    for kind in KINDS:
        alive = network.alive()[kind]
        assert {len(names) for names in alive} <= {0, 1}
        for node, count in in_edges(network, kind).items():
            assert count == (min(node, inputs) if topology else node)
            pairs = edge_pairs(nodes)
            fed = [names for names, pair in zip(alive, pairs, strict=True) if pair[1] == node]
            assert any(set(names) - {"none", "noise"} for names in fed)
    edges = [(d.cell, d.where) for d in decisions if "-" in d.where]
    assert len(set(edges)) == len(edges) == 2 * len(edge_pairs(nodes))
    nodes_thinned = {(d.cell, d.where) for d in decisions if "-" not in d.where}
    crowded = [node for node in range(2, 2 + nodes) if topology and node > inputs]
    assert nodes_thinned == {(kind, str(node)) for kind in KINDS for node in crowded}
    assert len(steps) == len(edge_pairs(nodes)) + len(crowded) - bool(together and crowded)
    assert all(decision.margin >= 0 for decision in decisions)
    space = tiny_space(operations, nodes)
    assert space.is_live(space.of_alive(network.alive()))


def test_nothing_is_due_before_the_warm_up_nor_before_recovery() -> None:
    searcher = search(warmup_rounds=30, recovery_rounds=20)
    assert next(elapsed for elapsed in range(60) if searcher.due(elapsed, None)) == 30
    assert next(elapsed for elapsed in range(30, 90) if searcher.due(elapsed, 30)) == 50
    # 14 edges and 3 nodes: 30 + 16 x 20 rounds before the last step, which one round of training follows.
    assert searcher.rounds_needed(tiny_space().plan) == 351
    assert search(topology=False).rounds_needed(tiny_space().plan) == 3 + 13 * 2 + 1


def test_the_published_clock() -> None:
    """The public code, run: edges at 40, 60 ... 300, the first nodes at 300 too, then 320 and 340."""
    published: dict[str, Any] = {
        "warmup_rounds": 30,
        "recovery_rounds": 20,
        "first_step": "multiple",
    }
    judge = by_operation(skip_connect=(0.8, 1.0), sep_conv_3x3=(0.6, 1.0), **{"None": (0.5, 1.0)})
    for together, last in ((True, 340), (False, 360)):
        searcher = search(**published, node_recovery=not together)
        steps, decisions, rounds = take_part(searcher, watched(), judge)
        assert steps == list(range(40, last + 1, 20))
        assert rounds == searcher.rounds_needed(tiny_space().plan) == last + 1
        nodes = sorted({d.round - 1 for d in decisions if "-" not in d.where})
        assert nodes == [last - 40, last - 20, last]
    # The warm-up is a multiple itself; no warm-up at all.
    for warmup, first in ((40, 40), (20, 20), (0, 0), (1, 20)):
        searcher = search(**(published | {"warmup_rounds": warmup}))
        assert next(elapsed for elapsed in range(60) if searcher.due(elapsed, None)) == first


def test_nodes_wait_for_all_edges() -> None:
    network, searcher = watched(), search()
    judge = by_operation(skip_connect=(0.8, 1.0), sep_conv_3x3=(0.6, 1.0), **{"None": (0.5, 1.0)})
    rng = np.random.default_rng(0)
    undecided = []
    while left := searcher.undecided(network):
        undecided.append(left)
        searcher.step(network, memory={}, judge=judge, rng=rng, round=1)
    # Nodes 3, 4, 5 of both kinds count from the start; a step decides one thing in either.
    assert undecided == list(range(34, 0, -2))
    whole = [any(without[2] is None for without in call) for call in judge.calls]
    assert whole == [False] * 28 + [True] * 12  # 1, 2 and 3 deletions in two kinds of cell


def test_a_search_without_topology_leaves_the_edges() -> None:
    network, searcher = watched(), search(topology=False)
    assert searcher.undecided(network) == 28
    take_part(searcher, network, by_operation(skip_connect=(0.8, 1.0), sep_conv_3x3=(0.6, 1.0)))
    assert network.alive() == dict.fromkeys(KINDS, (("sep_conv_3x3",),) * 14)


# --- settings -------------------------------------------------------------------------------------------
