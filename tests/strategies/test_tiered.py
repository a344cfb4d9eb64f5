"""SuperFedNAS and DeepFedNAS: a supernet, then an architecture per tier; global and personalised apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from corolla.spaces.architecture import Architecture
from corolla.tasks import Reply, Task
from strategies.running.pooled import pooled, statistics_together
from strategies.tiered import Tiered
from tests.strategies.conftest import changed_replies, reply_to, run
from tests.strategies.test_contract import _config, _replies, _strategy

FITTEST = ["method=deepfednas", "space=elastic_cnn", "space.supernet.resolution=8"]


def test_tiers_are_trained_on_and_what_is_global_stays_apart(tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run",
        *FITTEST,
        "clients=3",
        "clients_per_round=3",
        "evaluation.every=0",
        "cap=tiers",
        "cap.shares=[0.4,1.0]",
        "method.tiers.shares=[0.4,1.0]",
        "method.fine_tuning.rounds=1",
        "method.fine_tuning.lr=0.01",
    )
    summary = directory.summary()
    tiers = summary["pooled"]
    assert list(tiers) == ["tier 1", "tier 2"]
    assert tiers["tier 1"]["macs"] < tiers["tier 2"]["macs"]
    # A client runs the highest tier that fits it: of three clients two have the smaller cap.
    entries = summary["per_client"]
    assert sorted(entry["tier"] for entry in entries.values()) == [1, 1, 2]
    for entry in entries.values():
        assert entry["choices"] == tiers[f"tier {entry['tier']}"]["choices"]
        assert entry["within_limits"]
    # Pooled over the images of who can run the tier; never under the clients' own accuracy.
    for number, clients in ((1, 3), (2, 1)):
        able = [entry for entry in entries.values() if entry["tier"] >= number]
        tier = tiers[f"tier {number}"]
        assert tier["clients"] == len(able) == clients
        assert tier["test_images"] == sum(entry["num_examples"]["test"] for entry in able)
    assert "global" not in summary
    assert set(summary["test_accuracy"]) == {
        "mean",
        "weighted_mean",
        "std",
        "worst_decile",
        "per_client",
    }
    rows = directory.clients()
    assert [row["round"] for row in rows if "tier" in row] == [3, 3, 3]
    assert ["largest_weight" in line for line in directory.metrics()] == [True, True, False]


class _Scored:
    def __init__(self, client: str, accuracy: float) -> None:
        self.client = client
        self.metrics = {"test_accuracy": accuracy, "val_accuracy": accuracy}


def test_a_pooled_accuracy_counts_images_not_clients() -> None:
    facts = {
        "0": {"num_examples": {"test": 10, "validation": 1}},
        "1": {"num_examples": {"test": 30, "validation": 1}},
    }
    replies = [_Scored("0", 0.5), _Scored("1", 0.9)]
    # By hand: (5 + 27) of 40, and (0.5 + 0.9) / 2.
    scores = pooled(replies, facts)  # type: ignore[arg-type]
    assert scores == pytest.approx({"test_accuracy": 0.8, "val_accuracy": 0.7, "test_images": 40})


def test_fine_tuning_averages_a_tier_among_its_own_clients() -> None:
    tuning = [f"method.fine_tuning.{own}" for own in ("rounds=1", "epochs=7", "lr=0.02")]
    strategy = _strategy(_config("deepfednas", *FITTEST[1:], *tuning))
    strategy.absorb(1, _replies(strategy, 1, ["0", "1"]))
    strategy.absorb(2, _replies(strategy, 2, ["0", "1"]))
    orders = strategy.orders(3, ["0", "1"])
    assert orders[0].task.architecture == orders[1].task.architecture  # no limits: the highest
    assert [(order.task.epochs, order.task.lr) for order in orders] == [(7, 0.02)] * 2
    one, other = changed_replies(orders, {"0": 10, "1": 30})
    strategy.absorb(3, [one, other])
    deployed = strategy.deployed("2").arrays
    for name, array in deployed.items():
        wanted = (10 * one.arrays[name] + 30 * other.arrays[name]) / 40
        assert array == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert not strategy.conclude()  # nothing is left to be searched


@pytest.mark.parametrize(("server_round", "beta"), [(1, 0.9), (3, (0.9 + 1 / 3) / 2), (5, 1 / 3)])
def test_the_largest_weighs_beta_of_its_round_and_the_others_share_the_rest(
    server_round: int, beta: float
) -> None:
    """Of six rounds the last fine-tunes; the weight falls in four of five, by half a cosine at t = 2."""
    settings = ["rounds=6", "clients=3", "clients_per_round=3", "method.fine_tuning.rounds=1"]
    strategy = _strategy(_config("deepfednas", *FITTEST[1:], *settings))
    replies = _replies(strategy, server_round, ["0", "1", "2"])
    strategy.absorb(server_round, replies)
    whole = strategy.space.largest()
    most = [reply.task.architecture == whole for reply in replies]
    assert most.count(True) == 1
    name = "classifier.bias"  # everybody holds all of it
    wanted = sum(
        (beta if largest else (1 - beta) / 2) * reply.arrays[name]
        for largest, reply in zip(most, replies, strict=True)
    )
    (found,) = (a for key, a in strategy.state().arrays.items() if key.endswith(f"/{name}"))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_where_the_largest_fails_the_others_weigh_the_same() -> None:
    """Beta is the largest's alone: of the two that answered, in round 1, each weighs 1/2, not 0.9 and 0.1."""
    settings = ["rounds=6", "clients=3", "clients_per_round=3", "method.fine_tuning.rounds=1"]
    strategy = _strategy(_config("deepfednas", *FITTEST[1:], *settings))
    replies = _replies(strategy, 1, ["0", "1", "2"])
    whole = strategy.space.largest()
    one, other = [reply for reply in replies if reply.task.architecture != whole]
    assert one.task.architecture != other.task.architecture
    outcome = strategy.absorb(1, [one, other])
    name = "classifier.bias"  # everybody holds all of it
    (found,) = (a for key, a in strategy.state().arrays.items() if key.endswith(f"/{name}"))
    assert found == pytest.approx((one.arrays[name] + other.arrays[name]) / 2, rel=1e-5)
    assert "largest_weight" not in outcome.metrics


