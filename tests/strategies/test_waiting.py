"""Waiting for answers: deadlines, nodes that are started again, a SuperLink that answers with errors."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from clients.flower_internals import ErrorCode, TaskIdentity
from strategies import waiting
from strategies.waiting import NOT_SENT, PATIENCE_S, RESTARTED, UNFINISHED, UNREADABLE, gather

GONE = "Message Unavailable - The requested message could not be found in the database."


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
    """Node i answers ``answers[i]`` seconds after it was asked and is started again after ``restarts[i]``.

    As a SuperLink does, it takes a message twice without a word, and gives each answer away once.
    """

    def __init__(
        self,
        clock: _Clock,
        answers: Mapping[int, float],
        restarts: Mapping[int, float] | None = None,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.clock, self.answers, self.restarts = clock, answers, restarts or {}
        self.pushed: dict[str, tuple[float, Message]] = {}
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
        self.clock.now += self.pushing_s
        identifiers = []
        for message in messages:
            node = message.metadata.dst_node_id
            identifier = message.metadata.__dict__["_message_id"] = f"m{node}"
            if node in self.full:
                identifiers.append("")
                continue
            self.pushed.setdefault(identifier, (self.passed(), message))
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        due = []
        for identifier in list(message_ids):
            if identifier not in self.pushed:
                due.append(_error_to(identifier, ErrorCode.MESSAGE_UNAVAILABLE, GONE))
                continue
            at, message = self.pushed[identifier]
            if at + self.answers[message.metadata.dst_node_id] <= self.passed():
                del self.pushed[identifier]
                due.append(Message(RecordDict(), reply_to=message))
        return due


class _Slow(_Grid):
    """Each look for an answer takes 0.1 s."""

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.clock.now += 0.1
        return super().pull_messages(message_ids)


def test_between_looks_that_take_long_there_is_a_rest() -> None:
    clock = _Clock()
    grid = _Slow(clock, dict.fromkeys(range(1, 6), 4.0))
    assert set(_ask(grid, timeout_s=60).values()) == {"answer"}
    # A look at five nodes takes 0.5 s, of which 4 times is 2 s; the last round is not waited for.
    assert clock.pauses == pytest.approx([2.0, 2.0])


class _Away(_Grid):
    """Each call may go wrong, as `fault` says: before it does anything, or after it did."""

    def __init__(self, *arguments: Any, fault: Callable[[str], str], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.fault = fault

    def get_nodes(self) -> list[Any]:
        return self._call("nodes", super().get_nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        listed = list(messages)
        for message in listed:  # as Flower does, before it calls anybody
            message.metadata.__dict__["_message_id"] = f"m{message.metadata.dst_node_id}"
        return self._call("push", super().push_messages, listed)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self._call("pull", super().pull_messages, list(message_ids))

    def _call(self, kind: str, ask: Callable[..., list[Any]], *arguments: Any) -> list[Any]:
        when = self.fault(kind)
        if when == "before":
            raise _status(500)
        if when == "cut before":
            raise httpx.RemoteProtocolError("peer closed connection")
        found = ask(*arguments)
        if when == "after":
            raise _status(500)
        if when == "truncated":
            raise ValueError("Invalid protobuf response payload")
        return found


def _error_to(identifier: str, code: int, reason: str) -> Message:
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = identifier
    return Message(Error(code, reason), reply_to=asked)


def _status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://superlink/v1/runtime/x")
    response = httpx.Response(code, request=request)
    return httpx.HTTPStatusError(f"Server error '{code}'", request=request, response=response)


def _ask(grid: _Grid, *, timeout_s: float | None, real_nodes: bool = True) -> dict[int, str]:
    """Return node -> "answer" or the error's reason."""
    messages = [Message(RecordDict(), node, "train") for node in grid.answers]
    replies = list(
        gather(
            grid,  # type: ignore[arg-type]
            messages,
            timeout_s=timeout_s,
            real_nodes=real_nodes,
            clock=grid.clock,
            sleep=grid.clock.sleep,
        )
    )
    nodes = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    found = {
        nodes[reply.metadata.reply_to_message_id]: (
            reply.error.reason if reply.has_error() else "answer"
        )
        for reply in replies
    }
    assert len(found) == len(replies)
    return found


