from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.errors import RefusedError
from corolla.records.client_store import ClientStore
from corolla.records.errors import CorruptStateError
from corolla.records.tensor_files import read_tensors, write_tensors
from tests.states import differences

from .conftest import state_of


@pytest.fixture
def store(tmp_path: Path) -> ClientStore:
    return ClientStore(tmp_path / "state")


def test_a_client_that_was_never_here_has_no_state(store: ClientStore) -> None:
    assert store.load("0", before_round=5) is None


def test_a_repeated_round_starts_from_what_it_first_started_from(store: ClientStore) -> None:
    store.save("0", 3, state_of(3))
    store.save("0", 7, state_of(7))
    found = store.load("0", before_round=7)  # the server crashed in round 7 and repeats it
    assert found is not None
    assert found[0] == 3
    assert not differences(found[1], state_of(3))
    store.save("0", 7, state_of(7.5))
    found = store.load("0", before_round=8)
    assert found is not None
    assert found[0] == 7
    assert not differences(found[1], state_of(7.5))


def test_three_rounds_stay(store: ClientStore, tmp_path: Path) -> None:
    """The server died in round r + 1, and its checkpoint of r is damaged: it repeats r."""
    for round in (1, 2, 5, 6, 1_000_000):
        store.save("0", round, state_of(round))
    files = sorted(path.name for path in (tmp_path / "state" / "0").iterdir())
    names = ["round-000005", "round-000006", "round-1000000"]
    assert files == [f"{name}.safetensors" for name in names]


class TestRequired:
    """What a resumed run asks of the states that its checkpoint knows of."""

    def test_the_newest_by_the_checkpoints_round_counts(self, store: ClientStore) -> None:
        for round in (2, 4, 6):
            store.save("0", round, state_of(round))
        assert [store.newest("0", up_to=round) for round in (1, 5, 9)] == [None, 4, 6]
        store.require("0", saved_in=4, up_to=5)
        store.require("0", saved_in=2, up_to=5)  # the reply of round 4 was not taken

    def test_a_missing_one_and_a_damaged_one_are_named(
        self, store: ClientStore, tmp_path: Path
    ) -> None:
        for round in (2, 4):
            store.save("0", round, state_of(round))
        with pytest.raises(CorruptStateError, match=r"state/0 is damaged: .* round 3 is missing"):
            store.require("0", saved_in=3, up_to=3)
        path = tmp_path / "state" / "0" / "round-000004.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CorruptStateError, match=r"round-000004\.safetensors is damaged"):
            store.require("0", saved_in=4, up_to=4)


def test_a_server_that_went_further_back_finds_its_own_states(
    store: ClientStore, caplog: pytest.LogCaptureFixture
) -> None:
    for round in (10, 11):
        store.save("0", round, state_of(round))
    with caplog.at_level(logging.WARNING):
        assert store.load("0", before_round=5) is None
    assert (
        "client 0 starts anew: it has no state from before round 5, only of [10, 11]" in caplog.text
    )
    store.save("0", 5, state_of(5))
    found = store.load("0", before_round=100)  # the states of 10 and 11 belong to a discarded past
    assert found is not None
    assert found[0] == 5


@settings(max_examples=30)
@given(rounds=st.lists(st.integers(1, 6), max_size=8), ask=st.integers(1, 8))
def test_it_returns_what_a_plain_model_of_it_returns(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[int], ask: int
) -> None:
    store = ClientStore(tmp_path_factory.mktemp("store"))
    model: dict[int, float] = {}
    for value, round in enumerate(rounds):
        store.save("a", round, state_of(value))
        model = {r: v for r, v in model.items() if r < round} | {round: float(value)}
        model = dict(sorted(model.items())[-3:])
    found = store.load("a", before_round=ask)
    earlier = [round for round in model if round < ask]
    assert (found[0] if found else None) == (max(earlier) if earlier else None)
    assert found is None or not differences(found[1], state_of(model[found[0]]))


def test_clients_are_apart(store: ClientStore, tmp_path: Path) -> None:
    for client in ("0", "../1", "site a"):
        store.save(client, 1, state_of(1))
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "%2E.%2F1",
        "0",
        "site%20a",
    ]
    assert store.load("../1", 2) is not None
    assert store.load("unknown", 2) is None


