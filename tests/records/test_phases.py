"""What a process is at: read from outside while it goes on, gone when it ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from corolla.records import phases
from corolla.records.phases import Standing, phase, read_standing, step
from tests.strategies.conftest import run


def test_a_phase_is_seen_from_outside_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    step()  # nobody is at anything
    with phase("final evaluation", 4, run_dir=tmp_path):
        assert str(read_standing(tmp_path)) == "final evaluation: 0 of 4"
        now = 130.0
        step()  # 30 s for one of four: 90 s are left
        assert str(read_standing(tmp_path)) == "final evaluation: 1 of 4, 1:30 left"
        with phase("inner"):
            step(2)
        assert str(read_standing(tmp_path)) == "final evaluation: 1 of 4, 1:30 left"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "progress.json").write_text("{")
    assert read_standing(tmp_path) is None


def test_a_run_says_what_it_is_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def hear(standing: Standing) -> None:
        if standing.done in (0, standing.of):
            heard.append(str(standing))

    monkeypatch.setattr(phases, "_WRITE_S", 0.0)
    monkeypatch.setattr(phases, "listeners", [hear])
    directory = run(tmp_path / "run", "rounds=1")
    assert heard == [
        "decoding images of clients: 0 of 4",
        "decoding images of clients: 4 of 4",
        "starting engine inline",
        "round 1: 0 of 2",
        "round 1: 2 of 2",
        "evaluation: 0 of 4",
        "evaluation: 4 of 4",
        "final evaluation and fine-tuning: 0 of 4",
        "final evaluation and fine-tuning: 4 of 4",
    ]
    assert not (directory.path / "progress.json").exists()
