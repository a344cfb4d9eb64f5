"""One exchange: tasks become messages, replies become valid answers or named failures.

A failing client never stops a round: whatever is wrong with a reply is a `Failure` with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from clients.wire import from_record, to_record
from corolla.errors import RunFailedError
from corolla.spaces.architecture import Architecture
from corolla.tasks import FAILURE_KINDS, Failure, Reply, Task
from corolla.types import Arrays, ClientId, client_order

Shapes = Mapping[str, tuple[int, ...]]
_ACCURACIES = {"val_accuracy", "test_accuracy"}
_KINDS = "f"  # supernets hold floating-point arrays only
_ECHOED = ("client", "round", "architecture", "own_architecture")
_REASON = 500  # characters that a client may say
_MUST_BE_FINITE = ("num_examples", "train_loss", "val_accuracy", "test_accuracy", "handling_s")


@dataclass(frozen=True, kw_only=True)
class Order:
    """A task, what is sent with it, and the arrays that must come back (none: an empty mapping)."""

    task: Task
    arrays: Arrays
    returns: Shapes
    needs: tuple[str, ...] = ()  # metrics that the method cannot do without


class Exchange:
    """The orders of one round and the messages they went out in."""

    def __init__(
        self,
        orders: Iterable[Order],
        nodes: Mapping[ClientId, int],
        *,
        message_type: str = MessageType.TRAIN,
        link_mbit_s: float | None = None,
        work: Callable[[Task], float] | None = None,
        interchangeable: bool = False,
        check: Callable[[Architecture], Architecture] | None = None,
    ) -> None:
        """``work`` ranks tasks by how long they take; ``interchangeable``: any node may act as any client.

        ``check`` returns an architecture that a client names, or raises ValueError.
        """
        self._orders = sorted(orders, key=lambda order: client_order(order.task.client))
        self._nodes = nodes
        self._message_type = message_type
        self._link = link_mbit_s
        self._work = work or (lambda task: 0.0)
        self._interchangeable = interchangeable
        self._check = check or (lambda architecture: architecture)
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
            key = id(order.arrays)
            if key not in records:
                records[key] = to_record(order.arrays)
            content = RecordDict(
                {"arrays": records[key], "task": ConfigRecord(order.task.to_config())}
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
        """Return the valid replies in the order of their clients, and a failure for everybody else."""
        # An error reply carries the SuperLink's node id: the message it answers tells who failed.
        answers = {reply.metadata.reply_to_message_id: reply for reply in replies}
        valid, failures = [], []
        for message, order in self._sent:
            answer = answers.get(message.metadata.message_id)
            try:
                valid.append(self._read(order, answer))
            except _InvalidReplyError as error:
                failures.append(Failure(order.task.client, str(error), error.kind))
            except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                # Whatever a client sends, it is its own round that fails.
                reason = f"the reply cannot be read: {type(error).__name__}: {error}"
                failures.append(Failure(order.task.client, reason))
        valid.sort(key=lambda reply: client_order(reply.client))
        sent = {order.task.client for _, order in self._sent}
        for order in self._orders:
            if order.task.client not in sent:
                failures.append(Failure(order.task.client, "not connected"))
        failures.sort(key=lambda failure: client_order(failure.client))
        return valid, failures

    def _read(self, order: Order, answer: Message | None) -> Reply:
        if answer is None:
            raise _InvalidReplyError("no reply before the round's deadline")
        if answer.has_error():
            reason = (answer.error.reason or "").strip().splitlines()
            if any("ActorDiedError" in line for line in reason):
                # Flower never replaces a dead Ray actor and would go on handing it messages.
                raise RunFailedError(f"a client process died under Ray: {reason[-1]}")
            raise _InvalidReplyError(
                f"error {answer.error.code}: {reason[-1] if reason else 'no reason given'}"
            )
        content = answer.content
        if "failure" in content:
            raise _told_failure(content.config_records["failure"])
        if not all(key in content for key in ("info", "metrics")):
            raise _InvalidReplyError(f"reply holds {sorted(content)}, not info and metrics")
        info = content.config_records["info"]
        for key, expected in (("round", order.task.round), ("client", order.task.client)):
            if info.get(key) != expected:
                raise _InvalidReplyError(
                    f"reply is for {key} {info.get(key)!r}, expected {expected!r}"
                )
        if info.get("architecture") != order.task.architecture.to_list():
            raise _InvalidReplyError("reply is for another architecture")
        told: Any = info.get("own_architecture")
        own = None if told is None else self._check(Architecture.of(told))
        metrics = {key: _number(value) for key, value in content.metric_records["metrics"].items()}
        for key, value in metrics.items():
            if key in _MUST_BE_FINITE and not math.isfinite(value):
                raise _InvalidReplyError(f"{key} is {value}")
        missing = [key for key in order.needs if key not in metrics]
        if missing:
            raise _InvalidReplyError(f"the reply lacks {', '.join(missing)}")
        for key in _ACCURACIES & metrics.keys():
            if not 0.0 <= metrics[key] <= 1.0:
                raise _InvalidReplyError(f"{key} is {metrics[key]}, must lie in 0..1")
        num_examples = int(metrics.get("num_examples", 0))
        if num_examples < 1:
            raise _InvalidReplyError(f"num_examples is {num_examples}, must be at least 1")
        arrays = from_record(content.array_records["arrays"]) if "arrays" in content else {}
        _check_arrays(arrays, order.returns)
        down, up = payload_bytes(order.arrays), payload_bytes(arrays)
        link_s = 8e-6 * (down + up) / self._link if self._link else 0.0
        return Reply(
            task=order.task,
            arrays=arrays,
            num_examples=num_examples,
            metrics=metrics,
            own_architecture=own,
            notes={key: value for key, value in info.items() if key not in _ECHOED},
            round_s=metrics.get("handling_s", 0.0) + link_s,
            bytes_down=down,
            bytes_up=up,
        )


class _InvalidReplyError(Exception):
    """Why a reply cannot be used; ``kind`` where the client says that it could not train what it was sent."""

    def __init__(self, reason: str, kind: str | None = None) -> None:
        super().__init__(reason)
        self.kind = kind


def _told_failure(record: Mapping[str, Any]) -> _InvalidReplyError:
    kind, reason = str(record.get("kind")), str(record.get("reason"))[:_REASON]
    known = kind if kind in FAILURE_KINDS else None
    return _InvalidReplyError(f"{kind[:_REASON]}: {reason}", known)


def _check_arrays(arrays: Arrays, returns: Shapes) -> None:
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    if set(found) != set(returns):
        wrong = sorted(set(found) ^ set(returns))
        raise _InvalidReplyError(f"{len(wrong)} wrong array names, the first: {wrong[0]!r}")
    for name, shape in returns.items():
        if found[name] != tuple(shape):
            raise _InvalidReplyError(f"{name} has shape {found[name]}, expected {tuple(shape)}")
        if arrays[name].dtype.kind not in _KINDS:
            raise _InvalidReplyError(
                f"{name} holds {arrays[name].dtype}, expected numbers with a point"
            )
        if not np.isfinite(arrays[name]).all():
            raise _InvalidReplyError(f"{name} holds NaN or infinite values")


def _number(value: Any) -> float:
    return float(value[0]) if isinstance(value, list) else float(value)


def _dealt(nodes: list[int], made: list[int]) -> list[int]:
    """Return ``nodes`` in the order of ``made``; those that come more than once, round by round."""
    place = {node: number for number, node in enumerate(made)}
    seen: dict[int, int] = {}
    keys = []
    for node in nodes:
        seen[node] = seen.get(node, 0) + 1
        keys.append((seen[node], place[node], node))
    return [node for *_, node in sorted(keys)]


def payload_bytes(arrays: Arrays) -> int:
    """Return the bytes of the numbers themselves, without headers."""
    return sum(array.nbytes for array in arrays.values())
