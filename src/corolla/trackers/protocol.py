"""What a tracker is. It hears of a run; it never changes or stops one."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from corolla.errors import Fault, RefusedError

_LOG = logging.getLogger("corolla")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a tracker is told first."""

    run_dir: Path  # its name is the run's
    config: Mapping[str, Any]  # resolved, nested
    resumed_after: int  # the last round of before; 0: the run begins


class Tracker(Protocol):
    """One service. Constructors take the settings of conf/tracker and refuse a library that is missing."""

    def start(self, start: Start) -> None:
        """Begin a run, or go on with the one that was begun for the same directory."""
        ...

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Take the finite numbers of a round; names as in docs/metrics.md, nested ones joined by "/"."""
        ...

    def finish(self, summary: Mapping[str, float], *, complete: bool) -> None:
        """Take summary.json's numbers, which a run that broke off does not have, and end."""
        ...


def require(module: str, extra: str) -> None:
    """Raise RefusedError unless ``module`` is installed, without importing it."""
    if importlib.util.find_spec(module) is None:
        problem, remedy = f"{module} is not installed", f"pip install 'corolla[{extra}]'"
        raise RefusedError(Fault("tracker", extra, problem, remedy))


class Guarded:
    """A tracker whose first failure is logged, and leaves it out: it costs its own records, never a round."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker
        self._name = type(tracker).__name__

    def start(self, start: Start) -> None:
        """As `Tracker.start`."""
        self._try(lambda tracker: tracker.start(start))

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """As `Tracker.log`."""
        self._try(lambda tracker: tracker.log(round, metrics))

    def finish(self, summary: Mapping[str, float], *, complete: bool) -> None:
        """As `Tracker.finish`."""
        self._try(lambda tracker: tracker.finish(summary, complete=complete))

    def _try(self, call: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except Exception as error:  # a service that is down, a disk that is full: whatever it is
            self._tracker = None
            _LOG.warning("tracker %s failed and is left out: %s", self._name, error)
