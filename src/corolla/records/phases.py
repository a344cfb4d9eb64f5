"""What a process is at, and how far: for terminal, log and ``progress.json``, so that no minute is silent.

One phase at a time. Whoever begins it says how much there is to do; whoever does a part of it calls `step`,
and needs to know nothing of who looks. A look at the clock is all that a step costs.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from corolla.records.errors import CorruptStateError
from corolla.records.json_files import read_json

_LOG = logging.getLogger("corolla")
_NAME = "progress.json"
_WRITE_S, _LOG_S = 0.5, 30.0
_NAMED = 12


@dataclass(frozen=True)
class Standing:
    """How far a phase is."""

    phase: str
    done: int = 0
    of: int | None = None  # None: nobody knows
    began_at: float = 0.0  # seconds since the epoch
    left_s: float | None = None  # None: not known yet
    who: Sequence[str] = ()  # clients that were asked and have not answered, a few of them

    def __str__(self) -> str:
        """Return "final evaluation: 64 of 200, 2:10 left"."""
        text = self.phase if self.of is None else f"{self.phase}: {self.done} of {self.of}"
        return text if self.left_s is None else f"{text}, {clock(self.left_s)} left"


@dataclass
class _Phase:
    standing: Standing
    run_dir: Path | None
    began: float
    written: float = 0.0
    logged: float = 0.0


_current: list[_Phase] = []
listeners: list[Callable[[Standing], None]] = []
"""Are told of every change that is written, in this process."""


@contextmanager
def phase(words: str, of: int | None = None, *, run_dir: Path | None = None) -> Iterator[None]:
    """Say what goes on in the block; phases inside it take its place meanwhile."""
    now = time.monotonic()
    begun = _Phase(Standing(words, of=of, began_at=time.time()), run_dir, now, logged=now)
    _current.append(begun)
    _tell(begun, now)
    try:
        yield
    finally:
        _current.remove(begun)
        if run_dir is not None:
            with suppress(OSError):
                (run_dir / _NAME).unlink(missing_ok=True)


def step(number: int = 1) -> None:
    """Say that ``number`` more of what the phase has to do is done."""
    if not _current:
        return
    one, now = _current[-1], time.monotonic()
    done, of = one.standing.done + number, one.standing.of
    left = (now - one.began) / done * (of - done) if of is not None and 0 < done < of else None
    one.standing = replace(one.standing, done=done, left_s=left)
    if now - one.written >= _WRITE_S or done == of:
        _tell(one, now)
    if now - one.logged >= _LOG_S:
        one.logged = now
        _LOG.info("%s", one.standing)


def asked(client: str) -> None:
    """Say that ``client`` works on the phase from now on."""
    if _current and len(_current[-1].standing.who) < _NAMED:
        one = _current[-1]
        one.standing = replace(one.standing, who=(*one.standing.who, client))
        _write(one)


def answered(client: str) -> None:
    """Say that ``client`` has done its part."""
    if _current:
        standing = _current[-1].standing
        rest = tuple(name for name in standing.who if name != client)
        _current[-1].standing = replace(standing, who=rest)


def read_standing(run_dir: Path) -> Standing | None:
    """Return how far the phase is that the run's process is in; None where there is none."""
    with suppress(CorruptStateError, OSError, TypeError):
        return Standing(**read_json(run_dir / _NAME))
    return None


def clock(seconds: float) -> str:
    """Return 130 as "2:10", 3700 as "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _tell(one: _Phase, now: float) -> None:
    one.written = now
    _write(one)
    for listener in listeners:
        listener(one.standing)


def _write(one: _Phase) -> None:
    if one.run_dir is not None:
        with suppress(OSError):  # a full disk is found by what must be written
            # Not `write_json`: this need not survive a power cut, and is written often.
            new = one.run_dir / f".{_NAME}.{os.getpid()}"
            new.write_text(json.dumps(asdict(one.standing)))
            new.replace(one.run_dir / _NAME)
