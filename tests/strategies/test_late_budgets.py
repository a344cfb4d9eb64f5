"""A node that joins after the start brings its limits with it; one that nothing fits stays out."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.task_identity import TaskIdentity

from corolla.config.schema import RunConfig
from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.records.client_facts import write_client_facts
from corolla.records.run_directory import RunDirectory
from corolla.spaces.supernet import Supernet
from corolla.state import State
from strategies.base import CorollaStrategy
from strategies.node_roster import NodeRoster
from strategies.roster import TRAINED
from strategies.running.federated_run import FederatedRun
from tests.strategies.conftest import SMALL, strategy_of
from tests.strategies.test_roster import _Nodes


class _Roster:
    """Real nodes that say of themselves what ``said`` holds; client 1 joins in the second round."""

    interchangeable = False

    def __init__(self, said: dict[str, dict[str, Any]], online: Collection[str] = "0") -> None:
        self.online = {client: 10 + number for number, client in enumerate(online)}
        self.gone: dict[str, str] = {}
        self._said = said

    def clients(self) -> list[str]:
        return [client for client in self.online if client not in self.gone]

    def nodes(self, grid: Any) -> dict[str, int]:
        return {client: self.online[client] for client in self.clients()}

    def facts(self, client: str) -> dict[str, Any]:
        return {"num_examples": {"train": 50}, **self._said.get(client, {})}

    def leave_out(self, clients: Collection[str], *, reason: str = TRAINED) -> None:
        self.gone |= dict.fromkeys(clients, reason)


def _strategy(*overrides: str, **known: Any) -> tuple[CorollaStrategy, Supernet, RunConfig]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    config = plan_run([*SMALL, *overrides, "run_dir=unused"]).config
    strategy = strategy_of(config, **known)
    return strategy, strategy.space, config


def _asked(strategy: CorollaStrategy, roster: _Roster, rounds: int) -> list[dict[str, list[int]]]:
    """Return who is sent which architecture, round by round; client 1 joins after the first."""
    strategy.roster = roster
    found = []
    for server_round in range(1, rounds + 1):
        messages = strategy.configure_train(server_round, None, None, None)  # type: ignore[arg-type]
        tasks = [message.content["task"] for message in messages]
        found.append({str(task["client"]): list(task["architecture"]) for task in tasks})
        roster.online["1"] = 11
    return found


def test_what_a_late_node_says_of_its_memory_is_kept() -> None:
    strategy, space, config = _strategy()
    smallest = space.costs(space.smallest(), batch_size=config.batch_size).training_memory_mib
    roster = _Roster({"1": {"memory_budget_mib": smallest + 1e-6}})
    first, *later = _asked(strategy, roster, 4)
    assert set(first) == {"0"}
    for sent in later:
        assert set(sent) == {"0", "1"}
        assert sent["1"] == space.smallest().to_list()
    assert strategy.describe("1")["memory_budget_mib"] == smallest + 1e-6
    assert "macs_cap" not in strategy.describe("1")


def test_what_a_late_node_says_of_its_cap_is_kept() -> None:
    strategy, space, _ = _strategy()
    cap = float(space.costs(space.smallest()).macs)
    _, *later = _asked(strategy, _Roster({"1": {"macs_cap": cap}}), 4)
    assert [sent["1"] for sent in later] == [space.smallest().to_list()] * 3
    assert strategy.describe("1")["macs_cap"] == cap
    assert strategy.federation.caps == {"1": cap}


def test_a_late_node_gets_the_cap_that_the_rule_gives_it() -> None:
    strategy, space, _ = _strategy(
        "cap=data_size", "cap.low_margin=0", "cap.high_margin=0", "cap.step=null",
        caps={"0": 7e7}, examples={"0": 10, "9": 110},
    )  # fmt: skip
    said = {"0": {"num_examples": {"train": 10}}, "1": {"num_examples": {"train": 60}}}
    _asked(strategy, _Roster(said), 2)
    # By hand: half way between the ends. What client 0 had from the start stays.
    middle = (space.costs(space.smallest()).macs + space.costs(space.largest()).macs) / 2
    assert strategy.federation.caps == {"0": 7e7, "1": middle}


def test_a_late_nodes_speed_makes_its_cap_unless_it_gives_one() -> None:
    strategy, _, _ = _strategy("cap=speed", "cap.latency_ms=20", caps={"0": 5e5})
    _asked(strategy, _Roster({"1": {"macs_per_s": 4e6}}), 2)
    assert strategy.federation.caps == {"0": 5e5, "1": 80_000.0}  # 4e6 * 0.02
    strategy, _, _ = _strategy("cap=speed", "cap.latency_ms=20", caps={"0": 5e5})
    _asked(strategy, _Roster({"1": {"macs_cap": 6e5}}), 2)
    assert strategy.federation.caps == {"0": 5e5, "1": 6e5}


@pytest.mark.parametrize("method", ["perfedrlnas", "fedavg"])
@pytest.mark.parametrize("said", [{"macs_cap": 9.0}, {"memory_budget_mib": 0.001}])
def test_a_late_node_that_nothing_fits_is_left_out(
    method: str, said: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    strategy, _, _ = _strategy(f"method={method}")
    roster = _Roster({"1": said})
    assert [set(sent) for sent in _asked(strategy, roster, 3)] == [{"0"}] * 3
    assert roster.gone == {"1": "had less than the smallest architecture takes"}
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    (key,) = said
    assert warning.startswith(f"client 1 is left out: {key} is ")
    assert "the smallest architecture takes " in warning


def test_a_round_in_which_only_such_a_node_is_there_asks_nobody() -> None:
    strategy, _, _ = _strategy()
    roster = _Roster({"1": {"macs_cap": 9.0}})
    strategy.roster = roster
    roster.online = {"1": 11}
    assert list(strategy.configure_train(1, None, None, None)) == []  # type: ignore[arg-type]


def test_a_left_out_node_is_told_apart_from_one_that_was_in_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="corolla")
    grid: Any = _Nodes({1: "site-a", 2: "site-b"})
    roster = NodeRoster(expected=2, deadline_s=1)
    roster.nodes(grid)
    roster.leave_out({"site-b"}, reason="had less than the smallest architecture takes")
    assert roster.nodes(grid) == {"site-a": 1}
    assert "left out, since they had less than the smallest architecture takes: site" in caplog.text
    grid.names = {1: "site-a", 9: "site-b"}  # back under another node id
    assert roster.nodes(grid) == {"site-a": 1}
    assert "node 9: left out, it had less than the smallest architecture takes" in caplog.text


# --- at the start, and when a run goes on -------------------------------------------------------------------


def _node_run(path: Path, roster: _Roster, *overrides: str) -> FederatedRun:
    """Return a run on real nodes that was prepared and not started."""
    plan = plan_run([*SMALL, *overrides, f"run_dir={path}"])
    engine = {**plan.config.engine, "kind": "superlink", "node_timeout_s": 1.0}
    config = plan.config.model_copy(update={"engine": engine})
    RunDirectory.create(path, config_yaml=config.to_yaml(), environment={})
    write_client_facts(path, {})
    (path / ".launch").write_text("token")
    run = FederatedRun(config=config, launch="token")
    run._roster = roster
    return run


def test_at_the_start_every_nodes_cap_is_made_and_recorded(tmp_path: Path) -> None:
    said = {
        "a": {"num_examples": {"train": 10}},
        "b": {"num_examples": {"train": 30}},
        "c": {"num_examples": {"train": 20}, "macs_cap": 123_456.0},
    }
    rule = ["cap=data_size", "cap.low_margin=0", "cap.high_margin=0", "cap.step=null"]
    run = _node_run(tmp_path / "run", _Roster(said, online="abc"), *rule)
    strategy = run._strategy(None)  # type: ignore[arg-type]
    space = strategy.space
    ends = [float(space.costs(one).macs) for one in (space.smallest(), space.largest())]
    assert strategy.federation.caps == {"a": ends[0], "b": ends[1], "c": 123_456.0}
    assert run._facts["a"]["macs_cap"] == ends[0]  # what summary.json takes


def test_a_node_that_nothing_fits_at_the_start_is_refused_by_name(tmp_path: Path) -> None:
    roster = _Roster({"a": {"macs_cap": 9.0}}, online="ab")
    run = _node_run(tmp_path / "run", roster)
    with pytest.raises(RefusedError, match=r"max-macs='client a: 9': .* --node-config"):
        run._strategy(None)  # type: ignore[arg-type]
    slow = _Roster({"a": {"macs_per_s": 1e3}, "b": {"macs_per_s": 1e9}}, online="ab")
    run = _node_run(tmp_path / "slow", slow, "cap=speed")
    with pytest.raises(RefusedError, match=r"cap='client a: 10': .* Raise cap\.latency_ms"):
        run._strategy(None)  # type: ignore[arg-type]


def test_a_run_that_goes_on_leaves_such_a_node_out_while_there_are_others(tmp_path: Path) -> None:
    roster = _Roster({"a": {"macs_cap": 9.0}}, online="ab")
    run = _node_run(tmp_path / "run", roster)
    run._directory.checkpoints.save(State({}, {}), round=1, header=run._header, best=False)
    run._strategy(None)  # type: ignore[arg-type]
    assert set(roster.gone) == {"a"}
    roster = _Roster({"a": {"macs_cap": 9.0}}, online="a")
    run._roster, run._facts = roster, {}
    with pytest.raises(RefusedError, match="client a: 9"):
        run._strategy(None)  # type: ignore[arg-type]
