"""Waiting for answers: deadlines, and nodes that lose a message by being started again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from strategies.waiting import NOT_SENT, RESTARTED, UNREADABLE, gather


class _Clock:
    """Time passes only in sleeps; what is asked for is noted."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class _Grid:
    """Node i answers after ``answers[i]`` seconds and is started again after ``restarts[i]``."""

    def __init__(
        self,
        clock: _Clock,
        answers: Mapping[int, float],
        restarts: Mapping[int, float] | None = None,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.clock, self.answers, self.restarts = clock, answers, restarts or {}
        self.pushed: dict[str, Message] = {}
        self.start = clock()
        self.looks = 0
        self.full: set[int] = set()  # nodes whose messages are not taken
        self.pushing_s = 0.0

    def passed(self) -> float:
        return self.clock() - self.start

    def get_nodes(self) -> list[Any]:
        self.looks += 1
        return [
            SimpleNamespace(
                node_id=node,
                last_activated_at="2" if self.restarts.get(node, 1e9) <= self.passed() else "1",
            )
            for node in self.answers
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
            self.pushed[f"m{number}"] = message
        self.clock.now += self.pushing_s
        return [
            "" if message.metadata.dst_node_id in self.full else identifier
            for identifier, message in self.pushed.items()
        ]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        due = [
            self.pushed[i]
            for i in message_ids
            if self.answers[self.pushed[i].metadata.dst_node_id] <= self.passed()
        ]
        return [Message(RecordDict(), reply_to=message) for message in due]


def _ask(grid: _Grid, *, timeout_s: float | None, real_nodes: bool = True) -> dict[int, str]:
    """Return node -> "answer" or the error's reason."""
    messages = [Message(RecordDict(), node, "train") for node in grid.answers]
    replies = gather(
        grid,  # type: ignore[arg-type]
        messages,
        timeout_s=timeout_s,
        real_nodes=real_nodes,
        clock=grid.clock,
        sleep=grid.clock.sleep,
    )
    nodes = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    return {
        nodes[reply.metadata.reply_to_message_id]: (
            reply.error.reason if reply.has_error() else "answer"
        )
        for reply in replies
    }


def test_it_ends_soon_after_the_last_answer() -> None:
    grid = _Grid(_Clock(), {1: 10.0, 2: 40.0})
    assert _ask(grid, timeout_s=None) == {1: "answer", 2: "answer"}
    # By hand: the pause grows by 2 % of the time waited, so the end is at most 2 % late.
    assert 40.0 <= grid.passed() <= 40.0 * 1.02


def test_the_pauses_stay_between_their_bounds() -> None:
    grid = _Grid(_Clock(), {1: 1000.0})
    _ask(grid, timeout_s=None)
    assert min(grid.clock.pauses) == 0.02
    assert max(grid.clock.pauses) == 3.0


def test_at_the_deadline_it_returns_what_there_is() -> None:
    grid = _Grid(_Clock(), {1: 2.0, 2: 50.0})
    assert _ask(grid, timeout_s=5.0) == {1: "answer"}
    assert 5.0 <= grid.passed() <= 5.2


def test_a_node_that_was_started_again_is_not_waited_for() -> None:
    grid = _Grid(_Clock(), {1: 2.0, 2: 500.0}, restarts={2: 8.0})
    found = _ask(grid, timeout_s=600.0)
    assert found == {1: "answer", 2: RESTARTED}
    # Looked at every 5 s: restarted at 8 s, seen at 10 s and a pause.
    assert 10.0 <= grid.passed() <= 10.5


def test_an_answer_that_came_before_the_restart_counts() -> None:
    # The first look for restarts, at 5 s, sees answer and restart at once.
    grid = _Grid(_Clock(), {1: 5.0, 2: 30.0}, restarts={1: 5.0})
    assert _ask(grid, timeout_s=600.0) == {1: "answer", 2: "answer"}


@pytest.mark.parametrize("pushing_s", [0.0, 20.0])
def test_a_message_that_is_not_taken_is_an_error_at_once(pushing_s: float) -> None:
    grid = _Grid(_Clock(), {1: 30.0, 2: 30.0})
    grid.full, grid.pushing_s = {2}, pushing_s
    assert _ask(grid, timeout_s=600.0) == {1: "answer", 2: NOT_SENT}
    grid.full = {1, 2}
    started = grid.clock()
    assert _ask(grid, timeout_s=600.0) == {1: NOT_SENT, 2: NOT_SENT}
    assert grid.clock() - started <= pushing_s + 0.1


def test_a_simulation_has_no_restarts_to_look_for() -> None:
    grid = _Grid(_Clock(), {1: 60.0})
    _ask(grid, timeout_s=None, real_nodes=False)
    assert grid.looks == 0


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_nothing_to_send_is_nothing_to_wait_for(timeout_s: float | None) -> None:
    grid = _Grid(_Clock(), {})
    assert _ask(grid, timeout_s=timeout_s) == {}
    assert grid.clock.pauses == []


def test_an_answer_that_is_no_message_is_that_nodes_error() -> None:
    clock = _Clock()
    grid = _Grid(clock, {1: 0.0, 2: 0.0, 3: 0.0})
    pull = grid.pull_messages

    def pulled(message_ids: Iterable[str]) -> list[Message]:
        wanted = list(message_ids)
        if "m1" in wanted:
            raise UnicodeDecodeError("utf-8", b"\x80", 0, 1, "of node 2")
        return pull(wanted)

    grid.pull_messages = pulled  # type: ignore[method-assign]
    found = _ask(grid, timeout_s=10)
    assert {node: found[node] for node in (1, 3)} == _ask(
        _Grid(_Clock(), {1: 0, 3: 0}), timeout_s=9
    )
    assert found[2].startswith(f"{UNREADABLE}: UnicodeDecodeError: ")


def test_the_superlinks_own_trouble_is_no_nodes() -> None:
    grid = _Grid(_Clock(), {1: 0.0})

    def gone(message_ids: Iterable[str]) -> list[Message]:
        raise httpx.ConnectError("no route")

    grid.pull_messages = gone  # type: ignore[method-assign]
    with pytest.raises(httpx.ConnectError):
        _ask(grid, timeout_s=10)
