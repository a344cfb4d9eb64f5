"""Flower's ``Grid`` in memory: virtual nodes that other code of this run answers for."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from clients.flower_internals import NodeInfo, Run
from engines.virtual_nodes import (
    FIRST_NODE_ID,
    ClientHandler,
    RunConfig,
    answered,
    give_id,
    node_context,
)

LOGGER = logging.getLogger(__name__)


class MemoryGrid(Grid):
    """Virtual nodes ``1000 + i``, each with partition ``i``; a subclass has them answer (`exchange`)."""

    def __init__(self, *, nodes: int, run_id: int) -> None:
        """``nodes`` virtual nodes of the run ``run_id``."""
        self._run = Run.create_empty(run_id)
        self._nodes = range(FIRST_NODE_ID, FIRST_NODE_ID + nodes)
        self._pending: dict[str, Message] = {}  # by id, in the order in which they were pushed

    @abstractmethod
    def exchange(
        self, messages: Iterable[Message], *, timeout_s: float | None
    ) -> Iterator[Message]:
        """Yield the replies as they come; a message is taken when its turn comes, so none waits in memory.

        After ``timeout_s`` seconds no more messages are taken. Every message that was taken has an id.
        """

    def set_run(self, run: Run) -> None:
        """Replace what is known of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return a copy of what is known of the run."""
        return Run(**vars(self._run))

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message; Flower deprecates this in favour of ``Message(...)``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes: none ever goes away."""
        return list(self._nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all nodes with what is known of them: their ids."""
        return [NodeInfo(node_id=node) for node in self._nodes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take the messages; each is answered when its turn comes in ``pull_messages``.

        What was pushed before and never asked for again ran into a deadline: it is forgotten.
        """
        self._pending = {m.metadata.message_id: m for m in messages if self._accepts(m)}
        return list(self._pending)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Have one of these messages answered, the first that was pushed, and return its reply.

        One at a time: whoever waits with a deadline can stop between two clients.
        """
        wanted = set(message_ids)
        turn = next((identifier for identifier in self._pending if identifier in wanted), None)
        if turn is None:
            return []
        return list(self.exchange([self._pending.pop(turn)], timeout_s=None))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies; a message whose turn comes after ``timeout`` seconds gets none."""
        return list(self.exchange(messages, timeout_s=timeout))

    def _accepts(self, message: Message) -> bool:
        """Give the message its id; False if its node does not exist."""
        give_id(message)
        if message.metadata.dst_node_id in self._nodes:
            return True
        LOGGER.error("there is no node %d", message.metadata.dst_node_id)
        return False


class InlineGrid(MemoryGrid):
    """Delivers each message by calling the ClientApp, one after another, without copies."""

    def __init__(
        self,
        *,
        client_app: ClientApp | ClientHandler,
        nodes: int,
        run_id: int,
        run_config: RunConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``nodes`` virtual nodes; ``clock`` returns seconds."""
        super().__init__(nodes=nodes, run_id=run_id)
        self._client_app = client_app
        self._clock = clock
        self._contexts = {
            node: node_context(node, nodes=nodes, run_id=run_id, run_config=run_config)
            for node in self._nodes
        }

    def exchange(
        self, messages: Iterable[Message], *, timeout_s: float | None
    ) -> Iterator[Message]:
        """Yield the replies; a client that runs when the time is up is not cut off."""
        deadline = None if timeout_s is None else self._clock() + timeout_s
        for message in messages:
            # Ids are set for all, so that whoever waits in vain can be named.
            if not self._accepts(message):
                continue
            node = message.metadata.dst_node_id
            if deadline is not None and self._clock() >= deadline:
                LOGGER.warning("node %d was not asked: the time of the round was over", node)
                continue
            yield self._answer(message)

    def _answer(self, message: Message) -> Message:
        return answered(self._client_app, message, self._contexts[message.metadata.dst_node_id])
