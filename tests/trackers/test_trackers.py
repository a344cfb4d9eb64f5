"""Each tracker against a module that only listens; what a run tells them; what their failures cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from corolla.config.build import build
from corolla.config.compose import compose_values
from corolla.errors import RefusedError
from corolla.launch import resume
from corolla.trackers import Start, Tracker
from corolla.trackers.tensorboard import TensorBoardTracker
from tests.strategies.conftest import power_cut, run

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Listener(ModuleType):
    """A module whose every function notes how it was called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # it is installed
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def note(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            same_summary = SimpleNamespace(update=getattr(self, "summary_update"))  # noqa: B009
            return SimpleNamespace(
                info=SimpleNamespace(run_id="id-1"),
                log=self.log,
                finish=self.finish,
                define_metric=self.define_metric,
                summary=same_summary,
            )

        return note

    def of(self, name: str) -> list[Call]:
        return [call for call in self.calls if call[0] == name]


@pytest.fixture
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Listener:
    listener = Listener(request.param)
    monkeypatch.setitem(sys.modules, request.param, listener)
    return listener


def made(name: str, *overrides: str) -> Tracker:
    tracker: Tracker = build(compose_values([f"tracker={name}", *overrides])["tracker"], "tracker")
    return tracker


def told(tracker: Tracker, run_dir: Path, *, resumed_after: int = 0) -> None:
    run_dir.mkdir(exist_ok=True)
    config = {"method": {"name": "fedavg"}, "seed": 3}
    tracker.start(Start(run_dir=run_dir, config=config, resumed_after=resumed_after))
    tracker.log(1, {"train_loss": 0.5, "evaluation/global/test_accuracy/mean": 0.25})
    tracker.finish({"test_accuracy/mean": 0.75}, complete=True)


@pytest.mark.parametrize("module", ["wandb"], indirect=True)
def test_wandb(module: Listener, tmp_path: Path) -> None:
    for _ in range(2):  # a resumed run is the same run
        told(made("wandb", "tracker.entity=team"), tmp_path / "run")
    first, second = (named for _, _, named in module.of("init"))
    assert first["id"] == second["id"]
    assert (first["project"], first["entity"], first["name"]) == ("corolla", "team", "run")
    assert first["resume"] == "allow"
    assert module.of("log")[0][1][0]["round"] == 1
    assert module.of("log")[0][1][0]["train_loss"] == 0.5
    assert module.of("summary_update")[0][1] == ({"summary/test_accuracy/mean": 0.75},)
    assert module.of("finish")[0][2] == {"exit_code": 0}


@pytest.mark.parametrize("module", ["trackio"], indirect=True)
def test_trackio(module: Listener, tmp_path: Path) -> None:
    told(made("trackio", "tracker.project=mine"), tmp_path / "run")
    (start,) = module.of("init")
    assert (start[2]["project"], start[2]["name"]) == ("mine", "run")
    assert module.of("log")[0][2] == {"step": 1}
    assert module.of("log")[1][1] == ({"summary/test_accuracy/mean": 0.75},)
    assert len(module.of("finish")) == 1


@pytest.mark.parametrize("module", ["mlflow"], indirect=True)
def test_mlflow(module: Listener, tmp_path: Path) -> None:
    told(made("mlflow", "tracker.uri=file:///x"), tmp_path / "run")
    told(made("mlflow"), tmp_path / "run", resumed_after=1)
    assert [named["run_id"] for _, _, named in module.of("start_run")] == [None, "id-1"]
    assert module.of("log_params") == [
        ("log_params", ({"method/name": "fedavg", "seed": "3"},), {})
    ]
    assert module.of("set_tracking_uri") == [("set_tracking_uri", ("file:///x",), {})]
    assert module.of("log_metrics")[0][2] == {"step": 1}
    assert module.of("end_run")[0][1] == ("FINISHED",)


def test_tensorboard(tmp_path: Path) -> None:
    told(TensorBoardTracker(folder=str(tmp_path / "all")), tmp_path / "run")
    assert list((tmp_path / "all" / "run").glob("events.*"))


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_what_is_not_installed_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(RefusedError, match=rf"pip install 'corolla\[{name}\]'"):
        made(name)


@pytest.mark.parametrize("module", ["trackio"], indirect=True)
def test_a_run_tells_its_rounds_and_goes_on_after_a_kill(module: Listener, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with power_cut(2):
        run(path, "tracker=trackio", "method=fedavg", "rounds=2")
    assert [call[2]["step"] for call in module.of("log")] == [1, 2]
    directory = resume(path)
    assert [call[2].get("step") for call in module.of("log")] == [1, 2, 2, None]
    last = module.of("log")[-1][1][0]
    assert last["summary/test_accuracy/mean"] == directory.summary()["test_accuracy"]["mean"]
    assert not any("per_client" in key for key in last)
    line = json.loads((path / "metrics.jsonl").read_text().splitlines()[0])
    assert module.of("log")[0][1][0]["train_loss"] == line["train_loss"]


@pytest.mark.parametrize("module", ["trackio"], indirect=True)
def test_a_tracker_that_fails_costs_no_round(
    module: Listener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def down(*arguments: Any, **named: Any) -> None:
        raise ConnectionError("no such host")

    module.log = down  # type: ignore[method-assign, assignment]
    directory = run(tmp_path / "run", "tracker=trackio", "method=fedavg", "rounds=2")
    assert directory.finished
    assert caplog.text.count("is left out: no such host") == 1
