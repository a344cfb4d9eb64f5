"""Who is there: clients by their own names, nodes that come, go and come back."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from clients.flower_internals import ErrorCode
from corolla.errors import RunFailedError
from corolla.spaces.architecture import Architecture
from corolla.tasks import Task
from strategies import node_roster as roster_module
from strategies.exchange import Exchange, Order
from strategies.node_roster import NodeRoster
from strategies.roster import SimulatedRoster


class _Nodes:
    """A grid of named nodes; a name of None is a node that answers with an error."""

    def __init__(
        self, names: dict[int, str | None], registered: dict[int, str] | None = None
    ) -> None:
        self.registered = registered or {}
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.names = names
        self.asked: list[int] = []
        self.pushed: dict[str, Message] = {}
        self.made = {node: f"2026-01-01T00:00:{i:02}" for i, node in enumerate(names)}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.names)

    def get_nodes(self) -> Iterable[Any]:
        return [
            SimpleNamespace(
                node_id=n,
                name=self.registered.get(n, ""),
                registered_at=self.made.get(n, ""),
                last_activated_at="",
            )
            for n in self.names
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.pushed = {f"m{number}": message for number, message in enumerate(messages)}
        for identifier, message in self.pushed.items():
            message.metadata.__dict__["_message_id"] = identifier
            self.asked.append(message.metadata.dst_node_id)
        return list(self.pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self.answer(self.pushed[identifier]) for identifier in message_ids]

    def answer(self, message: Message) -> Message:
        name = self.names[message.metadata.dst_node_id]
        if name is None:
            return Message(Error(1, "no data"), reply_to=message)
        info = ConfigRecord({"client": name, "num_examples": [8, 1, 1]})
        return Message(RecordDict({"info": info}), reply_to=message)


def test_nodes_are_asked_once_and_known_by_their_names() -> None:
    grid = _Nodes({7: "site-b", 3: "site-a"})
    roster = NodeRoster(expected=2, deadline_s=1)
    assert roster.nodes(grid) == {"site-a": 3, "site-b": 7}
    assert roster.nodes(grid) == {"site-a": 3, "site-b": 7}
    assert grid.asked == [3, 7]
    assert roster.facts("site-a")["num_examples"] == {"train": 8, "validation": 1, "test": 1}


def test_a_site_that_comes_back_under_another_node_id_is_the_same_client() -> None:
    grid = _Nodes({3: "site-a", 7: "site-b"})
    roster = NodeRoster(expected=2, deadline_s=1)
    roster.nodes(grid)
    grid.names = {3: "site-a"}
    assert roster.nodes(grid) == {"site-a": 3}
    grid.names = {3: "site-a", 9: "site-b"}
    assert roster.nodes(grid) == {"site-a": 3, "site-b": 9}
    assert roster.clients() == ["site-a", "site-b"]


def test_a_node_without_a_name_gets_the_one_it_was_registered_under() -> None:
    assert NodeRoster(expected=1, deadline_s=1).nodes(_Nodes({5: ""}, {5: "key-5"})) == {"key-5": 5}


def test_a_name_that_its_key_does_not_bear_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    grid = _Nodes({3: "site-a", 4: "site-b"}, {3: "site-a", 4: "site-c"})
    assert NodeRoster(expected=2, deadline_s=1).nodes(grid) == {"site-a": 3}
    assert "calls itself 'site-b' but its key is registered as 'site-c'" in caplog.text


def test_two_nodes_of_one_name_are_not_one_client(caplog: pytest.LogCaptureFixture) -> None:
    nodes = NodeRoster(expected=2, deadline_s=1).nodes(_Nodes({3: "site-a", 4: "site-a"}))
    assert nodes == {"site-a": 3}
    assert "calls itself 'site-a', as node 3 does" in caplog.text


def test_a_node_that_cannot_say_who_it_is_is_left_out() -> None:
    assert NodeRoster(expected=2, deadline_s=1).nodes(_Nodes({3: None, 4: "b"})) == {"b": 4}
    with pytest.raises(RunFailedError, match="none of the connected nodes can take part\nnode 3: "):
        NodeRoster(expected=1, deadline_s=1).nodes(_Nodes({3: None}))


def test_nodes_whose_question_was_lost_on_the_way_are_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the way to the sites is cut for a while: Flower then calls the nodes unavailable."""
    monkeypatch.setattr(roster_module, "POLL_S", 0.01)
    grid = _Nodes({3: "site-a"})
    honest, away = grid.answer, [1, 2]

    def answer(message: Message) -> Message:
        gone = Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)
        return gone if away and away.pop() else honest(message)

    monkeypatch.setattr(grid, "answer", answer)
    assert NodeRoster(expected=1, deadline_s=60).nodes(grid) == {"site-a": 3}
    assert grid.asked == [3, 3, 3]


