"""Client processes: how many there are, which of them are free, and what becomes of those that die."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorHandleNotFoundError, RayError

from corolla.errors import RunFailedError

LOGGER = logging.getLogger("corolla")
MOST_FAILED_STARTS = 3  # in a row; then no more processes are started in this exchange


class ProcessPool:
    """Ray actors like `ClientProcess`. Whoever takes one out of ``idle`` releases it or says that it died."""

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        capacity: Callable[[], int],
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without processes.

        Args:
            make: starts a process and returns its handle.
            capacity: says how many there may be now.
            patience_s: how long there may be none that works.
            clock: returns seconds.

        """
        self.idle: list[Any] = []
        self._make = make
        self._capacity = capacity
        self._patience_s = patience_s
        self._clock = clock
        self._asked: dict[Any, Any] = {}  # reference -> process that is to say that it is there
        self._seen: set[Any] = set()  # processes that said so once
        self._failed_starts = 0
        self._failure = ""
        self._last_seen = clock()

    @property
    def asked(self) -> list[Any]:
        """Return the references that are there once a process has said that it is there."""
        return list(self._asked)

    def begin(self) -> None:
        """Ask free processes whether they are there: one may have died meanwhile."""
        self._failed_starts, self._last_seen = 0, self._clock()
        for process in self.idle:
            self._asked[process.ready.remote()] = process
        self.idle = []

    def grow(self, wanted: int, *, busy: int) -> None:
        """Have ``wanted`` processes, ``busy`` ones included, if there is room; does not wait for them."""
        if self._failed_starts >= MOST_FAILED_STARTS:
            return
        there = len(self.idle) + len(self._asked) + busy
        for _ in range(min(wanted, self._capacity()) - there):
            process = self._make()
            self._asked[process.ready.remote()] = process

    def settle(self, reference: Any) -> None:
        """Take note of one of ``asked`` that is there: its process is free, or dead."""
        process = self._asked.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            if process in self._seen:
                LOGGER.warning("a free client process died and is replaced")
            else:
                self._failed_starts += 1
                self._failure = str(error).strip()
                LOGGER.warning("a client process did not start: %s", self._failure)
            self.end(process)
            return
        self._failed_starts = 0
        self._seen.add(process)
        self.idle.append(process)

    def end(self, process: Any) -> None:
        """End a process, which may be dead already: by itself, or with Ray."""
        self._seen.discard(process)
        # An exchange that was broken off is closed by the garbage collector, when Ray may have stopped.
        if ray.is_initialized():
            with suppress(ActorHandleNotFoundError):  # of an earlier Ray
                ray.kill(process)

    def require_some(self, *, busy: int) -> None:
        """Return while there is hope. Raises RunFailedError where there are, and will be, no processes."""
        now = self._clock()
        if busy or self.idle:
            self._last_seen = now
        elif self._failed_starts >= MOST_FAILED_STARTS and not self._asked:
            raise RunFailedError(f"no client process could be started: {self._failure}")
        elif now - self._last_seen > self._patience_s:
            raise RunFailedError(
                f"no client process came up within {self._patience_s:.0f} s: no node has room for one, "
                "or none starts. Look at `ray status` and at engine.actors"
            )
