"""What answers for a virtual node: the ClientApp, called as a SuperNode would, in whatever process."""

from __future__ import annotations

import importlib
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.flower_internals import ClientAppException, ErrorCode

LOGGER = logging.getLogger(__name__)
FIRST_NODE_ID = 1000  # far from partition ids, which count from 0, and from the server's own node 1
PARTITION_ID, NUM_PARTITIONS = "partition-id", "num-partitions"

ClientHandler = Callable[[Message, Context], Message]
RunConfig = Mapping[str, str | int | float | bool]


def node_context(node: int, *, nodes: int, run_id: int, run_config: RunConfig) -> Context:
    """Return what the ClientApp is told on virtual node ``node``: 1000 + i holds partition i."""
    return Context(
        run_id=run_id,
        node_id=node,
        node_config={PARTITION_ID: node - FIRST_NODE_ID, NUM_PARTITIONS: nodes},
        state=RecordDict(),
        run_config=dict(run_config),
    )


def answered(app: ClientApp | ClientHandler, message: Message, context: Context) -> Message:
    """Return the ClientApp's reply.

    What it raises becomes an error reply as in Flower's simulation: code CLIENT_APP_RAISED_EXCEPTION,
    the reason in the last line of its text. KeyboardInterrupt and SystemExit pass through.
    """
    try:
        reply = app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
    except Exception as problem:
        LOGGER.debug("the ClientApp on node %d raised", context.node_id, exc_info=True)
        raised = ClientAppException(str(problem))
        code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        reply = Message(Error(code, f"{type(raised)}:<'{raised}'>"), reply_to=message)
    give_id(reply)
    return reply


def give_id(message: Message) -> None:
    """Give the message an id of its own, as the SuperLink does, unless it has one."""
    if not message.metadata.message_id:
        message.metadata.__dict__["_message_id"] = str(uuid.uuid4())


def load(reference: str) -> Any:
    """Return what ``module:attribute`` names."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