def test_a_node_that_says_nothing_is_waited_for_once_while_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = _Nodes({3: "a", 7: "mute"})
    honest = grid.pull_messages

    def pull(message_ids: Iterable[str]) -> list[Message]:
        silent = [i for i in message_ids if grid.pushed[i].metadata.dst_node_id != 7]
        return honest(silent if grid.names[7] == "mute" else message_ids)

    monkeypatch.setattr(grid, "pull_messages", pull)
    monkeypatch.setattr(roster_module, "_PUT_OFF", 10_000)
    roster = NodeRoster(expected=2, deadline_s=0, reply_timeout_s=0.1)
    for _ in range(3):
        assert roster.nodes(grid) == {"a": 3}
    grid.names[9] = "new"
    assert roster.nodes(grid) == {"a": 3, "new": 9}
    assert grid.asked == [3, 7, 9]
    grid.names = {7: "mute"}  # alone: there is nobody whom it holds up
    with pytest.raises(RunFailedError, match="none of the connected nodes"):
        roster.nodes(grid)
    grid.names = {3: "a", 7: "late"}
    later = time.monotonic() + 1_001
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert roster.nodes(grid) == {"a": 3, "late": 7}


def test_too_few_nodes_within_the_deadline() -> None:
    with pytest.raises(RunFailedError, match="1 of 2 nodes connected within 0 s"):
        NodeRoster(expected=2, deadline_s=0).nodes(_Nodes({3: "a"}))


def test_simulated_clients_share_nodes_evenly() -> None:
    grid = _Nodes({1000: None, 1001: None})
    nodes = SimulatedRoster(clients=["0", "1", "2", "3"]).nodes(grid)
    assert nodes == {"0": 1000, "1": 1001, "2": 1000, "3": 1001}


def test_simulated_nodes_are_known_in_the_order_in_which_they_were_made() -> None:
    nodes = SimulatedRoster(clients=["0", "1", "2"]).nodes(_Nodes({9: None, 4: None, 7: None}))
    assert list(nodes.values()) == [9, 4, 7]


def _orders(*clients: str) -> list[Order]:
    tasks = [Task(client=client, round=1, architecture=Architecture((0,))) for client in clients]
    return [Order(task=task, arrays={}, returns={}) for task in tasks]


def test_long_tasks_go_first_and_in_a_simulation_to_the_first_nodes() -> None:
    nodes = {"0": 30, "1": 10, "2": 20}  # in the order in which they were made
    work = {"0": 1.0, "1": 5.0, "2": 9.0}
    for interchangeable, expected in (
        (True, [("2", 30), ("1", 10), ("0", 20)]),
        (False, [("2", 20), ("1", 10), ("0", 30)]),
    ):
        exchange = Exchange(
            _orders("0", "1", "2"),
            nodes,
            work=lambda task: work[task.client],
            interchangeable=interchangeable,
        )
        sent = exchange.messages()
        assert [
            (str(m.content["task"]["client"]), m.metadata.dst_node_id) for m in sent
        ] == expected


def test_a_client_without_a_node_is_a_failure_and_takes_no_other_node() -> None:
    exchange = Exchange(_orders("0", "1"), {"1": 10}, interchangeable=True)
    (message,) = exchange.messages()
    assert message.metadata.dst_node_id == 10
    message.metadata.__dict__["_message_id"] = "m"
    _, failures = exchange.sort([])
    assert [(f.client, f.reason) for f in failures] == [
        ("0", "not connected"),
        ("1", "no reply before the round's deadline"),
    ]
