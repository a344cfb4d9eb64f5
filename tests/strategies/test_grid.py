"""Any space x any search x any training rule: the cells of the grid run, and keep their clients' limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from corolla.errors import RefusedError
from corolla.launch import plan_run
from tests.conftest import CONF, diagonal
from tests.strategies.conftest import run, small

# A round of them takes minutes, and their miniatures are below; whatever else is in conf/space is run.
FULL_SIZE = {
    *("darts", "darts_mixed", "darts_s2", "darts_s2_mixed", "darts_s3", "darts_s3_mixed"),
    *("darts_s4", "darts_s4_mixed"),
    *("ofa_resnet", "ofa_resnet_width", "fedoras"),
    *("mobilenetv2", "mobilenetv2_width", "mobilenetv3", "nasvit"),
    "elastic_cnn_64",  # elastic_cnn with more widths
}
# One fixed network each.
NOT_SEARCHED = {"cnn_fedavg", "cnn_fedrep", "lenet", "resnet18", "resnet18_gn", "vit_32", "vit_8"}
SPACES = sorted({path.stem for path in (CONF / "space").glob("*.yaml")} - FULL_SIZE - NOT_SEARCHED)
# Smaller still.
SMALLER = {
    "elastic_cnn": ["space.supernet.resolution=8"],
    "ofa_resnet_small": [
        "space.supernet.resolution=8",
        "space.supernet.stem=8",
        "space.supernet.stages=[{width:[8,12],blocks:1},{width:[12,16],blocks:1}]",
    ],
    "fedoras_small": [
        "space.supernet.resolution=8",
        "space.supernet.stages=[{width:4,blocks:1},{width:8,blocks:1}]",
    ],
    "elastic_cnn_width": ["space.supernet.base.resolution=8"],
    "resnet18_modules": ["space.supernet.base.resolution=8", "space.supernet.base.width=8"],
    "elastic_resnet": [
        "space.supernet.resolution=8",
        "space.supernet.widths=[[4,8],[8,16]]",
        "space.supernet.depths=[1,2]",
    ],
    "mobilenetv3_32": ["space.supernet.resolution=[16]", "space.supernet.last=64"],
    "nasvit_32": ["space.supernet.resolution=[16]", "space.supernet.last=[64,96]"],
    "darts_small": [
        "space.supernet.resolution=8",
        "space.supernet.channels=4",
        "space.supernet.cells=3",
        "space.supernet.nodes=2",
    ],
}
SMALLER["darts_s2_mixed_small"] = SMALLER["darts_small"]
# What a search needs to do more than its first draws: another round, and to be as small as can be.
NEEDS = {
    "evolution": [
        "rounds=2",
        "method.proposals.initial=1",
        "method.proposals.exploration=0",
        "method.proposals.pairs=all",
        "method.proposals.evolution.population=4",
        "method.proposals.evolution.generations=1",
        "method.proposals.evolution.mutants=2",
        "method.proposals.evolution.crossovers=2",
        "method.proposals.forest.trees=3",
        "method.proposals.forest.min_pairs=2",
    ]
}
_CACHE = "{population:4,generations:1,mutants:2,crossovers:2}"
NEEDS["training_free"] = [
    "method.proposals.cache.entries=3",
    f"method.proposals.cache.evolution={_CACHE}",
]
NEEDS["cached_sandwich"] = NEEDS["training_free"]
PROPOSALS = sorted(path.stem for path in (CONF / "method" / "proposals").glob("*.yaml"))
PROPOSALS.remove("like_sizes")  # needs a finished run: tests/search/test_like_sizes.py
# What a training rule needs.
RULES = {
    "coverage": [],
    "largest": [],
    "operations": [],
    "distilled": ["server_set=held_out", "server_set.images=20", "method.training.batch_size=10"],
}


def rule_of(space: str, proposals: str) -> str:
    """Return the cell's rule: every space meets every rule, and so does every search.

    The halves have the diagonal, which is all that is run in a hurry, meet every rule as well.
    """
    return list(RULES)[(SPACES.index(space) // 2 + PROPOSALS.index(proposals)) % len(RULES)]


def test_every_rule_is_met_by_every_space_by_every_search_and_on_the_diagonal() -> None:
    every = set(RULES)
    for space in SPACES:
        assert {rule_of(space, proposals) for proposals in PROPOSALS} == every
    for proposals in PROPOSALS:
        assert {rule_of(space, proposals) for space in SPACES} == every
    quick = [cell.values for cell in diagonal(SPACES, PROPOSALS) if not cell.marks]
    assert {rule_of(*cell) for cell in quick} == every


def test_what_is_left_out_of_the_grid_is_there() -> None:
    there = {path.stem for path in (CONF / "space").glob("*.yaml")}
    assert there >= FULL_SIZE | NOT_SEARCHED | SMALLER.keys()
    assert {path.stem for path in (CONF / "method" / "training").glob("*.yaml")} == RULES.keys()
    assert {"mobilenetv2_small", "mobilenetv2_width_8"} <= set(SPACES)


@pytest.mark.parametrize(("space", "proposals"), diagonal(SPACES, PROPOSALS))
def test_a_cell_of_the_grid(space: str, proposals: str, tmp_path: Path) -> None:
    rule = rule_of(space, proposals)
    directory = run(
        tmp_path / "run",
        "method=perfednas",
        f"space={space}",
        f"method/proposals={proposals}",
        f"method/training={rule}",
        *RULES[rule],
        *SMALLER.get(space, []),
        "rounds=1",
        "clients=2",
        "batch_size=32",
        "evaluation.every=0",
        "evaluation.fine_tune_epochs=0",
        "memory_budget_mib=space",
        *NEEDS.get(proposals, []),
    )
    summary = directory.summary()
    assert set(summary["test_accuracy"]["per_client"]) == {"0", "1"}
    assert [line["failures"] for line in directory.metrics()] == [0] * summary["rounds"]
    for entry in summary["per_client"].values():
        assert entry["training_memory_mib"] <= entry["memory_budget_mib"]
    for row in directory.clients():
        assert row["memory_mib"] <= row["memory_budget_mib"]
    searched = [row for row in directory.clients() if "predicted_reward" in row]
    assert len(searched) == (2 if proposals == "evolution" else 0)


METHODS = ["corolla", "deepfednas", "fedpnas", "fedrlnas", "perfedrlnas", "superfednas", "fedoras"]
MINIATURE = [
    *("clients=2", "batch_size=32", "evaluation.every=0", "evaluation.fine_tune_epochs=0"),
    *("server_set=held_out", "server_set.images=20"),  # as many as `RULES` has
]


@pytest.mark.parametrize(("method", "rule"), diagonal(METHODS, list(RULES)))
def test_a_method_takes_any_training_rule(method: str, rule: str, tmp_path: Path) -> None:
    settings = [f"method={method}", f"method/training={rule}", *RULES[rule], *MINIATURE]
    if method == "fedoras" and rule == "distilled":
        with pytest.raises(RefusedError, match="needs one network from each client"):
            plan_run(small(f"run_dir={tmp_path}", *settings))
        return
    directory = run(tmp_path / "run", *settings, f"rounds={2 if method == 'fedoras' else 1}")
    assert {line["failures"] for line in directory.metrics()} == {0}
    assert ("largest_weight" in directory.metrics()[0]) == (rule == "largest")