def test_a_tiers_architecture_has_the_lowest_loss_of_all_that_were_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [*FITTEST[1:], "server_set=held_out", "server_set.images=50"]
    tiers = ["method.tiers.by=validation", "method.tiers.shares=[0.5,1.0]"]
    strategy = _strategy(_config("deepfednas", *settings, *tiers))
    assert isinstance(strategy, Tiered)
    seen: dict[Architecture, float] = {}

    def score(architecture: Architecture) -> SimpleNamespace:
        loss = seen.setdefault(architecture, float(hash(architecture) % 1000))
        return SimpleNamespace(loss=loss, accuracy=-loss)

    monkeypatch.setattr(Tiered, "_scorer", lambda *_: score)
    strategy.conclude()
    bound = strategy.space.cost(strategy.space.largest()) / 2
    cheap = {one: loss for one, loss in seen.items() if strategy.space.cost(one) <= bound}
    dear = {one: loss for one, loss in seen.items() if one not in cheap}
    assert min(len(cheap), len(dear)) > 3
    found = [model.architecture for model in strategy.global_models().values()]
    assert [seen[one] for one in found] == [min(cheap.values()), min(dear.values())]


def test_a_tier_is_scored_with_batchnorm_of_all_clients_images(tmp_path: Path) -> None:
    """The supernet's own are averages over subnets of all sizes: by them a small tier guesses."""
    ofa = ["method=deepfednas", "space=ofa_resnet_small", "space.supernet.resolution=8"]
    one = ["clients=1", "clients_per_round=1", "evaluation.every=0", "rounds=2"]
    cache = ["method.proposals.cache.entries=2", "method.tiers.shares=[1.0]", "trainer.lr=0.05"]
    evolution = "{population:2,generations:0,mutants:1,crossovers:1}"
    cache += [f"method.{where}.evolution={evolution}" for where in ("tiers", "proposals.cache")]
    summary = run(tmp_path / "run", *ofa, *one, *cache).summary()
    (tier,) = summary["pooled"].values()
    # All clients' images are the one client's, and so are the statistics: the tier is what it deploys.
    assert tier["choices"] == summary["per_client"]["0"]["choices"]
    assert tier["val_accuracy"] == summary["as_trained"]["val_accuracy"]["mean"]
    assert tier["test_accuracy"] == summary["as_trained"]["test_accuracy"]["mean"]


def test_a_client_whose_statistics_are_beyond_all_bounds_spoils_nobodys() -> None:
    """By hand: of two equal clients with means 0 and 2 and variances 1, mean 1 and variance 1 + 1."""

    def reply(client: str, mean: float) -> Reply:
        arrays = {"bn.running_mean": np.full(1, mean, np.float32), "bn.running_var": np.ones(1)}
        task = Task(client=client, round=1, architecture=Architecture((0,)))
        return reply_to(task, {name: array.astype(np.float32) for name, array in arrays.items()})

    replies = [reply("0", 0.0), reply("1", 2.0), reply("2", 1e30)]
    found = statistics_together(replies[0].arrays, replies, rule=None)
    assert (found["bn.running_mean"].item(), found["bn.running_var"].item()) == (1.0, 2.0)
