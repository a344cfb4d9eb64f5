"""What a method cannot absorb is left out by name, and the state is as if it had never come."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from corolla.errors import RunFailedError
from corolla.spaces.architecture import Architecture
from corolla.state import State
from corolla.tasks import Reply, Task
from strategies.absorbing import absorbed
from strategies.base import Outcome


class _Sum:
    """Adds up what replies hold; its JSON is written to, as some methods' is."""

    may_be_infinite = ("told/",)

    def __init__(self, *, most: float = 1e9) -> None:
        self.total, self.who, self.most = np.zeros(1, np.float32), {"heard": [""]}, most
        self.told = np.zeros(1)

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        for reply in replies:
            self.who["heard"].append(reply.client)
            value = reply.metrics["value"]
            if value == 13:
                raise ZeroDivisionError("thirteen")
            if value == 14:
                raise RunFailedError("the disk is full")
            with np.errstate(over="ignore"):
                self.total = (self.total + np.float32(value)).astype(np.float32)
            self.told = self.told + np.inf
        if self.total[0] > self.most:
            raise OverflowError("too much in all")
        return Outcome({"sum": float(self.total[0])})

    def state(self) -> State:
        return State({"total": self.total, "told/x": self.told}, self.who)

    def load_state(self, state: State) -> None:
        self.total, self.told = state.arrays["total"], state.arrays["told/x"]
        self.who = state.meta


def _replies(**values: float) -> list[Reply]:
    found = []
    for client, value in values.items():
        task = Task(client=client, round=1, architecture=Architecture((0,)))
        received: dict[str, Any] = {"arrays": {}, "bytes_down": 0, "bytes_up": 0, "round_s": 1.0}
        metrics = {"value": value}
        found.append(Reply(task=task, num_examples=1, metrics=metrics, **received))
    return found


def _absorbed(strategy: Any, **values: float) -> SimpleNamespace:
    replies, failures, outcome = absorbed(strategy, 1, _replies(**values))
    return SimpleNamespace(
        heard=[reply.client for reply in replies],
        failed={failure.client: failure.reason for failure in failures},
        metrics=outcome.metrics,
    )


def test_what_can_be_absorbed_is() -> None:
    strategy = _Sum()
    found = _absorbed(strategy, a=1, b=2)
    assert (found.heard, found.failed, found.metrics) == (["a", "b"], {}, {"sum": 3.0})


def test_who_makes_it_raise_is_left_out() -> None:
    strategy = _Sum()
    found = _absorbed(strategy, a=1, b=13, c=2, d=13)
    assert (found.heard, found.metrics) == (["a", "c"], {"sum": 3.0})
    reason = "the reply cannot be absorbed: ZeroDivisionError: thirteen"
    assert found.failed == {"b": reason, "d": reason}
    assert strategy.who == {"heard": ["", "a", "c"]}


def test_who_makes_the_state_infinite_is_left_out() -> None:
    strategy = _Sum(most=np.inf)
    found = _absorbed(strategy, a=1, b=1e39)
    assert (found.heard, strategy.total.tolist()) == (["a"], [1.0])
    reason = "the reply cannot be absorbed: total would hold NaN or infinite values"
    assert found.failed == {"b": reason}


def test_where_nobody_alone_is_at_fault_the_old_state_stands() -> None:
    strategy = _Sum(most=5)
    found = _absorbed(strategy, a=3, b=4)
    assert (found.heard, sorted(found.failed), found.metrics) == ([], ["a", "b"], {"sum": 0.0})
    assert strategy.who == {"heard": [""]}


def test_where_all_are_at_fault_the_old_state_stands() -> None:
    strategy = _Sum()
    found = _absorbed(strategy, a=13)
    assert (found.heard, list(found.failed), found.metrics) == ([], ["a"], {"sum": 0.0})


def test_the_servers_own_trouble_is_nobodys_reply() -> None:
    with pytest.raises(RunFailedError, match="the disk is full"):
        _absorbed(_Sum(), a=1, b=14)