def test_a_reply_is_handed_over_as_it_comes_and_not_kept() -> None:
    grid = _Grid(_Clock(), {1: 10.0, 2: 10.0, 3: 40.0})
    alive: weakref.WeakValueDictionary[str, Message] = weakref.WeakValueDictionary()
    pull = grid.pull_messages

    def watched(message_ids: Iterable[str]) -> list[Message]:
        answers = pull(message_ids)
        alive.update({answer.metadata.reply_to_message_id: answer for answer in answers})
        return answers

    grid.pull_messages = watched  # type: ignore[method-assign]
    seen = []
    messages = [Message(RecordDict(), node, "train") for node in grid.answers]
    settings = {"clock": grid.clock, "sleep": grid.clock.sleep}
    for reply in gather(grid, messages, timeout_s=60, real_nodes=True, **settings):  # type: ignore[arg-type]
        seen.append((reply.metadata.src_node_id, len(alive), grid.passed()))
        del reply
    assert [one[:2] for one in seen] == [(1, 1), (2, 1), (3, 1)]
    assert seen[1][2] < 11 < seen[2][2]


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


def test_it_looks_once_more_after_the_deadline() -> None:
    grid = _Grid(_Clock(), {1: 4.99})
    grid.clock.sleep = lambda seconds: setattr(grid.clock, "now", grid.clock.now + 2.5)  # type: ignore[method-assign]
    pull = grid.pull_messages
    looks = []

    def pulled(message_ids: Iterable[str]) -> list[Message]:
        looks.append(grid.passed())
        if len(looks) == 3:  # the answer comes just after this look
            return []
        return pull(message_ids)

    grid.pull_messages = pulled  # type: ignore[method-assign]
    assert _ask(grid, timeout_s=5.0) == {1: "answer"}
    assert looks == [0.0, 2.5, 5.0, 5.0]


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
    grid = _Grid(_Clock(), {1: 0.0, 2: 0.0, 3: 0.0})
    pull = grid.pull_messages

    def pulled(message_ids: Iterable[str]) -> list[Message]:
        wanted = list(message_ids)
        if "m2" in wanted:
            raise UnicodeDecodeError("utf-8", b"\x80", 0, 1, "of node 2")
        return pull(wanted)

    grid.pull_messages = pulled  # type: ignore[method-assign]
    found = _ask(grid, timeout_s=10)
    assert found.pop(2).startswith(f"{UNREADABLE}: UnicodeDecodeError: ")
    assert found == {1: "answer", 3: "answer"}


class TestASuperLinkInTrouble:
    def test_500_faults_cost_no_answer(self) -> None:
        draws, kinds = np.random.default_rng(7), ["before", "cut before", "after", "truncated"]
        faults = rounds = 0

        def fault(kind: str) -> str:
            nonlocal faults
            # An answer that is lost on the way is asked for three times more, not for ever.
            some = kinds[:2] if kind == "pull" and draws.random() < 0.8 else kinds
            if draws.random() < 0.6:
                return ""
            faults += 1
            return str(draws.choice(some))

        while faults < 500:
            grid = _Away(_Clock(), {1: 1.0, 2: 3.0, 3: 9.0}, fault=fault)
            assert _ask(grid, timeout_s=600.0) == dict.fromkeys((1, 2, 3), "answer")
            rounds += 1
        assert rounds > 5

    def test_what_it_does_for_a_while_costs_that_while(self) -> None:
        clock = _Clock()
        grid = _Away(clock, {1: 0.0, 2: 0.0}, fault=lambda _: "before" * (clock() < 220.0))
        assert _ask(grid, timeout_s=600.0) == {1: "answer", 2: "answer"}
        assert 120.0 <= grid.passed() <= 124.0
        assert min(clock.pauses) >= 0.5  # nobody hammers it

    def test_at_the_deadline_the_round_ends_all_the_same(self) -> None:
        grid = _Away(_Clock(), {1: 0.0, 2: 0.0}, fault=lambda _: "before")
        assert _ask(grid, timeout_s=60.0) == {1: NOT_SENT, 2: NOT_SENT}
        assert 60.0 <= grid.passed() <= 63.0

    def test_without_a_deadline_it_is_given_up_after_its_time(self) -> None:
        grid = _Away(_Clock(), {1: 0.0}, fault=lambda _: "before")
        with pytest.raises(httpx.HTTPStatusError):
            _ask(grid, timeout_s=None)
        assert PATIENCE_S <= grid.passed() <= PATIENCE_S + 3.0

    def test_an_answer_that_is_lost_again_and_again_is_that_clients_failure(self) -> None:
        grid, asked = _Grid(_Clock(), {1: 1.0}), []
        pull, push = grid.pull_messages, grid.push_messages

        def pulled(message_ids: Iterable[str]) -> list[Message]:
            found = pull(message_ids)
            if found and not found[0].has_error():
                raise _status(500)
            return found

        def pushed(messages: Iterable[Message]) -> list[str]:
            asked.append(grid.passed())
            return push(messages)

        grid.pull_messages, grid.push_messages = pulled, pushed  # type: ignore[method-assign]
        assert _ask(grid, timeout_s=600.0) == {1: GONE}
        assert len(asked) == 4
        assert grid.passed() < 10.0

    def test_a_message_that_it_stumbles_over_holds_up_nobody_else(self) -> None:
        grid = _Grid(_Clock(), {1: 5.0, 2: 5.0, 3: 5.0})
        push = grid.push_messages

        def pushed(messages: Iterable[Message]) -> list[str]:
            listed = list(messages)
            taken = push(listed)
            if any(message.metadata.dst_node_id == 2 for message in listed):
                raise _status(500)
            return taken

        grid.push_messages = pushed  # type: ignore[method-assign]
        assert _ask(grid, timeout_s=30.0) == {1: "answer", 2: NOT_SENT, 3: "answer"}

    @pytest.mark.parametrize("code", [413, 500])
    def test_messages_too_large_to_go_together_go_one_by_one(self, code: int) -> None:
        grid = _Grid(_Clock(), {1: 5.0, 2: 5.0})
        push = grid.push_messages

        def pushed(messages: Iterable[Message]) -> list[str]:
            listed = list(messages)
            if len(listed) > 1 and code == 500:
                raise _status(500)
            return push(listed) if len(listed) == 1 else []  # Flower's word for 413

        grid.push_messages = pushed  # type: ignore[method-assign]
        assert _ask(grid, timeout_s=30.0) == {1: "answer", 2: "answer"}

    def test_a_message_that_it_refuses_is_an_error_at_once(self) -> None:
        grid = _Grid(_Clock(), {1: 0.0})

        def refused(_: Iterable[Message]) -> list[str]:
            raise _status(400)

        grid.push_messages = refused  # type: ignore[method-assign]
        assert _ask(grid, timeout_s=600.0) == {1: NOT_SENT}
        assert grid.passed() < 1.0

    def test_a_run_that_was_stopped_ends(self) -> None:
        class Stopped(BaseException):
            """As Flower's own is: no Exception."""

        grid = _Grid(_Clock(), {1: 0.0})

        def stopped(_: Iterable[str]) -> list[Message]:
            raise Stopped

        grid.pull_messages = stopped  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            _ask(grid, timeout_s=600.0)


