from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from engines.grid import InlineGrid
from strategies.words import last_line


@pytest.fixture(autouse=True)
def _server() -> None:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 5, 6, 1


def echo(message: Message, context: Context) -> Message:
    """Return the content, and count in the node's own state how often it was called."""
    calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
    context.state["calls"] = MetricRecord({"n": calls})
    content = RecordDict(dict(message.content))
    content["from"] = ConfigRecord(
        {"partition": int(context.node_config["partition-id"]), "calls": calls}
    )
    return Message(content, reply_to=message)


def grid_of(handler: Callable[[Message, Context], Message], **options: object) -> InlineGrid:
    settings: dict[str, object] = {"nodes": 3, "run_id": 5, "run_config": {"launch": "token"}}
    return InlineGrid(client_app=handler, **(settings | options))  # type: ignore[arg-type]


def to(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), node, "train", group_id="1") for node in nodes]


def test_nodes_are_numbered_apart_from_partitions() -> None:
    assert list(grid_of(echo).get_node_ids()) == [1000, 1001, 1002]


def test_each_node_knows_its_partition_their_number_and_the_run_config() -> None:
    seen = []

    def look(message: Message, context: Context) -> Message:
        seen.append((context.node_id, dict(context.node_config), dict(context.run_config)))
        return Message(RecordDict(), reply_to=message)

    grid_of(look).send_and_receive(to(1002))
    assert seen == [(1002, {"partition-id": 2, "num-partitions": 3}, {"launch": "token"})]


def test_replies_name_the_message_they_answer_and_who_answered() -> None:
    messages = to(1001, 1000)
    replies = list(grid_of(echo).send_and_receive(messages))
    assert [r.metadata.src_node_id for r in replies] == [1001, 1000]
    answered = [r.metadata.reply_to_message_id for r in replies]
    assert answered == [m.metadata.message_id for m in messages]
    identifiers = {m.metadata.message_id for m in [*messages, *replies]}
    assert len(identifiers) == 4
    assert "" not in identifiers


def test_a_node_keeps_its_state_between_messages_and_shares_it_with_no_other() -> None:
    replies = list(grid_of(echo).send_and_receive(to(1000, 1001, 1000)))
    assert [r.content["from"]["calls"] for r in replies] == [1, 1, 2]


def test_arrays_arrive_and_return_as_they_are() -> None:
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = RecordDict({"arrays": ArrayRecord({"w": _array(sent)})})
    (reply,) = grid_of(echo).send_and_receive([Message(content, 1000, "train")])
    np.testing.assert_array_equal(reply.content["arrays"]["w"].numpy(), sent)


def _array(values: np.ndarray) -> object:
    from flwr.app import Array

    return Array(values)


def test_what_a_client_raises_becomes_an_error_reply_and_the_others_still_answer() -> None:
    def fail_first(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 0:
            raise ValueError("no images")
        return echo(message, context)

    messages = to(1000, 1001)
    failed, good = grid_of(fail_first).send_and_receive(messages)
    assert failed.has_error()
    assert failed.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "ClientAppException" in failed.error.reason  # as in Flower's simulation
    assert last_line(failed.error.reason) == "no images"
    assert failed.metadata.reply_to_message_id == messages[0].metadata.message_id
    assert failed.metadata.src_node_id == 1000
    assert good.has_content()


def test_a_client_app_that_returns_no_message_is_an_error_reply() -> None:
    (reply,) = grid_of(lambda message, context: None).send_and_receive(to(1000))
    assert "the ClientApp returned NoneType, not a Message" in reply.error.reason


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_a_client_is_no_reply_but_passes_through(stop: type[BaseException]) -> None:
    def interrupted(message: Message, context: Context) -> Message:
        raise stop

    with pytest.raises(stop):
        grid_of(interrupted).send_and_receive(to(1000))


def test_messages_whose_turn_comes_after_the_timeout_get_no_reply_but_an_id() -> None:
    times = iter([0.0, 0.0, 4.0, 10.0])  # start; before each of the three messages
    messages = to(1000, 1001, 1002)
    replies = grid_of(echo, clock=lambda: next(times)).send_and_receive(messages, timeout=10)
    # By hand: the deadline is at 10; the third message's turn comes at 10, which is too late.
    assert [r.metadata.src_node_id for r in replies] == [1000, 1001]
    assert messages[2].metadata.message_id != ""


def test_without_a_timeout_everybody_answers() -> None:
    assert len(list(grid_of(echo).send_and_receive(to(1000, 1001, 1002)))) == 3


def test_a_message_to_a_node_that_does_not_exist_gets_no_reply() -> None:
    replies = list(grid_of(echo).send_and_receive(to(7, 1000)))
    assert [r.metadata.src_node_id for r in replies] == [1000]


def test_pushed_messages_are_answered_one_a_pull_in_their_order_and_once() -> None:
    calls: list[int] = []

    def note(message: Message, context: Context) -> Message:
        calls.append(context.node_id)
        return echo(message, context)

    grid = grid_of(note)
    identifiers = list(grid.push_messages(to(1001, 7, 1000)))
    assert len(identifiers) == 2
    assert calls == []
    for node in (1001, 1000):
        (reply,) = grid.pull_messages(set(identifiers))
        assert reply.metadata.src_node_id == node
    assert list(grid.pull_messages(identifiers)) == []
    assert calls == [1001, 1000]


def test_messages_are_taken_one_at_a_time_so_a_generator_needs_no_room_for_all() -> None:
    events = []

    def note(message: Message, context: Context) -> Message:
        events.append("answered")
        return echo(message, context)

    def produce() -> Iterator[Message]:
        for message in to(1000, 1001):
            events.append("made")
            yield message

    grid_of(note).send_and_receive(produce())
    assert events == ["made", "answered", "made", "answered"]


def test_a_real_client_app_is_called_by_message_type() -> None:
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"m": MetricRecord({"loss": 0.5})}), reply_to=message)

    grid = grid_of(app)
    (good,) = grid.send_and_receive([Message(RecordDict(), 1000, "evaluate")])
    assert good.content["m"]["loss"] == 0.5
    (bad,) = grid.send_and_receive([Message(RecordDict(), 1000, "train")])
    assert "No train function registered" in bad.error.reason


def test_the_run_is_known_by_its_id() -> None:
    assert grid_of(echo).run.run_id == 5


def test_neither_ray_nor_torch_is_imported() -> None:
    code = "import sys, engines.inline; sys.exit(bool({'ray', 'torch'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)
