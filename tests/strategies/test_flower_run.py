"""What plain `flwr run .` starts, over a grid in memory; tests/engines/test_flwr_run.py has the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from clients.client_app import KIND
from clients.client_app import app as client_app
from clients.flower_internals import SUPERLINK_NODE_ID, TaskIdentity
from corolla.errors import RefusedError
from corolla.launch import plan_run, start
from corolla.records.flower_run import flower_run
from corolla.records.run_directory import RunDirectory
from engines.grid import InlineGrid
from strategies.server_app import main

SMALL = (
    "method=fedavg rounds=2 clients=3 clients_per_round=2 local_epochs=1 evaluation.every=0 "
    "evaluation.fine_tune_epochs=0 partition.alpha=100 partition.balanced=true "
    "partition.images_per_client=30 tensorboard=false report=false"
)


def flwr_run(*, run_id: int = 1, **run_config: str) -> None:
    """Do what Flower does: one ServerApp, one ClientApp a node, two nodes."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 1, SUPERLINK_NODE_ID
    values: dict[str, Any] = {
        "config": "",
        "overrides": "",
        "resume": "",
        "launch": "",
        **run_config,
    }
    grid = InlineGrid(client_app=client_app, nodes=2, run_id=run_id, run_config=values)
    contexts = list(grid._contexts.values())
    node, state = SUPERLINK_NODE_ID, RecordDict()
    context = Context(run_id=run_id, node_id=node, node_config={}, state=state, run_config=values)
    main(grid, context)
    assert all(context.run_config == values for context in contexts)  # else Flower drops the answer


def test_it_makes_a_run_in_the_working_directory_with_the_numbers_of_any_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flwr_run(overrides=SMALL)
    (run_dir,) = (tmp_path / "runs").iterdir()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == said[-2] == f"Run directory: {run_dir}"
    assert said[-1] == f"Tables and figures: corolla report {run_dir}"
    own = RunDirectory.open(run_dir)
    other = start(plan_run([*SMALL.split(), "engine=inline", "run_dir=inline"]))
    losses = [[row["train_loss"] for row in run.metrics()] for run in (own, other)]
    assert losses[0] == losses[1]
    assert own.summary()["per_client"].keys() == {"0", "1", "2"}
    assert flower_run(run_dir) == 1

    (run_dir / "summary.json").unlink()
    flwr_run(run_id=2, resume=str(run_dir))
    assert flower_run(run_dir) == 2
    assert own.summary()["test_accuracy"] == other.summary()["test_accuracy"]


def test_an_engine_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RefusedError, match=r"overrides='engine=ray': `flwr run` is the engine already"
    ) as refused:
        flwr_run(overrides="rounds=1 engine=ray")
    # Flower prints the traceback before it: nothing of where the fault was found.
    assert refused.value.__context__ is None
    assert refused.traceback[-1].path.name == "server_app.py"
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_the_engine_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"Start it with `flwr run \.`"):
        plan_run([*SMALL.split(), "engine=flower", f"run_dir={tmp_path / 'run'}"])


@pytest.mark.parametrize(
    ("node_config", "simulated"),
    [
        ({"partition-id": 0, "num-partitions": 2}, True),
        ({"partition-id": 0, "data-path": "/images"}, False),
        ({"data-path": "/images"}, False),
        ({"client": "site-a", "data-dir": "/images"}, False),
        ({}, False),
    ],
)
def test_nodes_say_whether_they_are_simulated(node_config: Any, simulated: bool) -> None:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 7
    question = RecordDict({"task": ConfigRecord({"question": KIND})})
    context = Context(
        run_id=1, node_id=7, node_config=node_config, state=RecordDict(), run_config={"config": ""}
    )
    answer = client_app(Message(question, 7, MessageType.QUERY), context)
    assert answer.content["info"]["simulated"] is simulated
