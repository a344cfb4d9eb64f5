"""A checkpoint is written beside the next round's training, and is whole before its arrays change."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import pytest

from corolla.errors import RunFailedError
from corolla.records.checkpoints import Checkpoints
from corolla.state import State
from strategies.base import CorollaStrategy
from strategies.running.checkpoint_writer import CheckpointWriter
from tests.records.conftest import HEADER, state_of
from tests.states import differences
from tests.strategies.conftest import results, run

TWO = ("clients=2", "clients_per_round=2", "rounds=2", "evaluation.every=0")


class _Held(Checkpoints):
    """Writes only when it is let."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may = Event()

    def save(self, *arguments: Any, **settings: Any) -> None:
        assert self.may.wait(60)
        super().save(*arguments, **settings)


def test_who_saves_does_not_wait_and_who_waits_finds_it(tmp_path: Path) -> None:
    checkpoints = _Held(tmp_path / "checkpoints")
    with CheckpointWriter(checkpoints, HEADER) as writer:
        writer.save(state_of(1.0), round=1, best=False)
        assert checkpoints.round() is None
        checkpoints.may.set()
        writer.wait()
        assert checkpoints.round() == 1
        writer.save(state_of(2.0), round=2, best=False)
    assert not differences(checkpoints.load("latest", HEADER)[1], state_of(2.0))


def test_what_went_wrong_is_raised_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("no directory")
    writer = CheckpointWriter(Checkpoints(tmp_path / "checkpoints"), HEADER)
    writer.save(State(), round=1, best=False)
    with pytest.raises(OSError, match="checkpoints"):
        writer.wait()
    writer.wait()


def test_another_error_is_not_hidden_by_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("no directory")

    def lose_a_node() -> None:
        with CheckpointWriter(Checkpoints(tmp_path / "checkpoints"), HEADER) as writer:
            writer.save(State(), round=1, best=False)
            raise RunFailedError("the node is gone")

    with pytest.raises(RunFailedError, match="the node is gone"):
        lose_a_node()
    assert "the last checkpoint could not be written" in caplog.text


def test_a_run_absorbs_nothing_before_the_last_round_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that takes as long as a round is the same checkpoint."""
    whole = run(tmp_path / "whole", "method=fedavg", *TWO)
    save, absorb = Checkpoints.save, CorollaStrategy.aggregate_train
    trained, written = Event(), []

    def late(self: Checkpoints, *arguments: Any, **settings: Any) -> None:
        if settings["round"] == 1:
            assert trained.wait(60)
        save(self, *arguments, **settings)
        written.append(settings["round"])

    def seen(self: CorollaStrategy, server_round: int, *more: Any) -> Any:
        assert written == list(range(1, server_round))
        return absorb(self, server_round, *more)

    waits = CheckpointWriter.wait

    def noticed(self: CheckpointWriter) -> None:
        if self._pending is not None:
            trained.set()
        waits(self)

    monkeypatch.setattr(Checkpoints, "save", late)
    monkeypatch.setattr(CheckpointWriter, "wait", noticed)
    monkeypatch.setattr(CorollaStrategy, "aggregate_train", seen)
    assert results(run(tmp_path / "late", "method=fedavg", *TWO)) == results(whole)
    assert written == [1, 2]
