"""The general algorithm: which point of it is PerFedRLNAS, and what holds for any search and reward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.records.run_directory import RunDirectory
from corolla.state import State
from strategies.base import CorollaStrategy
from tests.conftest import CONF
from tests.states import differences
from tests.strategies.conftest import SMALL, results
from tests.strategies.conftest import run as run_small
from tests.strategies.test_contract import _config, _replies, _strategy

PROPOSALS = sorted(path.stem for path in (CONF / "proposals").glob("*.yaml"))
REWARDS = sorted(path.stem for path in (CONF / "reward").glob("*.yaml"))
EVOLVING = [
    "method/proposals=evolution",
    "method.proposals.initial=1",
    "method.proposals.exploration=0.3",
    "method.proposals.pairs=all",
    "method.proposals.evolution.population=6",
    "method.proposals.evolution.generations=1",
    "method.proposals.evolution.mutants=3",
    "method.proposals.evolution.crossovers=3",
    "method.proposals.forest.trees=3",
    "method.proposals.forest.min_pairs=2",
]
SCREENED = [
    "method.prescreen.candidates=4",
    "method.prescreen.pairs=all",
    "method.prescreen.forest.trees=3",
    "method.prescreen.forest.min_pairs=2",
]
SEARCHES = {
    **{name: [f"method/proposals={name}"] for name in PROPOSALS},
    "evolution": EVOLVING,
    "prescreened": SCREENED,
}


TINY = [
    "partition.balanced=true",
    "partition.images_per_client=40",
    "evaluation.every=0",
    "evaluation.fine_tune_epochs=0",
]


def run(run_dir: Path, *overrides: str) -> RunDirectory:
    return run_small(run_dir, *TINY, *overrides)


def strategy(*overrides: str) -> CorollaStrategy:
    return _strategy(_config("perfednas", *overrides))


@pytest.mark.slow
def test_the_default_point_is_perfedrlnas_to_the_bit(tmp_path: Path) -> None:
    common = ["memory_budget_mib=space", "rounds=3", "method.server_momentum=0.3"]
    named = run(tmp_path / "named", "method=perfedrlnas", *common)
    general = run(tmp_path / "general", "method=perfednas", *common)
    found = [results(named), results(general).replace('"perfednas"', '"perfedrlnas"')]
    assert found[0] == found[1]
    assert any(row["draws"] > 1 for row in named.clients())


def test_perfedrlnas_keeps_the_layout_of_its_state() -> None:
    policy = _strategy(_config("perfedrlnas"))
    policy.absorb(1, _replies(policy, 1, ["0", "1"]))
    state = policy.state()
    own = [name for name in state.arrays if not name.startswith("supernet/")]
    logits = [f"policies/{name}" for name in ("logits", "first", "second", "start", "steps")]
    rewards = ("latest", "own", "own_square", "everyone", "square")
    assert own == [*logits, *(f"reward/{name}" for name in rewards)]
    assert {key: sorted(value) for key, value in state.meta.items()} == {
        "policies": ["clients", "sizes"],
        "reward": ["clients"],
    }


@pytest.mark.parametrize("name", SEARCHES)
def test_any_search_keeps_the_contract(name: str) -> None:
    """What the contract tests hold for the default search, here for all."""
    one, other, later = (strategy(*SEARCHES[name]) for _ in range(3))
    for round in (1, 2):
        one.absorb(round, _replies(one, round, ["0", "1", "3"]))
        other.absorb(round, _replies(other, round, ["0", "1", "3"])[::-1])
        assert not differences(one.state(), other.state())
    before = one.state()
    first, second = (one.orders(3, ["0", "2"]) for _ in range(2))
    assert [order.task for order in first] == [order.task for order in second]
    one.absorb(3, [])
    assert not differences(before, one.state())
    later.load_state(json_of(one.state()))
    for each in (one, later):
        each.absorb(4, _replies(each, 4, ["1", "3"]))
    assert not differences(one.state(), later.state())
    for client in "012":
        assert one.deployed(client).architecture == later.deployed(client).architecture
        assert one.describe(client) == later.describe(client)


def json_of(state: State) -> State:
    """Return the state as a checkpoint keeps it."""
    return State(dict(state.arrays), json.loads(json.dumps(state.meta)))


@pytest.mark.slow
def test_settled_rounds_train_what_an_evolution_deploys(tmp_path: Path) -> None:
    settings = ["method=perfednas", *EVOLVING, "rounds=6", "method.settle=0.5"]
    directory = run(tmp_path / "run", *settings)
    deployed = {c: e["choices"] for c, e in directory.summary()["per_client"].items()}
    late = [row for row in directory.clients() if row["round"] > 3]
    assert len(late) == 6
    assert all(row["architecture"] == deployed[row["client"]] for row in late)


def test_a_search_learns_nothing_while_it_warms_up() -> None:
    cold = strategy("method/proposals=uniform", "method.warmup_rounds=2")
    for round, pairs in ((1, 0), (2, 0), (3, 2)):
        cold.absorb(round, _replies(cold, round, ["0", "1"]))
        assert len(cold.state().arrays["proposals/total"]) == pairs
    assert len(cold.state().arrays["reward/latest"]) == 2


def test_tight_caps_leave_policies_undecided(tmp_path: Path) -> None:
    """Up to 20 misfits a participation: by steps away from each, two rounds left 2 % of the entropy."""
    tight = ["method=perfedrlnas", "cap=range", "cap.low=0.0", "cap.high=0.1", "rounds=2"]
    directory = run(tmp_path / "run", *tight, "clients=10", "clients_per_round=10")
    assert max(row["draws"] for row in directory.clients()) > 20
    entropies = [e["policy_entropy"] for e in directory.summary()["per_client"].values()]
    assert len(entropies) == 10
    assert min(entropies) > 0.7


def test_a_policy_can_be_rewarded_by_the_loss(tmp_path: Path) -> None:
    own = ["reward.score=loss", "reward.baseline=none", "reward.normalise=none"]
    settings = ["method=perfedrlnas", *(f"method.{one}" for one in own)]
    directory = run(tmp_path / "run", "rounds=1", *settings)
    for row in directory.clients():
        assert row["advantage"] == pytest.approx(max(-row["val_loss"], -3.0))


def test_prescreening_changes_nothing_until_there_are_pairs(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", "rounds=2")
    many = ["method.prescreen.candidates=4"]
    screened = run(tmp_path / "screened", *many, "rounds=2")  # 10 pairs of its own each would need
    assert plain.summary()["test_accuracy"] == screened.summary()["test_accuracy"]
    assert [r["architecture"] for r in plain.clients()] == [
        r["architecture"] for r in screened.clients()
    ]


@pytest.mark.slow
def test_prescreened_policies_learn_from_what_was_picked(tmp_path: Path) -> None:
    # Rewards that differ, and two of each client before the last round.
    enough = ["partition.images_per_client=200", "rounds=3", "clients_per_round=4"]
    enough += ["method=perfedrlnas"]
    directory = run(tmp_path / "run", *enough, *SCREENED)
    later = [row for row in directory.clients() if row["round"] > 1]
    assert all("predicted_reward" in row and row["log_prob"] < 0 for row in later)
    plain = run(tmp_path / "plain", *enough)
    assert [r["architecture"] for r in later] != [
        r["architecture"] for r in plain.clients() if r["round"] > 1
    ]


@pytest.mark.parametrize("reward", REWARDS)
def test_any_reward_is_read_from_the_replies(reward: str, tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run",
        "method=perfednas",
        "method/proposals=uniform",
        f"method/reward={reward}",
        "method.reward.baseline=none",
        "method.reward.normalise=none",
        "method.reward.advantage_limit=null",
        "rounds=1",
    )
    for row in directory.clients():
        expected = {
            "perfedrlnas": row["val_accuracy"],
            "accuracy": row["val_accuracy"],
            "loss": -row["val_loss"],
            "improvement": row["val_accuracy"] - row.get("received_val_accuracy", 0.0),
        }
        assert row["advantage"] == pytest.approx(expected[reward])


@pytest.mark.parametrize("proposals", PROPOSALS)
def test_what_learns_from_validation_must_not_train_on_it(proposals: str) -> None:
    settings = ["method=perfednas", f"method/proposals={proposals}", "train_on_validation=true"]
    if proposals in ("costliest", "fixed", "random"):  # they learn nothing
        assert plan_run([*SMALL, *settings, "run_dir=unused"])
        return
    words = "train_on_validation=True: architectures would be chosen on images that are trained on"
    with pytest.raises(RefusedError, match=words):
        plan_run([*SMALL, *settings, "run_dir=unused"])
