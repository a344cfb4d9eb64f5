"""TensorBoard events of many runs below one folder; those in the run directory are `tensorboard=true`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from corolla.records.event_mirror import EventMirror
from corolla.trackers.protocol import Start, require


class TensorBoardTracker:
    """Writes ``folder``/<run>/events."""

    def __init__(self, *, folder: str) -> None:
        require("tensorboard", "tensorboard")
        self._folder = Path(folder).expanduser()
        self._mirror: EventMirror | None = None

    def start(self, start: Start) -> None:
        """Open a file of events, which hides what an earlier one says of later rounds."""
        where = self._folder.absolute() / start.run_dir.name
        self._mirror = EventMirror(where, resumed_after=start.resumed_after)

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Write scalars."""
        if self._mirror is not None:
            self._mirror.write({**metrics, "round": round})

    def finish(self, summary: Mapping[str, float], *, complete: bool) -> None:
        """Write what is left."""
        if self._mirror is not None:
            self._mirror.close()
