"""A run that plain ``flwr run .`` starts: planned in the ServerApp, with Flower itself as its engine.

In Flower's own simulation clients are parts of one data set, as with `corolla run`; SuperNodes with images
of their own are real nodes. The nodes say which of the two they are.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import yaml
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from clients.client_app import CONFIG_RECORD, KIND
from corolla.config.compose import compose_values
from corolla.config.schema import require_config
from corolla.errors import Fault, RefusedError, RunFailedError
from corolla.launch import plan_of, resume, start
from corolla.records.flower_run import note_flower_run
from corolla.records.run_directory import RunDirectory
from strategies.roster import wait_for_nodes
from strategies.running.federated_run import FederatedRun
from strategies.waiting import gather
from strategies.words import last_line

_ANSWER_S = 600.0  # a node starts Python, and imports torch, for its first answer
_started_by: ContextVar[tuple[Grid, int] | None] = ContextVar("started_by", default=None)
"""The ServerApp's grid, and under which number Flower knows its run."""


def run_by_flower(grid: Grid, context: Context) -> None:
    """Plan the run that ``overrides`` describe, or take up that in ``resume``; carry it out over ``grid``.

    The run directory lies in the SuperLink's working directory, unless ``run_dir`` says otherwise.

    Raises: RefusedError with all faults of the configuration; RunFailedError.
    """
    token = _started_by.set((grid, context.run_id))
    try:
        earlier = str(context.run_config.get("resume", ""))
        overrides = str(context.run_config.get("overrides", "")).split()
        directory = resume(Path(earlier)) if earlier else _started(grid, overrides)
    finally:
        _started_by.reset(token)
    accuracy = directory.summary().get("test_accuracy", {}).get("mean")
    if accuracy is not None:
        _say(f"Test accuracy of the clients' models: {100 * accuracy:.2f} %")
    _say(f"Run directory: {directory.path}")
    _say(f"Tables and figures: corolla report {directory.path}")


def _started(grid: Grid, overrides: list[str]) -> RunDirectory:
    own = [one for one in overrides if one.lstrip("+~").startswith(("engine=", "engine."))]
    if own:
        problem = "`flwr run` is the engine already"
        remedy = "Leave it out; the SuperLink that `flwr run` is given decides where clients run"
        raise RefusedError(Fault("overrides", own[0], problem, remedy))
    values = compose_values([*overrides, "engine=flower"])
    if not _is_simulation(grid, float(values["engine"]["node_timeout_s"])):
        values["engine"]["kind"] = "superlink"
    plan = plan_of(values)
    _say(f"Run directory: {plan.run_dir}")
    return start(plan)


def _is_simulation(grid: Grid, timeout_s: float) -> bool:
    """Ask one of the nodes whether it is simulated; all of a SuperLink's are of a kind."""
    (node, *_) = wait_for_nodes(grid, 1, timeout_s)
    question = Message(
        content=RecordDict({"task": ConfigRecord({"question": KIND})}),
        dst_node_id=node,
        message_type=MessageType.QUERY,
        group_id=KIND,
    )
    replies = list(gather(grid, [question], timeout_s=_ANSWER_S, real_nodes=True))
    if not replies or replies[0].has_error():
        reason = last_line(replies[0].error.reason) if replies else "no answer"
        raise RunFailedError(f"node {node} does not say what it is: {reason}")
    return bool(replies[0].content["info"]["simulated"])


class FlowerEngine:
    """Flower is the engine: when the run is planned its ServerApp is running already."""

    def __init__(self, *, name: str, node_timeout_s: float) -> None:
        """Settings as in ``conf/engine/flower.yaml``."""
        self.name = name

    def check(self) -> list[Fault]:
        """Return a fault where this is no ServerApp that `flwr run` started."""
        if _started_by.get() is not None:
            return []
        problem = "engine=flower is for `flwr run` alone, and this run was not started by it"
        remedy = "Start it with `flwr run .`, resume it with `flwr run . --run-config 'resume=\"RUN_DIR\"'`"
        return [Fault("engine", self.name, problem, f"{remedy}, or use engine=ray")]

    def run(self, *, config_yaml: str, run_dir: Path, launch: str) -> None:
        """Carry the run out in this ServerApp; see ``InlineEngine.run``."""
        started_by = _started_by.get()
        assert started_by is not None, "checked before"
        grid, run_id = started_by
        note_flower_run(run_dir, run_id)
        told = cast(Grid, _Telling(grid, config_yaml))
        FederatedRun(config=require_config(yaml.safe_load(config_yaml)), launch=launch).run(told)


class _Telling:
    """A grid whose messages carry the configuration: the nodes' own run-config has overrides only."""

    def __init__(self, grid: Grid, config_yaml: str) -> None:
        self._grid = grid
        self._record = ConfigRecord({"config": config_yaml})

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._grid, name)
        if name == "push_messages":
            return lambda messages: own([self._told(message) for message in messages])
        if name == "exchange":  # of grids that make messages as somebody is free for them
            return lambda messages, **more: own(map(self._told, messages), **more)
        return own

    def _told(self, message: Message) -> Message:
        message.content[CONFIG_RECORD] = self._record
        return message


def _say(line: str) -> None:
    """Print: Flower shows what a ServerApp prints to whoever follows the run."""
    print(line, flush=True)
