"""A node that joins after the start brings its memory budget with it."""

from __future__ import annotations

from typing import Any

from flwr.supercore.task_identity import TaskIdentity

from corolla.config.build import build_space, build_strategy, build_trainer_settings
from corolla.federation import Federation
from corolla.launch import plan_run
from strategies.perfedrlnas import PerFedRLNAS
from tests.strategies.conftest import SMALL


class _Roster:
    """Client 1 joins in the second round, with room for the smallest architecture only."""

    interchangeable = False

    def __init__(self, budget: float) -> None:
        self.online = {"0": 10}
        self._budget = budget

    def clients(self) -> list[str]:
        return list(self.online)

    def nodes(self, grid: Any) -> dict[str, int]:
        return self.online

    def facts(self, client: str) -> dict[str, Any]:
        return {"memory_budget_mib": self._budget} if client == "1" else {}


def test_what_a_late_node_says_of_its_memory_is_kept() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    config = plan_run([*SMALL, "run_dir=unused"]).config
    space = build_space(config)
    federation = Federation.of(
        config, space=space, trainer=build_trainer_settings(config), budgets={}
    )
    strategy = build_strategy(config, federation=federation)
    assert isinstance(strategy, PerFedRLNAS)
    smallest = space.costs(space.smallest(), batch_size=config.batch_size).training_memory_mib
    roster = _Roster(smallest + 1e-6)
    strategy.roster = roster
    for server_round in (1, 2, 3, 4):
        messages = list(strategy.configure_train(server_round, None, None, None))  # type: ignore[arg-type]
        sent = {str(m.content["task"]["client"]): m for m in messages}
        assert ("1" in sent) == (server_round > 1)
        if "1" in sent:
            choices = list(sent["1"].content["task"]["architecture"])
            assert choices == space.smallest().to_list()
        roster.online["1"] = 11
