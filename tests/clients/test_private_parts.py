"""What a client keeps of its model's private parts, by round and in the size of the supernet."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.private_parts import PrivatePartsClient
from corolla.aggregation.regions import cut, paste
from corolla.records.client_store import ClientStore
from corolla.spaces.architecture import Architecture
from corolla.tasks import Answer, Task
from corolla.types import Arrays
from tests.conftest import make_space

SPACE = make_space("elastic_resnet", resolution=8, widths=[[4, 8], [8, 16]], depths=[1, 2])
PARTS = ["head", "norm"]
NAMES = SPACE.names_in(PARTS)
INITIAL = SPACE.initial_state(0)
ADDED = {1: 0.5, 2: 0.25, 3: 2.0, 4: 4.0, 5: 8.0}  # round -> what is added to all: exact in float32


class Adding:
    """A client whose training adds a number, the round's, to all that it is given."""

    def __init__(self) -> None:
        self.seen: Arrays = {}

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        self.seen = {name: array.copy() for name, array in arrays.items()}
        trained = {name: array + np.float32(ADDED[task.round]) for name, array in arrays.items()}
        for array in arrays.values():
            array.fill(0)  # models are trained in place
        return Answer(num_examples=1, arrays=trained, metrics={"train_loss": 1.0})

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        self.seen = arrays
        return Answer(num_examples=1, metrics={"val_loss": 1.0})

    deploy = fit


def _client(
    root: Path, inner: Adding, name: str = "1", *, deploys: str = "as_trained"
) -> PrivatePartsClient:
    evaluation = SimpleNamespace(deploy=deploys)
    config = SimpleNamespace(private=PARTS, seed=0, rounds=5, evaluation=evaluation)
    site: Any = SimpleNamespace(client=name, config=config, space=SPACE, store=ClientStore(root))
    return PrivatePartsClient(site=site, client=inner)  # type: ignore[arg-type]


def _task(round: int, architecture: Architecture, name: str = "1") -> Task:
    return Task(client=name, round=round, architecture=architecture, withheld=architecture)


def _public(architecture: Architecture) -> Arrays:
    arrays = SPACE.cut(INITIAL, architecture)
    return {name: array for name, array in arrays.items() if name not in NAMES}


def _kept(root: Path, round: int) -> Arrays:
    found = ClientStore(root).apart("private").load("1", round + 1)
    assert found is not None
    assert found[0] == round
    return found[1].arrays


@settings(max_examples=8)
@given(seeds=st.lists(st.integers(0, 2**32), min_size=3, max_size=3))
def test_private_arrays_are_cut_and_pasted_back_for_any_architecture(
    seeds: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, inner = tmp_path_factory.mktemp("store"), Adding()
    expected = {name: INITIAL[name] for name in NAMES}
    for round, seed in enumerate(seeds, start=1):
        architecture = SPACE.sample(np.random.default_rng(seed))
        answer = _client(root, inner).fit(_task(round, architecture), _public(architecture))
        regions = {n: r for n, r in SPACE.regions(architecture).items() if n in NAMES}
        held = cut(expected, regions)
        assert list(inner.seen) == list(SPACE.shapes(architecture))
        assert all(inner.seen[name].tobytes() == array.tobytes() for name, array in held.items())
        added = {name: array + np.float32(ADDED[round]) for name, array in held.items()}
        expected = paste(expected, added, regions)  # outside of the cut: as it was
        kept = _kept(root, round)
        assert kept.keys() == expected.keys()
        assert all(kept[name].tobytes() == expected[name].tobytes() for name in expected)
        assert answer.arrays.keys() == _public(architecture).keys()
        assert answer.metrics["state_restarted"] == 0


def test_a_repeated_round_starts_where_it_first_started(tmp_path: Path) -> None:
    inner, largest = Adding(), SPACE.largest()
    for round in (1, 2, 2):
        _client(tmp_path, inner).fit(_task(round, largest), _public(largest))
    for name in NAMES:
        np.testing.assert_array_equal(_kept(tmp_path, 2)[name], INITIAL[name] + 0.5 + 0.25)


def test_scores_and_deployed_models_have_what_the_round_left(tmp_path: Path) -> None:
    inner, largest = Adding(), SPACE.largest()
    client = _client(tmp_path, inner)
    client.fit(_task(1, largest), _public(largest))
    client.evaluate(_task(1, largest), _public(largest))
    assert all((inner.seen[name] == INITIAL[name] + np.float32(0.5)).all() for name in NAMES)
    deployed = client.deploy(_task(1, largest), _public(largest))
    assert all((inner.seen[name] == INITIAL[name] + np.float32(0.5)).all() for name in NAMES)
    assert not NAMES & deployed.arrays.keys()  # nor was anything kept of its fine-tuning:
    assert (_kept(tmp_path, 1)["3.bias"] == INITIAL["3.bias"] + np.float32(0.5)).all()


@pytest.mark.parametrize(("deploys", "rounds"), [("as_trained", 3), ("fine_tuned", 5)])
def test_all_rounds_are_kept_where_one_of_long_ago_may_be_deployed(
    deploys: str, rounds: int, tmp_path: Path
) -> None:
    smallest = SPACE.smallest()
    for round in range(1, 6):
        client = _client(tmp_path, Adding(), deploys=deploys)
        client.fit(_task(round, smallest), _public(smallest))
    assert len([*tmp_path.glob("+private/1/round-*")]) == rounds


def test_arrays_of_no_network_pass_as_they_are(tmp_path: Path) -> None:
    inner = Adding()
    task = replace(_task(1, SPACE.largest()), withheld=None)
    answer = _client(tmp_path, inner).fit(task, {"pixels": np.zeros(3, np.float32)})
    assert list(inner.seen) == list(answer.arrays) == ["pixels"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", b"{}" * 99, "its training diverged"])
def test_damaged_parts_start_anew_loudly(
    damage: bytes | str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner, largest = Adding(), SPACE.largest()
    if isinstance(damage, str):
        monkeypatch.setitem(ADDED, 1, np.nan)
    _client(tmp_path, inner).fit(_task(1, largest), _public(largest))
    (path,) = tmp_path.glob("+private/1/*.safetensors")
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    with caplog.at_level(logging.ERROR):
        answer = _client(tmp_path, inner).fit(_task(2, largest), _public(largest))
    assert "client 1: the private part of its model STARTS ANEW" in caplog.text
    assert answer.metrics["state_restarted"] == 1
    assert all(inner.seen[name].tobytes() == INITIAL[name].tobytes() for name in NAMES)


def test_no_clients_own_states_lie_where_private_parts_do(tmp_path: Path) -> None:
    inner, largest, name = Adding(), SPACE.largest(), "+private"
    _client(tmp_path, inner, name).fit(_task(1, largest, name), _public(largest))
    store = ClientStore(tmp_path)
    assert store.load(name, 9) is None
    assert store.apart("private").load(name, 9) is not None
