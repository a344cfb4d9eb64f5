from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corolla.errors import RefusedError
from corolla.records.checkpoints import FORMAT_VERSION, CheckpointHeader, Checkpoints
from corolla.records.errors import CorruptStateError
from corolla.records.seals import read_sealed, write_sealed
from corolla.state import State
from tests.conftest import quick
from tests.states import differences

from .conftest import HEADER, state_of


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_a_state_comes_back_to_the_bit(store: Checkpoints) -> None:
    store.save(state_of(1.5), round=12, header=HEADER)
    round, state = store.load("latest", HEADER)
    assert round == 12
    assert not differences(state, state_of(1.5))


def test_an_empty_state_is_a_state(store: Checkpoints) -> None:
    store.save(State(), round=1, header=HEADER)
    assert not differences(store.load("latest", HEADER)[1], State())


def test_the_last_two_rounds_and_their_best_stay_and_the_rest_goes(
    store: Checkpoints, tmp_path: Path
) -> None:
    kept = {}
    for round in range(1, 8):
        store.save(state_of(round), round=round, header=HEADER, best=round in (1, 3, 6))
        kept[round] = [int(name[-1]) for name in names(tmp_path) if name.startswith("round-")]
    assert kept[3] == [1, 2, 3]  # should 3 be damaged, 2 is the latest and 1 the best
    assert kept[5] == [3, 4, 5]
    assert kept[6] == [3, 5, 6]
    assert kept[7] == [6, 7]
    assert names(tmp_path)[:2] == ["best", "latest"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "round-000007\n"
    assert (tmp_path / "checkpoints" / "best").read_text() == "round-000006\n"
    assert not differences(store.load("latest", HEADER)[1], state_of(7))
    assert not differences(store.load("best", HEADER)[1], state_of(6))
    assert (store.round(), store.round("best")) == (7, 6)


def test_saving_writes_one_checkpoint_and_leaves_the_others_as_they_are(
    store: Checkpoints, tmp_path: Path
) -> None:
    for round in (1, 2, 3):
        store.save(state_of(round), round=round, header=HEADER, best=round == 1)
    files = sorted((tmp_path / "checkpoints").glob("round-00000[13]/*"))
    before = [path.stat().st_ino for path in files]
    store.save(state_of(4), round=4, header=HEADER)
    assert [path.stat().st_ino for path in files] == before


class TestFallingBack:
    @pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
    @pytest.mark.parametrize("damage", ["missing", "empty", "flipped"])
    def test_the_round_before_takes_the_place_of_a_damaged_latest_one(
        self, store: Checkpoints, tmp_path: Path, file: str, damage: str
    ) -> None:
        for round in (1, 2, 3, 4):
            store.save(state_of(round), round=round, header=HEADER, best=round in (1, 4))
        path = tmp_path / "checkpoints" / "round-000004" / file
        data = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            middle = len(data) // 2
            flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            path.write_bytes(b"" if damage == "empty" else flipped)
        again = Checkpoints(store._root)
        found = again.load_to_resume(HEADER)
        assert found is not None
        assert found[0] == 3
        assert not differences(found[1], state_of(3))
        assert again.load("best", HEADER)[0] == 1  # as it was after round 3
        again.save(state_of(4.5), round=4, header=HEADER)
        assert not differences(again.load("latest", HEADER)[1], state_of(4.5))
        assert names(tmp_path)[2:] == ["round-000001", "round-000003", "round-000004.2"]

    def test_both_damaged_are_named_and_no_older_one_is_taken(
        self, store: Checkpoints, tmp_path: Path
    ) -> None:
        for round in (1, 2, 3):
            store.save(state_of(round), round=round, header=HEADER, best=round == 1)
        for round in (2, 3):
            (tmp_path / "checkpoints" / f"round-00000{round}" / "state.json").write_text("{}")
        with pytest.raises(RefusedError) as caught:
            Checkpoints(store._root).load_to_resume(HEADER)
        assert ["round-000003" in caught.value.faults[0].value, len(caught.value.faults)] == [
            True,
            2,
        ]
        assert "no checksum" in caught.value.faults[1].problem

    def test_pointers_are_for_people(self, store: Checkpoints, tmp_path: Path) -> None:
        store.save(state_of(1), round=1, header=HEADER, best=True)
        for name in ("latest", "best"):
            (tmp_path / "checkpoints" / name).write_bytes(b"\xff../elsewhere")
        again = Checkpoints(store._root)
        assert again.load_to_resume(HEADER) is not None
        again.save(state_of(2), round=2, header=HEADER)
        assert (tmp_path / "checkpoints" / "latest").read_text() == "round-000002\n"
        assert (tmp_path / "checkpoints" / "best").read_text() == "round-000001\n"

    def test_another_method_is_refused_and_not_fallen_back_from(self, store: Checkpoints) -> None:
        for round in (1, 2):
            store.save(state_of(round), round=round, header=HEADER)
        with pytest.raises(RefusedError, match="Resume with method=perfedrlnas"):
            store.load_to_resume(dataclasses.replace(HEADER, method="fedavg"))


def test_a_round_can_be_saved_again(store: Checkpoints, tmp_path: Path) -> None:
    store.save(state_of(1), round=1, header=HEADER, best=True)
    store.save(state_of(2), round=1, header=HEADER)
    assert not differences(store.load("latest", HEADER)[1], state_of(2))
    assert not differences(store.load("best", HEADER)[1], state_of(1))
    store.save(state_of(3), round=1, header=HEADER, best=True)
    assert not differences(store.load("best", HEADER)[1], state_of(3))
    assert names(tmp_path)[2:] == ["round-000001", "round-000001.2", "round-000001.3"]
    store.save(state_of(4), round=2, header=HEADER, best=True)
    assert names(tmp_path)[2:] == ["round-000001.3", "round-000002"]


def test_what_json_would_change_is_refused_before_anything_is_written(
    store: Checkpoints, tmp_path: Path
) -> None:
    store.save(state_of(1), round=1, header=HEADER)
    for meta in ({"seen": {3: "x"}}, {"seen": {"a": {1}}}):
        with pytest.raises(TypeError, match=r"state\.json\['meta'\]\['seen'\]"):
            store.save(State(meta=meta), round=2, header=HEADER)
    assert names(tmp_path) == ["latest", "round-000001"]


class TestRefusals:
    def test_none_there(self, store: Checkpoints) -> None:
        with pytest.raises(RefusedError, match=r"holds no such checkpoint.*new run_dir"):
            store.load("latest", HEADER)
        assert store.round() is None
        store.save(State(), round=1, header=HEADER)
        with pytest.raises(RefusedError, match=r"checkpoint='best'.*first evaluation round"):
            store.load("best", HEADER)

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"method": "fedavg"}, ["checkpoint.method='perfedrlnas'", "'fedavg' is asked for"]),
            ({"space": "cifar"}, ["checkpoint.space='digits'", "Resume with space=digits"]),
            ({"space_fingerprint": "cd"}, ["space_fingerprint='ab12'", "config.yaml"]),
        ],
    )
    def test_another_run(
        self, store: Checkpoints, changed: dict[str, Any], told: list[str]
    ) -> None:
        store.save(State(), round=1, header=HEADER)
        with pytest.raises(RefusedError) as caught:
            store.load("latest", dataclasses.replace(HEADER, **changed))
        assert all(text in str(caught.value) for text in told)
        assert "round-000001" in str(caught.value)

    def test_all_faults_at_once_and_the_fingerprint_only_within_one_space(
        self, store: Checkpoints
    ) -> None:
        store.save(State(), round=1, header=HEADER)
        other = CheckpointHeader(method="fedavg", space="cifar", space_fingerprint="cd34")
        with pytest.raises(RefusedError) as caught:
            store.load("latest", other)
        assert [fault.key for fault in caught.value.faults] == [
            "checkpoint.method",
            "checkpoint.space",
        ]

    def test_a_newer_format_is_refused_whatever_else_it_says(
        self, store: Checkpoints, tmp_path: Path
    ) -> None:
        store.save(State(), round=1, header=HEADER)
        path = tmp_path / "checkpoints" / "round-000001" / "state.json"
        future = {"format_version": FORMAT_VERSION + 1, "corolla_version": "9.0", "best": None}
        for write in (
            lambda: path.write_text(json.dumps(future)),
            lambda: write_sealed(path, future),
        ):
            write()
            for read in (store.load_to_resume, lambda expected: store.load("latest", expected)):
                with pytest.raises(RefusedError, match=r"by Corolla 9\.0.*the release that"):
                    read(HEADER)

    def test_an_older_format_is_no_damage(self, store: Checkpoints, tmp_path: Path) -> None:
        store.save(State(), round=1, header=HEADER)
        path = tmp_path / "checkpoints" / "round-000001" / "state.json"
        path.write_text(json.dumps(read_sealed(path) | {"format_version": 1}))
        with pytest.raises(RefusedError, match=r"format_version=1.*the release that wrote it"):
            store.load_to_resume(HEADER)

    def test_another_release_of_the_same_format_is_welcome(self, store: Checkpoints) -> None:
        old = dataclasses.replace(HEADER, corolla_version="0.0.1")
        store.save(State(), round=1, header=old)
        assert store.load("latest", HEADER)[0] == 1
        assert store.header() == old


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("round-000001/state.json", b"{"),
        ("round-000001/state.json", b'{"best": null}'),
        ("round-000001/state.json", None),
        ("round-000001/state.safetensors", b"junk"),
        ("round-000001/state.safetensors", None),
    ],
)
def test_damage_is_named(
    store: Checkpoints, tmp_path: Path, file: str, content: bytes | None
) -> None:
    store.save(state_of(1), round=1, header=HEADER)
    path = tmp_path / "checkpoints" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CorruptStateError, match=rf"{file.partition('/')[0]}.* is damaged"):
        store.load("latest", HEADER)


