"""Whole runs in which one client spoils whatever it answers: they end, and a resumed one ends alike."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from corolla.launch import plan_run, start
from corolla.records.run_directory import RunDirectory
from engines.grid import InlineGrid
from tests.fuzz.mutations import mutated
from tests.fuzz.recording import FEDERATIONS, overrides
from tests.strategies.conftest import results, resumed
from tests.strategies.test_contract import KINDS

_ANSWER = InlineGrid._answer


def _run(run_dir: Path, settings: list[str]) -> RunDirectory:
    return start(plan_run([f"run_dir={run_dir}", *settings]))


def _spoiling(seed: str, *, stops_in: int | None) -> Any:
    """Return a grid's `_answer` that spoils client 1's; the process is stopped in round ``stops_in``."""

    def answer(self: InlineGrid, message: Message) -> Message:
        task = dict(message.content["task"])
        if task["round"] == stops_in and task["client"] == "2":
            raise KeyboardInterrupt
        reply = _ANSWER(self, message)
        if task["client"] != "1":
            return reply
        # Whether evaluation or training: the same again after a restart.
        rng = random.Random(repr((seed, task["round"], message.metadata.message_type, len(task))))
        # What answers another message is awaited until the deadline: tests/strategies/test_waiting.py.
        known = message.metadata.message_id
        arrived = [m for m in mutated(reply, rng, []) if m.metadata.reply_to_message_id == known]
        return arrived[0] if arrived else reply

    return answer


# Resumed are one of each kind of state: that any method resumes is in tests/strategies/test_contract.py.
@pytest.mark.slow
@pytest.mark.parametrize("name", FEDERATIONS)
def test_a_run_with_a_spoiler_ends_and_resumes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = overrides(name, "clients=3", "clients_per_round=3", "rounds=3", "evaluation.every=1")
    monkeypatch.setattr(InlineGrid, "_answer", _spoiling(name, stops_in=None))
    whole = _run(tmp_path / "whole", settings)
    assert {line["client"] for line in whole.clients()} >= {"0", "2"}
    failed = {one["client"] for line in whole.metrics() for one in line["failed"]}
    assert failed <= {"1"}
    if name not in KINDS:
        return
    monkeypatch.setattr(InlineGrid, "_answer", _spoiling(name, stops_in=2))
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "stopped", settings)
    monkeypatch.setattr(InlineGrid, "_answer", _spoiling(name, stops_in=None))
    assert results(resumed(tmp_path / "stopped")) == results(whole)
