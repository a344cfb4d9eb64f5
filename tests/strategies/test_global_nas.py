"""Global NAS: what the server decides, on whose images; and what is refused before a start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from corolla.config.build import build_dataset, build_partition
from corolla.config.schema import RunConfig
from corolla.data.partition.partition import SPLITS, Partition
from corolla.data.server_set import HeldOut
from corolla.errors import RefusedError
from corolla.launch import plan_run, start
from corolla.records.run_directory import RunDirectory
from corolla.tasks import Reply
from corolla.training.variants import VariantScore, VariantScorer
from strategies.fedavg import FedAvg, FedAvgSettings
from strategies.global_nas import GlobalNas
from tests.conftest import make_space
from tests.search.judges import scored
from tests.states import differences
from tests.strategies.conftest import SMALL, reply_to, run, small, strategy_of
from tests.strategies.test_reductions import weights_of

NAS = "method=global_nas"
SKIP, CONV = "skip_connect", "sep_conv_3x3"
TINY = {"resolution": 8, "channels": 4, "cells": 3, "nodes": 1}
# Everybody takes part; the two edges of either cell are decided before rounds 2 and 3.
ALL = ["clients=3", "clients_per_round=3", "rounds=4", "method.search.warmup_rounds=1"]


def _config(*overrides: str) -> RunConfig:
    return plan_run(small(NAS, "run_dir=unused", *overrides)).config


def _strategy(config: RunConfig) -> GlobalNas:
    strategy = strategy_of(config)
    assert isinstance(strategy, GlobalNas)
    return strategy


def _answer(strategy: GlobalNas, round: int, changes: dict[str, tuple[int, float]]) -> list[Reply]:
    """Return replies that add a number to every weight: client -> (images, that number)."""
    return [
        reply_to(
            order.task, {n: (a + added).astype(a.dtype) for n, a in order.arrays.items()}, images
        )
        for order in strategy.orders(round, list(changes))
        for images, added in [changes[order.task.client]]
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run to its end with 100 images at the server."""
    path = tmp_path_factory.mktemp("nas") / "run"
    return run(path, NAS, *ALL, "server_set.images=100", "method.search.near_ties=0")


# --- the search ---------------------------------------------------------------------------------------


def test_the_network_becomes_small_and_everybody_trains_the_same(whole: RunDirectory) -> None:
    lines = whole.metrics()
    # By hand: four edges (two of either cell), one of either cell a step, before rounds 2 and 3.
    assert [line["undecided"] for line in lines] == [4, 2, 0, 0]
    made = [line["decisions"] for line in lines]
    assert [[d["cell"] for d in each] for each in made] == [
        [], ["normal", "reduce"], ["normal", "reduce"], []
    ]  # fmt: skip
    assert [d["round"] for each in made for d in each] == [2, 2, 3, 3]
    for decision in (d for each in made for d in each):
        scores, kept = decision["scores"], decision["kept"]
        assert set(scores) == {SKIP, CONV} == {kept, *decision["removed"]}
        assert scores[kept][1] == max(loss for _, loss in scores.values())
    rows = whole.clients()
    for round in (1, 2, 3, 4):
        assert len({tuple(row["architecture"]) for row in rows if row["round"] == round}) == 1
    sizes = [row["params"] for row in rows if row["client"] == "0"]
    assert sizes[0] >= sizes[1] >= sizes[2] == sizes[3]
    kept = {d["cell"] + "." + d["where"]: d["kept"] for each in made for d in each}
    entries = whole.summary()["per_client"]
    assert all(entry["architecture"] == kept for entry in entries.values())
    assert whole.summary()["global"]["test_accuracy"]["mean"] > 0
    assert json.loads(json.dumps(made)) == made