# -- crashes -------------------------------------------------------------------------------------

_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree"}


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Do ``work`` in a child that dies, uncleaned, before file operation number ``step``."""
    child = os.fork()
    if child == 0:
        left = step

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in _EVENTS:
                left -= 1
                if left < 0:
                    os._exit(77)

        sys.addaudithook(hook)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 77)
    return code == 77


@pytest.mark.parametrize("best", quick([False, True], True))
def test_killed_at_any_step_the_old_or_the_new_checkpoint_is_there(
    tmp_path: Path, best: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the machine stays on: save time
    step, outcomes = 0, []
    while True:
        root = tmp_path / str(step) / "checkpoints"
        store = Checkpoints(root)
        store.save(state_of(1), round=1, header=HEADER, best=True)
        store.save(state_of(2), round=2, header=HEADER)

        def save(store: Checkpoints = store) -> None:
            store.save(state_of(3), round=3, header=HEADER, best=best)

        died = killed_at(step, save)
        store = Checkpoints(root)
        found = store.load_to_resume(HEADER)
        assert found is not None
        round, state = found
        assert not differences(state, state_of(round))
        # The best one goes with the latest: never a best round that the history does not know.
        best_round, best_state = store.load("best", HEADER)
        assert best_round == (3 if best and round == 3 else 1)
        assert not differences(best_state, state_of(best_round))
        outcomes.append(round)
        # The resumed run goes on with the next round, and cleans up.
        store.save(state_of(4), round=round + 1, header=HEADER, best=best)
        left = {path.name for path in root.iterdir() if not path.name.startswith("round-")}
        assert left == {"best", "latest"}
        assert len(list(root.iterdir())) == 2 + len({round + 1, round, best_round})
        assert not differences(store.load("latest", HEADER)[1], state_of(4))
        if not died:
            break
        step += 1
    assert outcomes == sorted(outcomes)  # old, then new: one step decides
    assert set(outcomes) == {2, 3}
    assert step > 15


@pytest.mark.parametrize("call", range(4))
def test_an_error_in_a_rename_leaves_the_former_checkpoint_and_no_litter(
    store: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    store.save(state_of(1), round=1, header=HEADER, best=True)
    calls = 0
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        nonlocal calls
        if calls == call:
            raise KeyboardInterrupt
        calls += 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(KeyboardInterrupt):
            store.save(state_of(2), round=2, header=HEADER, best=True)
    # In order: the arrays, state.json, then (the checkpoint is there) the pointers `latest`, `best`.
    expected = 2 if call >= 2 else 1
    round, state = store.load("latest", HEADER)
    assert round == expected
    assert not differences(state, state_of(expected))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    store.save(state_of(3), round=3, header=HEADER, best=True)
    assert names(tmp_path)[2:] == [f"round-00000{expected}", "round-000003"]


def test_a_failed_pruning_does_not_fail_the_save(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(state_of(1), round=1, header=HEADER)

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError

    monkeypatch.setattr(shutil, "rmtree", refuse)
    store.save(state_of(2), round=2, header=HEADER)
    assert store.load("latest", HEADER)[0] == 2
