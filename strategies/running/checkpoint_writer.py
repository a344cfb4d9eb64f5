"""Writes a run's checkpoints beside the next round's training."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from corolla.records.checkpoints import CheckpointHeader, Checkpoints
from corolla.state import State

_LOG = logging.getLogger("corolla")


class CheckpointWriter:
    """One checkpoint is on its way to the disk at a time.

    The arrays of a state that is being written may not change: `wait` before a strategy absorbs replies.
    A run that ends before has written it, or stands where it stood after the round before.
    """

    def __init__(self, checkpoints: Checkpoints, header: CheckpointHeader) -> None:
        self._checkpoints, self._header = checkpoints, header
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        """Return this."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Wait for the last checkpoint; where another error ends the run, one of this is logged beside it."""
        try:
            self.wait()
        except Exception as fault:
            if error is None:
                raise
            _LOG.error("the last checkpoint could not be written: %s", fault)
        finally:
            self._thread.shutdown()

    def save(self, state: State, *, round: int, best: bool) -> None:
        """Begin to write ``state`` as the checkpoint of ``round``; raises what the one before raised."""
        self.wait()
        self._pending = self._thread.submit(
            self._checkpoints.save, state, round=round, header=self._header, best=best
        )

    def wait(self) -> None:
        """Wait until what was begun is on disk.

        Raises: OSError, TypeError as `Checkpoints.save`.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