def test_scores_are_those_of_the_servers_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server set would decide otherwise: the judge is told 50 images, and which."""
    config = _config(*ALL, "server_set.images=50")
    seen: list[tuple[int, list[int]]] = []
    make = VariantScorer.__init__

    def watch(self: VariantScorer, trainer: Any, images: Any, **settings: Any) -> None:
        seen.append((len(images), images.labels.tolist()))
        assert (images.mean, images.std) == ((0.3053,), (0.3759,))
        make(self, trainer, images, **settings)

    monkeypatch.setattr(VariantScorer, "__init__", watch)
    strategy = _strategy(config)
    strategy.orders(1, ["0"])
    assert seen == []  # nothing is due, nothing is read
    strategy.absorb(1, _answer(strategy, 1, {"0": (10, 0.0)}))
    strategy.orders(2, ["0"])
    dataset = build_dataset(config)
    held = HeldOut(images=50, seed=config.seed).held_out(len(dataset.labels()))
    assert seen == [(50, dataset.labels()[held].tolist())]


def test_the_operation_goes_whose_absence_costs_least_and_weights_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judge(self: VariantScorer, network: Any, variants: Any) -> list[VariantScore]:
        names = [variant.args[2] for variant in variants]  # network.masked(kind, edge, name)
        return [scored([0.8] * 5, [1.5 if name == SKIP else 1.0] * 5) for name in names]

    monkeypatch.setattr(VariantScorer, "__call__", judge)
    strategy = _strategy(_config(*ALL))
    before = strategy.state()
    # By hand: (1 * 3.0 + 3 * 1.0) / 4 = 1.5 is added to every weight.
    strategy.absorb(1, _answer(strategy, 1, {"0": (1, 3.0), "1": (3, 1.0)}))
    full = strategy.state()
    for name, array in full.arrays.items():
        np.testing.assert_allclose(array, before.arrays[name] + 1.5, rtol=1e-5, atol=1e-5)
    (order,) = strategy.orders(2, ["1"])
    assert set(full.part("model/")) - set(order.arrays) != set()
    assert all(
        array.tobytes() == full.arrays[f"model/{name}"].tobytes()
        for name, array in order.arrays.items()
    )
    assert {n: a.shape for n, a in order.arrays.items()} == dict(order.returns)
    assert not differences(full, strategy.state())  # orders decided nothing for good
    outcome = strategy.absorb(2, _answer(strategy, 2, {"1": (3, 0.0)}))
    made: Any = outcome.metrics["decisions"]
    assert [(d["kept"], d["removed"], round(d["margin"], 6)) for d in made] == [
        (SKIP, [CONV], 0.5)
    ] * 2
    assert strategy.state().meta["steps"] == 1


def test_a_round_without_answers_leaves_its_decisions_to_the_next() -> None:
    strategy, other = (_strategy(_config(*ALL)) for _ in range(2))
    for each in (strategy, other):
        each.absorb(1, _answer(each, 1, {"0": (1, 0.1)}))
    strategy.orders(2, ["0"])
    outcome = strategy.absorb(2, [])
    assert (outcome.metrics["decisions"], outcome.metrics["undecided"]) == ([], 4)
    later: Any = strategy.absorb(3, _answer(strategy, 3, {"0": (1, 0.1)})).metrics["decisions"]
    now: Any = other.absorb(2, _answer(other, 2, {"0": (1, 0.1)})).metrics["decisions"]
    assert [{**d, "round": 2} for d in later] == now
    assert [d["round"] for d in later] == [3, 3]


@pytest.mark.parametrize(("clock", "steps"), [("rounds", 1), ("participations", 0)])
def test_the_clock_counts_rounds_or_only_those_that_trained(clock: str, steps: int) -> None:
    strategy = _strategy(
        _config(*ALL, f"method.search.clock={clock}", "method.search.warmup_rounds=2")
    )
    strategy.absorb(1, _answer(strategy, 1, {"0": (1, 0.1)}))
    strategy.absorb(2, [])
    strategy.absorb(3, _answer(strategy, 3, {"0": (1, 0.1)}))
    assert strategy.state().meta["steps"] == steps


def test_a_search_by_lot_reads_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = _strategy(_config(*ALL, "method/search=random"))
    monkeypatch.setattr(HeldOut, "load", lambda *_: pytest.fail("images were read"))
    for round in (1, 2, 3):
        strategy.absorb(round, _answer(strategy, round, {"0": (1, 0.1)}))
    assert strategy.state().meta["undecided"] == 0


def test_before_the_first_step_it_is_fedavg_on_the_supernet() -> None:
    config = _config(*ALL)
    nas = _strategy(config)
    settings = FedAvgSettings(architecture="largest", weights="examples", server_momentum=0.0)
    plain = FedAvg(federation=nas.federation, settings=settings)
    replies = _answer(nas, 1, {"0": (7, 0.3), "2": (11, -0.2)})
    assert [order.task for order in nas.orders(1, ["0", "2"])] == [reply.task for reply in replies]
    nas.absorb(1, replies)
    plain.absorb(1, replies)
    left, right = nas.state().part("model/"), plain.state().part("model/")
    assert left.keys() == right.keys()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_final_weights_are_those_of_the_final_architecture(whole: RunDirectory) -> None:
    final = weights_of(whole, "strategy/model/")
    description, _ = whole.client_model("0")
    space = make_space("darts_s2_mixed_small", in_channels=1, **TINY)
    shapes = space.shapes(space.named(description["choices"]))
    assert {name: array.shape for name, array in final.items()} == dict(shapes)
    assert len(final) < len(space.supernet_shapes)


# --- the server's images --------------------------------------------------------------------------------


def test_held_out_images_are_nobodys(whole: RunDirectory) -> None:
    content = json.loads((whole.path / "partition.json").read_text())
    held = content["held_out"]
    given = [i for row in content["clients"].values() for s in SPLITS for i in row[s]]
    assert len(held) == len(set(held)) == 100
    assert len(given) == len(set(given) - set(held)) == 3 * 30
    assert Partition.load(whole.path / "partition.json").held_out.tolist() == held


def test_other_methods_can_be_given_the_same_division(tmp_path: Path) -> None:
    held = ["server_set=held_out", "server_set.images=100"]
    configs = [_config(*ALL, *held)]
    configs.append(plan_run([*SMALL, "method=fedavg", "run_dir=unused", *ALL[:2], *held]).config)
    first, second = (build_partition(config, build_dataset(config)) for config in configs)
    for client in first.clients:
        assert first.clients[client].all().tolist() == second.clients[client].all().tolist()


def _folder(root: Path, classes: str = "0123456789", size: int = 8) -> Path:
    for label, name in enumerate(classes):
        for number in range(2):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (size, size), 20 * label + number).save(path)
    return root


def _other(root: Path, **changes: object) -> list[str]:
    settings = {"root": root, "resolution": 8, "channels": 1, "cache_dir": "none"} | changes
    return ["server_set=dataset", *(f"server_set.dataset.{k}={v}" for k, v in settings.items())]


def test_a_folder_of_the_servers_own_takes_nothing_from_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folder(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    plain = [text for text in small(NAS) if not text.startswith("server_set")]
    given = [*plain, *ALL, *_other(Path("own")), NAS, f"run_dir={tmp_path / 'run'}"]
    plan = plan_run(given)
    assert plan.config.server_set["dataset"]["root"] == str(tmp_path / "own")
    directory = start(plan)
    content = json.loads((directory.path / "partition.json").read_text())
    assert "held_out" not in content
    assert sum(len(r[s]) for r in content["clients"].values() for s in SPLITS) == 3 * 30
    made = [d for line in directory.metrics() for d in line["decisions"]]
    accuracies = [accuracy for d in made for accuracy, _ in d["scores"].values()]
    assert len(made) == 4
    # Of 20 images.
    assert all(a * 20 == pytest.approx(round(a * 20)) for a in accuracies)
    side = _strategy(plan.config).federation.server
    assert side is not None
    assert (side.images.images.mean, side.images.images.std) == (
        (0.3053,),
        (0.3759,),
    )  # the clients'
    assert side.images.images.labels.bincount().tolist() == [2] * 10


# --- what is refused --------------------------------------------------------------------------------------


def _refused(*overrides: str) -> dict[str, str]:
    """Return key -> all that is said of it."""
    settings = [text for text in small(NAS) if not text.startswith("server_set")]
    with pytest.raises(RefusedError) as error:
        plan_run([*settings, NAS, "run_dir=unused", *ALL, *overrides])
    return {fault.key: str(fault) for fault in error.value.faults}


def test_a_data_set_that_is_not_the_servers(tmp_path: Path) -> None:
    faults = _refused("server_set=dataset")
    assert list(faults) == ["server_set.dataset.root"]
    assert "Set server_set.dataset.root=PATH" in faults["server_set.dataset.root"]
    letters = _folder(tmp_path / "letters", classes="abcdefghij", size=9)
    faults = _refused(*_other(letters, resolution=9, channels=3))
    assert set(faults) == {
        "server_set.dataset", "server_set.dataset.channels", "server_set.dataset.resolution"
    }  # fmt: skip
    assert "has the classes a, b" in faults["server_set.dataset"]
    assert "server_set.dataset.resolution=8" in faults["server_set.dataset.resolution"]
    same = ["server_set=dataset", "dataset@server_set.dataset=digits"]
    assert "the clients' own images" in _refused(*same)["server_set.dataset"]
    broken = _folder(tmp_path / "broken")
    (broken / "3" / "0.png").write_bytes(b"no image")
    faults = _refused(*_other(broken))
    assert list(faults) == ["server_set.dataset.root"]
    assert "3/0.png" in faults["server_set.dataset.root"]


def test_a_partition_file_may_not_hand_out_the_servers_images(whole: RunDirectory) -> None:
    again = ["partition=file", f"partition.path={whole.path / 'partition.json'}"]
    held = ["server_set=held_out", "server_set.images=100"]
    plain = ["method=fedavg", *ALL[:2], *again, *held, "run_dir=unused"]
    same = plan_run([*SMALL[:5], *plain])
    assert same.partition is not None
    assert len(same.partition.held_out) == 100
    with pytest.raises(RefusedError, match="gives clients 0, 1, 2 images held out") as error:
        plan_run([*SMALL[:5], *plain, "seed=1"])
    assert [fault.key for fault in error.value.faults] == ["partition.path"]
    plan_run([*SMALL[:5], *plain, "seed=1", "server_set.seed=0"])  # the draw has its own seed
