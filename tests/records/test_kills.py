"""Runs that are killed at random moments, again and again, end with the numbers of one that is not."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from corolla.errors import RefusedError
from corolla.launch import Plan, create, plan_run, resume, start
from corolla.records.atomic import is_temporary
from corolla.records.client_facts import read_client_facts
from corolla.records.run_directory import RunDirectory
from corolla.state import State
from tests.conftest import quick
from tests.records.killing import operations
from tests.states import differences
from tests.strategies.conftest import results, small, without_times

# 107 images for two clients; whom a round asks changes, so there are states of several rounds.
TINIEST = (
    *("clients=2", "clients_per_round=1", "rounds=3", "batch_size=64"),
    *("server_set=held_out", "server_set.images=1690"),
)
METHODS = {
    "perfedrlnas": ("memory_budget_mib=space",),
    "fedavg": ("method.server_momentum=0.9", "private=[norm]"),
    "ditto": (),
    "fedkemf": ("method.architectures=random",),
}


@dataclass(frozen=True)
class Whole:
    """A run that nothing interrupted."""

    plan: Plan
    found: str
    states: dict[str, State]
    operations: int
    duration_s: float


@cache
def _plan(method: str) -> Plan:
    names = [setting.partition("=")[0] for setting in TINIEST]
    overrides = [o for o in small(f"method={method}") if o.partition("=")[0] not in names]
    return plan_run([*overrides, *TINIEST, *METHODS[method]])


def _at(plan: Plan, run_dir: Path) -> Plan:
    config = plan.config.model_copy(update={"run_dir": str(run_dir)})
    return replace(plan, run_dir=run_dir, config=config)


def _states(directory: RunDirectory) -> dict[str, State]:
    """Return all that can be compared to the bit: last checkpoint, clients' states and models."""
    last = directory.checkpoints
    _, state = last.load("latest", last.header())
    found = {"checkpoint": State(state.arrays, without_times(state.meta))}
    for client in directory.saved_clients():
        architecture, arrays = directory.client_model(client)
        found[f"model of {client}"] = State(arrays, architecture)
        stores = {"state": directory.client_states, "private parts": directory.private_states}
        for what, store in stores.items():
            kept = store.load(client, before_round=100)
            if kept is not None:
                found[f"{what} of {client} after {kept[0]}"] = State(kept[1].arrays, {})
    return found


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run_dir = tmp_path_factory.mktemp(request.param) / "whole"
    plan = _at(_plan(request.param), run_dir)
    begun = time.monotonic()
    number = operations(run_dir, lambda: start(plan))
    assert number is not None
    directory = RunDirectory.open(run_dir)
    duration_s = time.monotonic() - begun
    return Whole(plan, results(directory), _states(directory), number, duration_s)


def _moment(draw: random.Random, whole: Whole) -> dict[str, Any]:
    """Return when to kill: half of all at a file operation, half after a time."""
    if draw.random() < 0.5:
        return {"kill_at": draw.randint(1, whole.operations)}
    return {"kill_after_s": draw.uniform(0, whole.duration_s)}


def _carry_on(plan: Plan) -> RunDirectory:
    """Do what the messages tell a person to do: resume, or start again what never began."""
    if (plan.run_dir / "config.yaml").is_file():
        return resume(plan.run_dir)
    return start(plan)


def _require_same(whole: Whole, run_dir: Path, told: str) -> None:
    directory = RunDirectory.open(run_dir)
    assert results(directory) == whole.found, told
    states = _states(directory)
    assert states.keys() == whole.states.keys(), told
    for name, state in states.items():
        assert not differences(state, whole.states[name]), f"{told}: {name}"
    assert not [path for path in run_dir.rglob("*") if is_temporary(path.name)], told


def _kill_and_compare(whole: Whole, moments: int, seed: str, tmp_path: Path) -> None:
    draw = random.Random(seed)
    attempt = 0
    while moments:
        attempt += 1
        plan = _at(whole.plan, tmp_path / str(attempt))
        told = f"{seed}, attempt {attempt}"
        for _ in range(min(moments, draw.choice([1, 1, 2]))):
            moment = _moment(draw, whole)
            told += f", {moment}"
            if operations(plan.run_dir, lambda plan=plan: _carry_on(plan), **moment) is None:
                moments -= 1
        operations(plan.run_dir, lambda plan=plan: _carry_on(plan))
        _require_same(whole, plan.run_dir, told)


@pytest.mark.parametrize("whole", quick(METHODS, "ditto"), indirect=True, ids=str)
def test_two_kills_change_nothing(
    whole: Whole, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    _kill_and_compare(whole, 2, f"quick {request.node.callspec.id}", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["perfedrlnas", "ditto"], indirect=True, ids=str)
def test_many_kills_change_nothing(
    whole: Whole, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    _kill_and_compare(whole, 8, f"slow {request.node.callspec.id}", tmp_path)


@pytest.mark.slow
def test_killed_while_the_directory_is_made_it_is_started_again_or_resumed_with_all_limits(
    tmp_path: Path,
) -> None:
    """Before `config.yaml` is there nothing counts; once it is there nothing is missing."""
    outcomes, step = [], 0
    while not outcomes or outcomes[-1] != "made":
        step += 1
        plan = _at(_plan("perfedrlnas"), tmp_path / str(step))
        made = operations(plan.run_dir, lambda plan=plan: create(plan), kill_at=step)
        if (plan.run_dir / "config.yaml").is_file():
            outcomes.append("killed late" if made is None else "made")
            with pytest.raises(RefusedError, match="corolla resume"):
                create(plan)
        else:
            outcomes.append("killed early")
            if plan.run_dir.is_dir():
                with pytest.raises(RefusedError, match="No run was started in it: start one"):
                    RunDirectory.open(plan.run_dir)
            create(plan)
        facts = read_client_facts(plan.run_dir)
        assert facts == plan.facts
        assert all("memory_budget_mib" in each for each in facts.values())
        assert RunDirectory.open(plan.run_dir).config_text() == plan.config.to_yaml()
        names = {path.name for path in plan.run_dir.iterdir() if not is_temporary(path.name)}
        expected = {"environment.json", "partition.json", "clients.json", "config.yaml", ".lock"}
        assert names == expected
    assert outcomes == sorted(outcomes)
    assert outcomes.count("killed early") > 12
    assert "killed late" in outcomes
