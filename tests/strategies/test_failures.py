"""Clients that fail: dropped, counted, named; the round goes on with the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.subnet import SubnetClient
from corolla.cli import main
from corolla.config.build import build_space
from corolla.records.run_directory import RunDirectory
from corolla.tasks import Answer, Task
from corolla.types import Arrays
from tests.conftest import quick
from tests.states import same
from tests.strategies.conftest import SMALL, config_of, run, saved_state

FIT = SubnetClient.fit
Fault = Callable[[Answer], Answer]


def _raise(answer: Answer) -> Answer:
    raise ValueError("out of paper")


def _with(change: Callable[[str, np.ndarray], tuple[str, np.ndarray]]) -> Fault:
    """Return a fault that changes the name or the numbers of the first array."""

    def fault(answer: Answer) -> Answer:
        first, *others = answer.arrays.items()
        return replace(answer, arrays=dict([change(*first), *others]))

    return fault


def _saying(**metrics: Any) -> Fault:
    return lambda answer: answer.saying(metrics)


LACKING = "the reply lacks val_accuracy"


def _no_accuracy(answer: Answer) -> Answer:
    kept = {key: value for key, value in answer.metrics.items() if key != "val_accuracy"}
    return replace(answer, metrics=kept)


FAULTS: dict[str, tuple[Fault, str]] = {
    "raises": (_raise, "out of paper"),
    "nan": (_with(lambda n, a: (n, np.full_like(a, np.nan))), "NaN or infinite"),
    "infinite": (_with(lambda n, a: (n, np.full_like(a, np.inf))), "NaN or infinite"),
    "shape": (_with(lambda n, a: (n, a[:1])), "has shape"),
    "names": (_with(lambda n, a: (n + "x", a)), "wrong array names"),
    "no_examples": (lambda answer: replace(answer, num_examples=0), "num_examples is 0"),
    "nan_accuracy": (_saying(val_accuracy=float("nan")), "val_accuracy is nan"),
    "percent": (_saying(val_accuracy=61.5), "val_accuracy is 61.5, must lie in 0..1"),
    "integers": (
        _with(lambda n, a: (n, a.astype(np.int64))),
        "holds int64, expected floating-point numbers",
    ),
    "words": (
        _with(lambda n, a: (n, np.full(a.shape, "x"))),
        "arrays of <U1 cannot be sent",
    ),
    "other_client": (_saying(client="0"), "reply is for client"),
    "no_accuracy": (_no_accuracy, LACKING),
}


@pytest.mark.parametrize("method", quick(["perfedrlnas", "fedavg"], "perfedrlnas"))
def test_failing_clients_are_dropped_and_named(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of honest client 0 and of one client for each fault."""
    faults = dict(enumerate(FAULTS.values(), start=1))

    def fit(self: SubnetClient, task: Task, arrays: Arrays) -> Answer:
        answer, number = FIT(self, task, arrays), int(task.client)
        return faults[number][0](answer) if number else answer

    monkeypatch.setattr(SubnetClient, "fit", fit)
    everybody = [f"clients={len(faults) + 1}", f"clients_per_round={len(faults) + 1}"]
    directory = run(tmp_path / "run", f"method={method}", *everybody, "rounds=1")
    (line,) = directory.metrics()
    failed = {int(failure["client"]): failure["reason"] for failure in line["failed"]}
    # What a client cannot say is missed only by a method that asks for it.
    named = {
        number: reason
        for number, (_, reason) in faults.items()
        if method == "perfedrlnas" or reason != LACKING
    }
    assert line["failures"] == len(named)
    assert line["participants"] == [
        str(client) for client in range(len(faults) + 1) if client not in named
    ]
    log = (directory.path / "run.log").read_text()
    for number, reason in named.items():
        assert reason in failed[number]
        assert f"client {number} dropped" in log
    assert len(directory.summary()["test_accuracy"]["per_client"]) == len(faults) + 1


def test_a_reply_that_cannot_be_decoded_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import strategies.reading as reading

    unpack, calls = reading.declared, []

    def truncated(record: Any, **limits: Any) -> Any:
        calls.append(record)
        if len(calls) == 2:
            raise EOFError("no data left in file")
        return unpack(record, **limits)

    monkeypatch.setattr(reading, "declared", truncated)
    directory = run(tmp_path / "run", "clients_per_round=4", "rounds=1")
    (line,) = directory.metrics()
    assert line["failures"] == 1
    assert "cannot be read: EOFError: no data left" in line["failed"][0]["reason"]


def test_rounds_in_which_all_fail_leave_the_supernet_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: SubnetClient, task: Task, arrays: Arrays) -> Answer:
        raise ValueError(f"out of {'paper' * (1 + int(task.client))}")  # each its own reason

    monkeypatch.setattr(SubnetClient, "fit", fit)
    directory = run(tmp_path / "run", "rounds=2", "evaluation.every=0")
    assert [line["failures"] for line in directory.metrics()] == [2, 2]
    assert [line["train_loss"] for line in directory.metrics()] == [None, None]
    initial = build_space(config_of(directory)).initial_state(0)
    assert same(saved_state(directory).part("strategy/supernet/"), initial)


def test_a_first_round_that_loses_everybody_for_one_reason_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = False

    def fit(self: SubnetClient, task: Task, arrays: Arrays) -> Answer:
        if works and task.round == 1:
            return FIT(self, task, arrays)
        raise ValueError(f"sheet {task.client}: out of paper")

    monkeypatch.setattr(SubnetClient, "fit", fit)
    path = tmp_path / "run"
    more = [
        "clients=2",
        "rounds=2",
        "evaluation.every=0",
        "evaluation.fine_tune_epochs=0",
        f"run_dir={path}",
    ]
    assert main(["run", *SMALL, *more]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "all 2 clients that were asked failed in the same way: " in said
    assert "out of paper" in said
    assert f"corolla resume {path}" in said
    assert not RunDirectory.open(path).metrics()
    works = True  # in round 1: that all fail in a later one ends nothing
    main(["resume", str(path)])
    assert [line["failures"] for line in RunDirectory.open(path).metrics()] == [0, 2]


def test_a_client_that_is_gone_at_the_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strategies.roster import SimulatedRoster

    nodes = SimulatedRoster.nodes

    def without_3(self: SimulatedRoster, grid: Any) -> dict[str, int]:
        return {client: node for client, node in nodes(self, grid).items() if client != "3"}

    monkeypatch.setattr(SimulatedRoster, "nodes", without_3)
    summary = run(tmp_path / "run", "rounds=1").summary()
    assert summary["clients"] == 3
    assert summary["failures"] == [{"client": "3", "reason": "not connected"}]