def test_an_interrupted_save_leaves_the_former_state(
    store: ClientStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("0", 1, state_of(1))

    def interrupted(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.save("0", 2, state_of(2))
    (tmp_path / "state" / "0" / ".round-000002.safetensors.1-ab.tmp").write_text("killed here")
    found = store.load("0", before_round=3)
    assert found is not None
    assert found[0] == 1
    store.save("0", 2, state_of(2))
    assert len(list((tmp_path / "state" / "0").iterdir())) == 2


def test_a_damaged_file_is_named(store: ClientStore, tmp_path: Path) -> None:
    store.save("0", 1, state_of(1))
    path = tmp_path / "state" / "0" / "round-000001.safetensors"
    data = path.read_bytes()
    for damaged in (data[:-1], b"", data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(CorruptStateError, match=r"round-000001\.safetensors is damaged"):
            store.load("0", 2)
    write_tensors(path, {"a": np.zeros(1)})  # whole, but of something else
    with pytest.raises(CorruptStateError, match=r"round-000001\.safetensors is damaged"):
        store.load("0", 2)


def test_another_format_is_refused(store: ClientStore, tmp_path: Path) -> None:
    store.save("0", 1, state_of(1))
    path = tmp_path / "state" / "0" / "round-000001.safetensors"
    arrays, metadata = read_tensors(path)
    for version, kind in ((1, "an older"), (3, "a newer")):
        record = json.loads(metadata["state"]) | {"format_version": version}
        write_tensors(path, arrays, {"state": json.dumps(record)})
        told = rf"state_format={version}: .*000001.*Install {kind} release"
        with pytest.raises(RefusedError, match=told):
            store.load("0", 2)


def test_a_meta_that_would_change_is_refused(store: ClientStore) -> None:
    state = state_of(1)
    state.meta["steps"] = {3: 1}
    with pytest.raises(TypeError, match=r"state\['meta'\]\['steps'\] has the key 3"):
        store.save("0", 1, state)
    with pytest.raises(ValueError, match="keep=0"):
        ClientStore("x", keep=0)


HERE = {"method": "spider", "space": "darts_s2_mixed", "dataset": "cifar10", "seed": "0"}


@pytest.mark.parametrize(
    ("key", "other"), [("method", "ditto"), ("space", "darts_s3_mixed"), ("seed", "1")]
)
def test_a_state_of_another_experiment_is_refused(tmp_path: Path, key: str, other: str) -> None:
    ClientStore(tmp_path, experiment=HERE | {key: other}).save("0", 3, state_of(3))
    store = ClientStore(tmp_path, experiment=HERE)
    with pytest.raises(RefusedError) as refusal:
        store.load("0", before_round=4)
    (fault,) = refusal.value.faults
    assert fault.key == "state-dir"
    assert fault.value == str(tmp_path / "0")
    assert fault.problem == (
        f"holds the state of another experiment: {key} is {other!r} there, {HERE[key]!r} here"
    )
    assert fault.remedy == "Give the run another run_dir, or clear this folder"
    # Nothing was deleted, and whose it is reads it still.
    found = ClientStore(tmp_path, experiment=HERE | {key: other}).load("0", before_round=4)
    assert found is not None
    assert not differences(found[1], state_of(3))


def test_the_same_experiment_reads_its_states_whatever_the_order_of_its_keys(
    tmp_path: Path,
) -> None:
    ClientStore(tmp_path, experiment=HERE).save("0", 3, state_of(3))
    again = ClientStore(tmp_path, experiment=dict(reversed(HERE.items())))
    found = again.load("0", before_round=4)
    assert found is not None
    assert not differences(found[1], state_of(3))


def test_a_key_that_the_saved_experiment_lacks_is_another_one(tmp_path: Path) -> None:
    ClientStore(tmp_path, experiment={"method": "spider"}).save("0", 3, state_of(3))
    with pytest.raises(RefusedError, match="space is None there, 'darts_s2_mixed' here"):
        ClientStore(tmp_path, experiment=HERE).load("0", before_round=4)


def test_states_of_before_experiments_were_noted_are_read(tmp_path: Path) -> None:
    ClientStore(tmp_path).save("0", 3, state_of(3))
    found = ClientStore(tmp_path, experiment=HERE).load("0", before_round=4)
    assert found is not None
    assert not differences(found[1], state_of(3))


def test_a_newer_format_is_told_before_another_experiment(tmp_path: Path) -> None:
    ClientStore(tmp_path, experiment=HERE | {"seed": "1"}).save("0", 1, state_of(1))
    path = tmp_path / "0" / "round-000001.safetensors"
    arrays, metadata = read_tensors(path)
    record = json.loads(metadata["state"]) | {"format_version": 3}
    write_tensors(path, arrays, {"state": json.dumps(record)})
    with pytest.raises(RefusedError, match=r"state_format=3: .*clear its state directory"):
        ClientStore(tmp_path, experiment=HERE).load("0", 2)
