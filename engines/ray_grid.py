"""A Flower ``Grid`` over Ray actors: each message goes to the first client process that is free."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from weakref import finalize

import ray
from flwr.app import ArrayRecord, Error, Message
from ray.exceptions import RayError, RayTaskError

from clients.flower_internals import ErrorCode
from engines.grid import MemoryGrid
from engines.ray_messages import apart, light, whole
from engines.ray_pool import ProcessPool
from engines.virtual_nodes import give_id

LOOK_S = 2.0  # between two looks at how many processes there can be
DIED = "its client process died: killed for memory, crashed, or on a node that was lost"


class _Parcel(NamedTuple):
    """A message whose arrays lie in Ray's object store."""

    message: Message  # without arrays
    names: list[str]
    records: list[Any]  # references


class RayGrid(MemoryGrid):
    """Virtual nodes that client processes answer for, whichever is free.

    A process that dies costs the client that it worked for this message, and is replaced. One that still
    works when the time is up is ended: what it does would come too late, and must not touch what its
    client does next.
    """

    def __init__(
        self,
        *,
        nodes: int,
        run_id: int,
        pool: ProcessPool,
        demand: Callable[[int], None] = lambda count: None,
    ) -> None:
        """``demand`` is told how many processes the next messages could use."""
        super().__init__(nodes=nodes, run_id=run_id)
        self._pool = pool
        self._demand = demand
        self._busy: dict[Any, tuple[Any, Message]] = {}  # reference to a reply -> who works on what
        self._stored: dict[int, Any] = {}  # id of an array record that is still used -> reference

    def exchange(
        self, messages: Iterable[Message], *, timeout_s: float | None
    ) -> Iterator[Message]:
        """Yield the replies as they come; a message is taken, and stored, just before it is sent."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        source = map(self._stored_away, filter(self._accepts, messages))
        left = operator.length_hint(messages, 1)
        staged: deque[_Parcel] = deque()
        self._pool.begin()
        self._demand(left)
        try:
            while deadline is None or time.monotonic() < deadline:
                # One more than there are processes for: it is ready when one of them becomes free.
                while len(staged) <= len(self._pool.idle) and (parcel := next(source, None)):
                    staged.append(parcel)
                    left = max(0, left - 1)
                self._send(staged)
                if not staged and not self._busy:
                    return
                self._pool.grow(len(self._busy) + len(staged) + left, busy=len(self._busy))
                self._pool.require_some(busy=len(self._busy))
                reply = self._next(deadline)
                if reply is not None:
                    self._send(staged)  # before the reply is read
                    yield reply
                    del reply
        finally:
            for process, _ in self._busy.values():
                self._pool.end(process)
            self._busy = {}

    def _stored_away(self, message: Message) -> _Parcel:
        message, arrays = light(message)
        return _Parcel(message, list(arrays), [self._store(record) for record in arrays.values()])

    def _store(self, record: ArrayRecord) -> Any:
        """Return the reference of a record: one that several messages share is stored once."""
        key = id(record)
        if key not in self._stored:
            self._stored[key] = ray.put(apart(record))
            finalize(record, self._stored.pop, key)
        return self._stored[key]

    def _send(self, staged: deque[_Parcel]) -> None:
        while staged and self._pool.idle:
            parcel, process = staged.popleft(), self._pool.idle.pop()
            answer = process.answer.remote(parcel.message, parcel.names, *parcel.records)
            self._busy[answer] = (process, parcel.message)

    def _next(self, deadline: float | None) -> Message | None:
        """Return the next reply; None where something else happened, or nothing for a while."""
        wait_s = LOOK_S if deadline is None else min(LOOK_S, max(0.0, deadline - time.monotonic()))
        awaited = [*self._busy, *self._pool.asked]
        if not awaited:
            time.sleep(min(wait_s, 0.1))
            return None
        there, _ = ray.wait(awaited, num_returns=1, timeout=wait_s)
        for reference in there:
            if reference in self._busy:
                return self._taken(reference)
            self._pool.settle(reference)
        return None

    def _taken(self, reference: Any) -> Message:
        """Return the reply, or an error reply; the process is free, or ended."""
        process, message = self._busy.pop(reference)
        try:
            reply, arrays = ray.get(reference)
        except RayTaskError as error:
            self._pool.idle.append(process)
            return _error(message, f"its client process could not answer: {error.cause!r}")
        except RayError as error:
            self._pool.end(process)
            return _error(message, f"{DIED} ({type(error).__name__})")
        self._pool.idle.append(process)
        return whole(reply, arrays)


def _error(message: Message, reason: str) -> Message:
    reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=message)
    give_id(reply)
    return reply
