"""HAPFNAS: what its stages reduce to, what they send, what survives a failing client or a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity

from clients.supernet_search import SupernetClient
from corolla.config.build import build_space, build_strategy
from corolla.config.compose import compose_values
from corolla.errors import RefusedError, RunFailedError
from corolla.launch import plan_run, start
from corolla.records.run_directory import RunDirectory
from corolla.search import measured
from corolla.search.predictor_search import PersonalSearchSettings
from corolla.settings import settings_of
from corolla.spaces.architecture import Architecture
from corolla.training.results import Evaluation
from corolla.training.subnet_scorer import SubnetScorer
from strategies.personal_search import PersonalSearch
from tests.conftest import make_space, quick
from tests.states import same
from tests.strategies.conftest import federation_of, results, resumed, run, small
from tests.strategies.test_late_budgets import _Roster
from tests.strategies.test_reductions import ONE, weights_of

HAPFNAS = "method=hapfnas"
SEARCH = "method.personal_search"
EVERYBODY = ["clients=3", "clients_per_round=3"]
SERVER_SET = ["server_set=held_out", "server_set.images=50"]
BALANCED = "trainer.loss=balanced_softmax"  # the method's own


def _run(path: Path, *overrides: str) -> RunDirectory:
    return run(path, HAPFNAS, *overrides)


def _without_distilling(path: Path, training: str, *overrides: str) -> RunDirectory:
    """Run with another stage 1, and no search: everybody has the smallest architecture."""
    values = [o for o in small(HAPFNAS) if not o.startswith("method.supernet_training")]
    own = [f"method/supernet_training={training}", f"{SEARCH}.by=smallest", f"run_dir={path}"]
    return start(plan_run([*values, *own, *overrides]))


def _fedavg(path: Path, *overrides: str) -> RunDirectory:
    """Run FedAvg of the smallest architecture on the same images."""
    smallest = "method.architecture=smallest"
    own = ["space=mobilenetv2_8", *SERVER_SET, smallest, BALANCED]
    return run(path, "method=fedavg", *own, *overrides)


# --- reductions -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("uncovered", quick(["keep", "zero"], "keep"))
def test_retraining_of_one_architecture_is_fedavg(uncovered: str, tmp_path: Path) -> None:
    rule = f"method.retraining.uncovered={uncovered}"
    retrained = _without_distilling(tmp_path / "hetero", "none", rule)
    averaged = _fedavg(tmp_path / "fedavg")
    weights = weights_of(retrained, "strategy/weights/")
    model = weights_of(averaged, "strategy/model/")
    for name, array in model.items():
        corner = tuple(
            # kernels of 3x3 sit in the centre of those of 5x5
            slice((full - n) // 2, (full - n) // 2 + n) if axis >= 2 else slice(n)
            for axis, (n, full) in enumerate(zip(array.shape, weights[name].shape, strict=True))
        )
        assert weights[name][corner].tobytes() == array.tobytes(), name
    rest = sum(w.size for w in weights.values()) - sum(m.size for m in model.values())
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    assert rest > 0
    assert (zeros >= rest) == (uncovered == "zero")


@pytest.mark.slow
def test_stage_3_may_have_a_loss_of_its_own(tmp_path: Path) -> None:
    runs = [
        _without_distilling(tmp_path / name, "none", *overrides)
        for name, overrides in {
            "own": ["method.retraining.loss=cross_entropy"],
            "all": ["trainer.loss=cross_entropy"],
            "balanced": [],
        }.items()
    ]
    own, everywhere, balanced = (weights_of(directory, "strategy/weights/") for directory in runs)
    assert same(own, everywhere)
    assert any((own[name] != balanced[name]).any() for name in own)


@pytest.mark.slow
def test_knowledge_models_are_averaged_as_fedavg_does(tmp_path: Path) -> None:
    knowledge = _run(tmp_path / "knowledge", "rounds=4", "method.supernet_training.rounds=2")
    averaged = _fedavg(tmp_path / "fedavg", "rounds=2")
    assert same(
        weights_of(knowledge, "strategy/training/knowledge/"),
        weights_of(averaged, "strategy/model/"),
    )


@pytest.mark.slow
def test_a_one_shot_supernet_of_one_architecture_is_fedavg(tmp_path: Path) -> None:
    one = ["space=mobilenetv3_8", ONE, "trainer.lr_schedule=constant"]
    shot = _without_distilling(
        tmp_path / "shot", "one_shot", *one, "method.supernet_training.rounds=2"
    )
    averaged = run(tmp_path / "fedavg", "method=fedavg", *SERVER_SET, *one, BALANCED)
    left = weights_of(shot, "strategy/weights/")
    right = weights_of(averaged, "strategy/model/")
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-4, atol=1e-5, err_msg=name)


# --- stage 1 --------------------------------------------------------------------------------------------


def test_stage_1_says_how_far_the_supernet_is(tmp_path: Path) -> None:
    directory = _run(tmp_path / "run")
    first, *_ = directory.metrics()
    assert first["stage"] == 1
    for key in ("distillation_loss", "teacher_accuracy", "supernet_accuracy_largest"):
        assert 0 <= first[key] < 10, key
    stages = {row["stage"]: row["bytes_down"] for row in directory.clients()}
    # The smallest subnet, the supernet, a subnet: nobody but stage 2 is sent all of it.
    assert stages[1] <= stages[3] < stages[2]


# --- stage 2 --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_on_the_client_and_one_at_the_server_find_the_same(tmp_path: Path) -> None:
    client = _run(tmp_path / "client", *EVERYBODY)
    # Ten, then two architectures, at most five an exchange: three exchanges of each client.
    server = _run(
        tmp_path / "server",
        *EVERYBODY,
        "rounds=5",
        f"{SEARCH}.where=server",
        f"{SEARCH}.subnets_per_exchange=5",
        f"{SEARCH}.rounds=3",
    )
    found = [
        {c: entry["choices"] for c, entry in directory.summary()["per_client"].items()}
        for directory in (client, server)
    ]
    assert found[0] == found[1]
    assert len({tuple(choices) for choices in found[0].values()}) > 1
    entries = client.summary()["per_client"].values()
    assert all(entry["measured"] == 12 and entry["searched"] for entry in entries)


@pytest.mark.slow
def test_nobody_is_sent_the_supernet_where_the_server_searches(tmp_path: Path) -> None:
    settings = [*EVERYBODY, "rounds=14", f"{SEARCH}.where=server"]
    directory = _run(
        tmp_path / "run", *settings, f"{SEARCH}.subnets_per_exchange=1", f"{SEARCH}.rounds=12"
    )
    searching = [row for row in directory.clients() if row["stage"] == 2]
    whole = sum(4 * w.size for w in weights_of(directory, "strategy/weights/").values())
    assert len(searching) == 3 * 12
    assert all(row["bytes_down"] < whole and row["bytes_up"] == 0 for row in searching)


@pytest.mark.slow
def test_test_images_choose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    make = SubnetScorer.__init__

    def spy(self: SubnetScorer, *arguments: Any, **settings: Any) -> None:
        seen.append(tuple(settings["validation"].labels.tolist()))
        make(self, *arguments, **settings)

    sets: dict[str, list[tuple[int, ...]]] = {"validation": [], "test": []}
    begin = SupernetClient.__init__

    def remember(self: SupernetClient, *, site: Any, settings: Any) -> None:
        for split, kept in sets.items():
            kept.append(tuple(getattr(site.data, split).labels.tolist()))
        begin(self, site=site, settings=settings)

    monkeypatch.setattr(SupernetClient, "__init__", remember)
    monkeypatch.setattr("clients.supernet_search.SubnetScorer.__init__", spy)
    _run(tmp_path / "fair", *EVERYBODY)
    on_clients = [labels for labels in seen if len(labels) != 50]  # 50: the server's own
    assert on_clients
    assert set(on_clients) <= set(sets["validation"])
    seen.clear()
    _run(tmp_path / "published", *EVERYBODY, f"{SEARCH}.fitness=test")
    on_clients = [labels for labels in seen if len(labels) != 50]
    assert on_clients
    assert set(on_clients) <= set(sets["test"])


def test_a_client_that_dies_in_stage_2_runs_the_smallest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    search = SupernetClient._do_search

    def die(self: SupernetClient, *arguments: Any) -> Any:
        if self._site.client == "1":
            raise RuntimeError("out of memory")
        return search(self, *arguments)

    monkeypatch.setattr(SupernetClient, "_do_search", die)
    directory = _run(tmp_path / "run", *EVERYBODY)
    entries = directory.summary()["per_client"]
    assert set(entries["1"]["choices"]) == {0}
    assert not entries["1"]["searched"]
    assert entries["0"]["searched"]
    assert entries["2"]["searched"]
    assert [line["failures"] for line in directory.metrics()] == [0, 1, 0]
    (warning,) = [text for text in caplog.messages if text.startswith("the search is over")]
    assert "1 of 3 clients found no architecture: 1. They train" in warning


@pytest.mark.slow
def test_another_round_of_search_reaches_those_who_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    search, died = SupernetClient._do_search, []

    def die_once(self: SupernetClient, *arguments: Any) -> Any:
        if self._site.client == "1" and not died:
            died.append(1)
            raise RuntimeError("out of memory")
        return search(self, *arguments)

    monkeypatch.setattr(SupernetClient, "_do_search", die_once)
    directory = _run(tmp_path / "run", *EVERYBODY, "rounds=4", f"{SEARCH}.rounds=2")
    assert [len(line["participants"]) for line in directory.metrics()] == [3, 2, 1, 3]
    assert all(entry["searched"] for entry in directory.summary()["per_client"].values())
    assert "the search is over" not in caplog.text


def test_a_search_that_came_too_late_is_not_made_again_in_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, score, late, scored = SupernetClient._do_search, SubnetScorer.__call__, [], []

    def come_too_late(self: SupernetClient, *arguments: Any) -> Any:
        found = search(self, *arguments)
        if self._site.client == "1" and not late:
            late.append(1)
            raise TimeoutError("the server waits no more")
        return found

    monkeypatch.setattr(SupernetClient, "_do_search", come_too_late)
    monkeypatch.setattr(
        SubnetScorer, "__call__", lambda self, a: (scored.append(a), score(self, a))[1]
    )
    quiet = ["method.supernet_training.score_every=0", "evaluation.every=0"]
    directory = _run(tmp_path / "run", *EVERYBODY, "rounds=4", f"{SEARCH}.rounds=2", *quiet)
    assert [line["participants"] for line in directory.metrics()][1:3] == [["0", "2"], ["1"]]
    assert len(scored) == 3 * 12
    entries = directory.summary()["per_client"].values()
    assert all(entry["searched"] and entry["measured"] == 12 for entry in entries)


@pytest.mark.parametrize("failing", [[], ["0"], ["1", "3"]])
@pytest.mark.parametrize("participants", [1, 2, 3])
def test_who_fails_keeps_nobody_else_from_searching(failing: list[str], participants: int) -> None:
    settings = ["clients=5", f"clients_per_round={participants}", "rounds=20"]
    config = plan_run(small(HAPFNAS, *settings, "run_dir=unused")).config
    federation = federation_of(config)
    search = PersonalSearch(
        federation=federation,
        settings=settings_of(PersonalSearchSettings, config.method.settings["personal_search"]),
    )
    clients = [str(number) for number in range(5)]
    rounds = -(-len(clients) // participants) + len(failing)  # as `rounds: null` gives, and theirs
    for server_round in range(4, 4 + rounds):
        cohort = search.cohort(server_round, clients)
        assert len(cohort) <= participants
        for client in set(cohort) - set(failing):
            search._found[client] = federation.space.smallest()
    assert sorted(search._found) == sorted(set(clients) - set(failing))


@pytest.mark.slow
def test_a_search_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _run(tmp_path / "whole", *EVERYBODY)
    monkeypatch.setattr("clients.supernet_search._PIECE", 4)
    score, scored = SubnetScorer.__call__, []

    def pull_the_plug(self: SubnetScorer, architecture: Architecture) -> Evaluation:
        scored.append(architecture)
        if len(scored) == 4 + 7:  # 4 are the server's, of stage 1; the second save never comes
            raise KeyboardInterrupt
        return score(self, architecture)

    with monkeypatch.context() as patch:
        patch.setattr(SubnetScorer, "__call__", pull_the_plug)
        with pytest.raises((KeyboardInterrupt, RunFailedError, SystemExit)):
            _run(tmp_path / "broken", *EVERYBODY)
    scored.clear()
    monkeypatch.setattr(
        SubnetScorer, "__call__", lambda self, a: (scored.append(a), score(self, a))[1]
    )
    assert results(resumed(tmp_path / "broken")) == results(whole)
    assert len(scored) == 3 * 12 - 4  # what was saved is not measured again


def test_a_claim_beyond_the_limits_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = make_space("mobilenetv2_8").largest().to_list()
    honest = measured.to_lists

    def boast(measured: Sequence[Any]) -> dict[str, list[Any]]:
        lists = honest(measured)
        best = lists["losses"].index(min(lists["losses"]))
        width = len(lists["choices"]) // len(lists["losses"])
        lists["choices"][best * width : (best + 1) * width] = largest
        return lists

    monkeypatch.setattr("clients.supernet_search.to_lists", boast)
    directory = _run(tmp_path / "run", *EVERYBODY, "cap=range", "cap.low=0.05", "cap.high=0.1")
    entries = directory.summary()["per_client"].values()
    assert not any(entry["searched"] for entry in entries)
    assert all(entry["macs"] <= entry["macs_cap"] for entry in entries)


@pytest.mark.parametrize("by", quick(["predictor", "random"], "predictor"))
def test_caps_hold_for_what_is_deployed(by: str, tmp_path: Path) -> None:
    directory = _run(tmp_path / "run", "cap=range", "cap.high=0.5", f"{SEARCH}.by={by}", *EVERYBODY)
    for entry in directory.summary()["per_client"].values():
        assert entry["macs"] <= entry["macs_cap"]
    for row in directory.clients():
        assert row["macs"] <= directory.summary()["per_client"][row["client"]]["macs_cap"]


# --- real nodes: limits that are not known before ---------------------------------------------------------


def test_a_node_that_joins_before_an_evaluation_deploys_within_its_cap() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    settings = ["method/supernet_training=none", f"{SEARCH}.by=random"]
    values = [o for o in small(HAPFNAS) if not o.startswith("method.supernet_training")]
    config = plan_run([*values, *settings, "run_dir=unused"]).config
    federation = federation_of(config)
    space = federation.space
    strategy = build_strategy(config, federation=replace(federation, on_nodes=True))
    assert strategy.deployed("1").architecture != space.smallest()  # without a limit
    cap = float(space.costs(space.smallest()).macs)
    strategy.roster = _Roster({"1": {"macs_cap": cap}}, online="01")
    messages = strategy.start_evaluation(1, ["0", "1"], {"0": 10, "1": 11})
    sent = {str(m.content["task"]["client"]): m.content["task"]["architecture"] for m in messages}
    assert list(sent["1"]) == space.smallest().to_list()


def test_a_node_that_cannot_train_the_knowledge_model_sits_stage_1_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = plan_run(
        small(HAPFNAS, "method.supernet_training.knowledge=largest", "run_dir=unused")
    ).config
    space = build_space(config)
    caps = {"1": float(space.costs(space.smallest()).macs)}
    federation = federation_of(config, caps=caps)
    with pytest.raises(RefusedError, match=r"knowledge='largest': takes .* limits of client 1\."):
        build_strategy(config, federation=federation)
    strategy = build_strategy(config, federation=replace(federation, on_nodes=True))
    assert strategy.cohort(1, ["0", "1"]) == strategy.cohort(1, ["0", "1"]) == ["0"]
    assert strategy.cohort(2, ["0", "1"]) == ["0", "1"]  # of the search
    said = "the knowledge model is beyond the limits of 1: left out of stage 1"
    assert caplog.messages.count(said) == 1


def test_a_search_has_time_at_full_size() -> None:
    # By hand: 20 clients of half an hour on one core, and as much again.
    assert (
        compose_values(["experiment=hapfnas_tiny_imagenet_20"])["round_timeout_s"] > 20 * 1800 * 2
    )
