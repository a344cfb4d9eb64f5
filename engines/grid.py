"""A Flower ``Grid`` in memory: virtual nodes whose ClientApp runs in the calling thread."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import ClientAppException
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

LOGGER = logging.getLogger(__name__)
FIRST_NODE_ID = 1000  # far from partition ids, which count from 0, and from the server's own node 1
PARTITION_ID, NUM_PARTITIONS = "partition-id", "num-partitions"

ClientHandler = Callable[[Message, Context], Message]


class InlineGrid(Grid):
    """Delivers each message by calling the ClientApp, one after another, without copies.

    Node ``1000 + i`` holds partition ``i``. What a ClientApp raises becomes an error reply as in
    Flower's simulation: code CLIENT_APP_RAISED_EXCEPTION, the reason in the last line of its text.
    KeyboardInterrupt and SystemExit pass through.
    """

    def __init__(
        self,
        *,
        client_app: ClientApp | ClientHandler,
        nodes: int,
        run_id: int,
        run_config: Mapping[str, str | int | float | bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``nodes`` virtual nodes; ``clock`` returns seconds."""
        self._client_app = client_app
        self._run = Run.create_empty(run_id)
        self._clock = clock
        self._contexts = {
            FIRST_NODE_ID + partition: Context(
                run_id=run_id,
                node_id=FIRST_NODE_ID + partition,
                node_config={PARTITION_ID: partition, NUM_PARTITIONS: nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for partition in range(nodes)
        }
        self._pending: dict[str, Message] = {}  # by id, in the order in which they were pushed

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
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all nodes with what is known of them: their ids."""
        return [NodeInfo(node_id=node) for node in self._contexts]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take the messages; each is answered when its turn comes in ``pull_messages``.

        What was pushed before and never asked for again ran into a deadline: it is forgotten.
        """
        self._pending.clear()
        identifiers = []
        for message in messages:
            if self._accept(message):
                identifiers.append(message.metadata.message_id)
                self._pending[message.metadata.message_id] = message
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Have one of these messages answered, the first that was pushed, and return its reply.

        One at a time: whoever waits with a deadline can stop between two clients. A client that runs
        when the time is up is not cut off.
        """
        wanted = set(message_ids)
        turn = next((identifier for identifier in self._pending if identifier in wanted), None)
        return [] if turn is None else [self._answer(self._pending.pop(turn))]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies; a message whose turn comes after ``timeout`` seconds gets none."""
        deadline = None if timeout is None else self._clock() + timeout
        replies: list[Message] = []
        for message in messages:
            # Ids are set for all, so that whoever waits in vain can be named.
            for identifier in self.push_messages([message]):
                if deadline is not None and self._clock() >= deadline:
                    LOGGER.warning("no time left for node %d", message.metadata.dst_node_id)
                    self._pending.pop(identifier)
                    continue
                replies += self.pull_messages([identifier])
        return replies

    def _accept(self, message: Message) -> bool:
        """Give the message its id, as the SuperLink does; False if its node does not exist."""
        message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
        if message.metadata.dst_node_id in self._contexts:
            return True
        LOGGER.error("there is no node %d", message.metadata.dst_node_id)
        return False

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        try:
            reply = self._client_app(message, self._contexts[node])
            if not isinstance(reply, Message):
                raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
        except Exception as problem:
            LOGGER.debug("the ClientApp on node %d raised", node, exc_info=True)
            raised = ClientAppException(str(problem))
            error = Error(
                code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=f"{type(raised)}:<'{raised}'>"
            )
            reply = Message(error, reply_to=message)
        reply.metadata.__dict__["_message_id"] = str(uuid.uuid4())
        return reply
