"""One exchange: tasks become messages, replies become valid answers or named failures.

A failing client never stops a round: whatever is wrong with a reply is a `Failure` with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, Metadata, RecordDict

from clients.wire import to_record
from corolla.records import phases
from corolla.records.spilled_arrays import SpilledArrays
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
        spill_to: Path | None = None,
    ) -> None:
        """``work`` ranks tasks by how long they take; ``interchangeable``: any node may act as any client.

        ``private``: names of arrays that stay with the clients. ``spill_to``: a folder for the arrays of
        replies that together would fill the memory.
        """
        self._orders = sorted(orders, key=lambda order: client_order(order.task.client))
        self._nodes = nodes
        self._message_type = message_type
        self._work = work or (lambda task: 0.0)
        self._interchangeable = interchangeable
        self._terms = terms or Terms()
        self._withholding = Withholding(private)
        self._spilled = None if spill_to is None else SpilledArrays(spill_to)
        self._sent: list[tuple[Metadata, Order]] = []
        self._known: dict[str, Order] = {}  # by the id of the message that it went out in

    def messages(self) -> Outgoing:
        """Return one message per order whose client has a node; each is made when it is taken."""
        self._sent, self._known = [], {}
        # The longest tasks first: where clients share a few processes, a long one at the end makes all wait.
        present = [order for order in self._orders if order.task.client in self._nodes]
        present.sort(key=lambda order: -self._work(order.task))
        nodes = [self._nodes[order.task.client] for order in present]
        if self._interchangeable:
            # Flower's simulation hands messages out by node, in the order in which nodes were made.
            nodes = _dealt(nodes, list(self._nodes.values()))
        return Outgoing(len(present), self._made(present, nodes))

    def sort(self, replies: Iterable[Message]) -> tuple[list[Reply], list[Failure]]:
        """Return the valid replies in the order of their clients, and a failure for everybody else.

        Each reply is read as it comes, and its message let go; what is beyond memory waits on disk. A
        message that answers none of this exchange's is ignored; of several answers the first counts.
        """
        valid: list[Reply] = []
        failures: list[Failure] = []
        silent = {id(order): order for order in self._orders}
        for reply in replies:
            order = self._asked(reply)
            if order is not None:
                phases.answered(order.task.client)
            if order is not None and silent.pop(id(order), None) is not None:
                self._read(order, reply, valid, failures)
        for order in silent.values():
            if order.task.client in self._nodes:
                self._read(order, None, valid, failures)
            else:
                failures.append(Failure(order.task.client, "not connected"))
        valid.sort(key=lambda reply: client_order(reply.client))
        failures.sort(key=lambda failure: client_order(failure.client))
        return valid, failures

    def _made(self, orders: Sequence[Order], nodes: Sequence[int]) -> Iterator[Message]:
        uses = Counter(id(order.arrays) for order in orders)
        shared: dict[int, ArrayRecord] = {}  # arrays of several clients are serialised once
        for order, node in zip(orders, nodes, strict=True):
            public = self._withholding.public(order)
            record = shared.get(id(public.arrays))
            if record is None:
                record = to_record(public.arrays)
                if uses[id(order.arrays)] > 1:
                    shared[id(public.arrays)] = record
            content = RecordDict({"arrays": record, "task": ConfigRecord(public.task.to_config())})
            message = Message(
                content=content,
                dst_node_id=node,
                message_type=self._message_type,
                group_id=str(order.task.round),
            )
            del content, record
            self._sent.append((message.metadata, order))
            phases.asked(order.task.client)
            yield message
            del message

    def _asked(self, reply: Message) -> Order | None:
        """Return the order that ``reply`` answers; None for one of somebody else's."""
        # An error reply carries the SuperLink's node id: the message it answers tells who failed.
        while self._sent:  # by now the grid has given ids to what it took
            metadata, order = self._sent.pop()
            self._known[metadata.message_id] = order
        return self._known.get(reply.metadata.reply_to_message_id)

    def _read(
        self, order: Order, answer: Message | None, valid: list[Reply], failures: list[Failure]
    ) -> None:
        client = order.task.client
        try:
            read = read_reply(self._withholding.public(order), answer, self._terms)
            if self._spilled is not None:
                read = replace(read, arrays=self._spilled.kept(read.arrays))
            valid.append(self._withholding.completed(read, order))
        except InvalidReplyError as error:
            failures.append(Failure(client, brief(str(error)), error.kind))
        except Exception as error:  # whatever a client sends, it is its own round that fails
            failures.append(Failure(client, brief(_unreadable(error))))


class Outgoing:
    """A number of messages that are made one by one, for whoever takes them."""

    def __init__(self, count: int, made: Iterator[Message]) -> None:
        self._count = count
        self._made = made

    def __len__(self) -> int:
        """Return how many there are in all."""
        return self._count

    def __iter__(self) -> Iterator[Message]:
        """Return those that were not taken yet."""
        return self._made


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
