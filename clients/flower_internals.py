"""All that Corolla takes from Flower's private modules, for server, clients and engines.

Tested with Flower 1.41; 1.42 has the same modules, byte for byte. What a later release moves is mended
here (docs/engines.md says what is known of the next ones). What Flower offers in public (``flwr.app``,
``flwr.serverapp``, ``flwr.clientapp``, ``flwr.client.NumPyClient``) is imported where it is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from flwr.clientapp.client_app import ClientAppException
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "SUPERLINK_NODE_ID",
    "ClientAppException",
    "ErrorCode",
    "NodeInfo",
    "Run",
    "TaskIdentity",
    "outlive_errors",
]


_REPEATABLE = ("PullObject", "PushObject", "ConfirmMessageReceived", "PushTaskOutput")
_TRIES, _LONGEST_S = 8, 5.0


def outlive_errors() -> None:
    """Have the calls of this process, a ServerApp, outlive errors 5xx of the SuperLink and cut answers.

    Flower tries again after 502, 503, 504 and a lost connection; anything else, such as 500, goes up.
    So one of them would lose a whole answer of hundreds of pieces, or end the thread that sends
    heartbeats: a minute later the SuperLink takes the process for dead and ends its run. Here a piece is
    asked for up to 8 times (which the SuperLink does not mind), and heartbeats go on.
    """
    # Late: a client has no use for them, and each message starts a process at a site.
    from flwr.supercore.heartbeat import HeartbeatFailure, HeartbeatSender
    from flwr.supercore.runtime import RuntimeHttpClient

    if hasattr(HeartbeatSender._heartbeat, "__wrapped__"):
        return
    flowers_own = HeartbeatSender._heartbeat

    @wraps(flowers_own)
    def heartbeat(self: HeartbeatSender) -> None:
        try:
            flowers_own(self)
        except Exception as error:
            if is_passing(error):
                raise HeartbeatFailure from error  # which Flower tries again
            raise

    HeartbeatSender._heartbeat = heartbeat  # type: ignore[method-assign]
    for name in _REPEATABLE:
        setattr(RuntimeHttpClient, name, _repeated(getattr(RuntimeHttpClient, name)))


def is_passing(error: Exception) -> bool:
    """Return whether a call failed between here and the SuperLink, or inside it, and may do next time.

    An answer that was cut and yet came to an end is a ValueError of Flower's, of this text.
    """
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, OSError | httpx.HTTPError) or "protobuf response" in str(error)


def _repeated(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def repeated(self: Any, request: Any) -> Any:
        for tried in range(1, _TRIES):
            try:
                return call(self, request)
            except Exception as error:
                if not is_passing(error):
                    raise
            time.sleep(min(0.1 * 2**tried, _LONGEST_S))
        return call(self, request)

    return repeated