class TestAnUploadThatTakesTime:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "_WHOLE_S", 0.05)
        monkeypatch.setattr(waiting, "_GRACE_S", 0.1)

    @staticmethod
    def _slow(grid: _Grid, node: int, whole: threading.Event) -> list[float]:
        """Have the look for ``node``'s answer take until ``whole``; return when the looks began."""
        pull, began = grid.pull_messages, []

        def pulled(message_ids: Iterable[str]) -> list[Message]:
            wanted = list(message_ids)
            if wanted == [f"m{node}"]:
                began.append(grid.passed())
                assert whole.wait(20)
            return pull(wanted)

        grid.pull_messages = pulled  # type: ignore[method-assign]
        return began

    def test_one_that_never_ends_is_that_clients_failure_and_nobody_elses_loss(self) -> None:
        grid, never = _Grid(_Clock(), {1: 1.0, 2: 0.0, 3: 9.0}), threading.Event()
        began = self._slow(grid, 2, never)
        try:
            assert _ask(grid, timeout_s=20.0) == {1: "answer", 2: UNFINISHED, 3: "answer"}
        finally:
            never.set()
        assert began == [0.0]  # one look, which goes on beside the others'

    def test_one_that_ends_counts(self) -> None:
        grid, whole = _Grid(_Clock(), {1: 0.0, 2: 0.0}), threading.Event()
        self._slow(grid, 2, whole)
        sleep = grid.clock.sleep

        def sleeping(seconds: float) -> None:
            sleep(seconds)
            if grid.passed() > 10.0:
                whole.set()

        grid.clock.sleep = sleeping  # type: ignore[method-assign]
        assert _ask(grid, timeout_s=1000.0) == {1: "answer", 2: "answer"}

    def test_one_that_flower_gave_up_is_not_asked_for_again(self) -> None:
        reason = f"{waiting._UPLOAD}. The sender may not have completed the upload"
        grid = _Grid(_Clock(), {1: 0.0})
        grid.pull_messages = lambda _: [  # type: ignore[method-assign]
            _error_to("m1", ErrorCode.MESSAGE_UNAVAILABLE, reason)
        ]
        assert _ask(grid, timeout_s=600.0) == {1: reason}
        assert grid.passed() < 1.0
