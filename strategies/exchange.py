"""One exchange: tasks become messages, replies become valid answers or named failures.

A failing client never stops a round: whatever is wrong with a reply is a `Failure` with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from clients.wire import to_record
from corolla.errors import RunFailedError
from corolla.tasks import Failure, Reply, Task
from corolla.types import ClientId, client_order
from strategies.reading import InvalidReplyError, Order, Terms, payload_bytes, read_reply
from strategies.withholding import Withholding
from strategies.words import brief

__all__ = ["Exchange", "Order", "Terms", "payload_bytes"]


class Exchange:
    """The orders of one round and the messages they went out in."""

    def __init__(
        self,
        orders: Iterable[Order],
        nodes: Mapping[ClientId, int],
        *,
        message_type: str = MessageType.TRAIN,
        work: Callable[[Task], float] | None = None,
        interchangeable: bool = False,
        terms: Terms | None = None,
        private: frozenset[str] = frozenset(),
    ) -> None:
        """``work`` ranks tasks by how long they take; ``interchangeable``: any node may act as any client.

        ``private``: names of arrays that stay with the clients.
        """
        self._orders = sorted(orders, key=lambda order: client_order(order.task.client))
        self._nodes = nodes
        self._message_type = message_type
        self._work = work or (lambda task: 0.0)
        self._interchangeable = interchangeable
        self._terms = terms or Terms()
        self._withholding = Withholding(private)
        self._sent: list[tuple[Message, Order]] = []

    def messages(self) -> list[Message]:
        """Return one message per order whose client has a node."""
        self._sent = []
        records: dict[
            int, ArrayRecord
        ] = {}  # arrays that several clients share are serialised once
        # The longest tasks first: where clients share a few processes, a long one at the end makes all wait.
        present = [order for order in self._orders if order.task.client in self._nodes]
        present.sort(key=lambda order: -self._work(order.task))
        nodes = [self._nodes[order.task.client] for order in present]
        if self._interchangeable:
            # Flower's simulation hands messages out by node, in the order in which nodes were made.
            nodes = _dealt(nodes, list(self._nodes.values()))
        for order, node in zip(present, nodes, strict=True):
            public = self._withholding.public(order)
            key = id(public.arrays)
            if key not in records:
                records[key] = to_record(public.arrays)
            content = RecordDict(
                {"arrays": records[key], "task": ConfigRecord(public.task.to_config())}
            )
            message = Message(
                content=content,
                dst_node_id=node,
                message_type=self._message_type,
                group_id=str(order.task.round),
            )
            self._sent.append((message, order))
        return [message for message, _ in self._sent]

    def sort(self, replies: Iterable[Message]) -> tuple[list[Reply], list[Failure]]:
        """Return the valid replies in the order of their clients, and a failure for everybody else.

        A message that answers none of this exchange's is ignored; of several answers the first counts.
        """
        # An error reply carries the SuperLink's node id: the message it answers tells who failed.
        answers: dict[str, Message] = {}
        for reply in replies:
            answers.setdefault(reply.metadata.reply_to_message_id, reply)
        valid, failures = [], []
        for message, order in self._sent:
            client = order.task.client
            try:
                answer = answers.get(message.metadata.message_id)
                read = read_reply(self._withholding.public(order), answer, self._terms)
                valid.append(self._withholding.completed(read, order))
            except RunFailedError:
                raise
            except InvalidReplyError as error:
                failures.append(Failure(client, brief(str(error)), error.kind))
            except Exception as error:  # whatever a client sends, it is its own round that fails
                failures.append(Failure(client, brief(_unreadable(error))))
        valid.sort(key=lambda reply: client_order(reply.client))
        sent = {order.task.client for _, order in self._sent}
        for order in self._orders:
            if order.task.client not in sent:
                failures.append(Failure(order.task.client, "not connected"))
        failures.sort(key=lambda failure: client_order(failure.client))
        return valid, failures


def _unreadable(error: Exception) -> str:
    return f"the reply cannot be read: {type(error).__name__}: {error}"


def _dealt(nodes: list[int], made: list[int]) -> list[int]:
    """Return ``nodes`` in the order of ``made``; those that come more than once, round by round."""
    place = {node: number for number, node in enumerate(made)}
    seen: dict[int, int] = {}
    keys = []
    for node in nodes:
        seen[node] = seen.get(node, 0) + 1
        keys.append((seen[node], place[node], node))
    return [node for *_, node in sorted(keys)]
