"""Clients that fail: dropped, counted, named; the round goes on with the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.subnet import SubnetClient
from corolla.cli import main
from corolla.records.run_directory import RunDirectory
from tests.strategies.conftest import SMALL, run

Fit = Callable[[SubnetClient, list[Any], Any], tuple[list[Any], int, dict[str, Any]]]
FIT: Fit = SubnetClient.fit


def _raise(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    raise ValueError("out of paper")


def _nan(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return [np.full_like(arrays[0], np.nan), *arrays[1:]], number, metrics


def _infinite(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return [*arrays[:-1], np.full_like(arrays[-1], np.inf)], number, metrics


def _wrong_shape(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return [arrays[0][:1], *arrays[1:]], number, metrics


def _wrong_names(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return arrays, number, metrics | {"names": [name + "x" for name in config["names"]]}


def _no_examples(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, _, metrics = FIT(client, parameters, config)
    return arrays, 0, metrics


def _nan_accuracy(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return arrays, number, metrics | {"val_accuracy": float("nan")}


def _no_accuracy(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return arrays, number, {k: v for k, v in metrics.items() if k != "val_accuracy"}


def _percent(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return arrays, number, metrics | {"val_accuracy": 61.5}


def _integers(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return [arrays[0].astype(np.int64), *arrays[1:]], number, metrics


def _words(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    arrays, number, metrics = FIT(client, parameters, config)
    return [np.full(arrays[0].shape, "x"), *arrays[1:]], number, metrics


def _other_round(client: SubnetClient, parameters: list[Any], config: Any) -> Any:
    result = FIT(client, parameters, config)
    config["round"] += 1  # the adapter echoes what the client was asked
    return result


FAULTS = [
    (_raise, "out of paper"),
    (_nan, "NaN or infinite"),
    (_infinite, "NaN or infinite"),
    (_wrong_shape, "has shape"),
    (_wrong_names, "wrong array names"),
    (_no_examples, "num_examples is 0"),
    (_nan_accuracy, "val_accuracy is nan"),
    (_percent, "val_accuracy is 61.5, must lie in 0..1"),
    (_integers, "holds int64, expected numbers with a point"),
    (_words, "holds <U1, expected numbers with a point"),
    (_other_round, "reply is for round"),
]


@pytest.mark.parametrize("method", ["perfedrlnas", "fedavg"])
@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_a_failing_client_is_dropped_and_named(
    fault: Fit, reason: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: SubnetClient, parameters: list[Any], config: Any) -> Any:
        failing = config["client"] == "1" and "extra.deploy" not in config
        return (fault if failing else FIT)(self, parameters, config)

    monkeypatch.setattr(SubnetClient, "fit", fit)
    directory = run(tmp_path / "run", f"method={method}", "clients_per_round=4", "rounds=1")
    (line,) = directory.metrics()
    assert line["participants"] == ["0", "2", "3"]
    assert line["failures"] == 1
    assert line["failed"][0]["client"] == "1"
    assert reason in line["failed"][0]["reason"]
    assert "client 1 dropped" in (directory.path / "run.log").read_text()
    assert sorted(directory.summary()["test_accuracy"]["per_client"]) == ["0", "1", "2", "3"]


def test_a_reply_without_what_the_method_needs_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: SubnetClient, parameters: list[Any], config: Any) -> Any:
        failing = config["client"] == "1" and "extra.deploy" not in config
        return (_no_accuracy if failing else FIT)(self, parameters, config)

    monkeypatch.setattr(SubnetClient, "fit", fit)
    directory = run(tmp_path / "run", "clients_per_round=4", "rounds=1")
    (line,) = directory.metrics()
    assert line["failed"] == [{"client": "1", "reason": "the reply lacks val_accuracy"}]


def test_a_reply_that_cannot_be_decoded_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import strategies.reading as reading

    decode, calls = reading.decoded, []

    def truncated(array: Any) -> Any:
        calls.append(array)
        if len(calls) == 2:
            raise EOFError("no data left in file")
        return decode(array)

    monkeypatch.setattr(reading, "decoded", truncated)
    directory = run(tmp_path / "run", "clients_per_round=4", "rounds=1")
    (line,) = directory.metrics()
    assert line["failures"] == 1
    assert "cannot be read: EOFError: no data left" in line["failed"][0]["reason"]


def test_rounds_in_which_all_fail_leave_the_supernet_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: SubnetClient, parameters: list[Any], config: Any) -> Any:
        if "extra.deploy" in config:
            return FIT(self, parameters, config)
        raise ValueError(f"out of {'paper' * (1 + int(config['client']))}")  # each its own reason

    monkeypatch.setattr(SubnetClient, "fit", fit)
    directory = run(tmp_path / "run", "rounds=2", "evaluation.every=0")
    assert [line["failures"] for line in directory.metrics()] == [2, 2]
    assert [line["train_loss"] for line in directory.metrics()] == [None, None]
    from corolla.config.build import build_space, header_of
    from corolla.launch import plan_run

    config = plan_run(["engine=inline", "run_dir=unused"]).config
    space = build_space(config)
    _, state = directory.load_checkpoint("latest", expected=header_of(config, space))
    for name, array in space.initial_state(0).items():
        assert state.arrays[f"strategy/supernet/{name}"].tobytes() == array.tobytes()


def test_a_first_round_that_loses_everybody_for_one_reason_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = False

    def fit(self: SubnetClient, parameters: list[Any], config: Any) -> Any:
        if works and config["round"] == 1:
            return FIT(self, parameters, config)
        raise ValueError(f"sheet {config['client']}: out of paper")

    monkeypatch.setattr(SubnetClient, "fit", fit)
    path = tmp_path / "run"
    more = ["rounds=2", "evaluation.every=0", "evaluation.fine_tune_epochs=0", f"run_dir={path}"]
    assert main(["run", *SMALL, *more]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "the first round lost all 2 of its clients for the same reason: " in said
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
