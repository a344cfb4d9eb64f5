"""Shows how a run gets on, by reading the ``metrics.jsonl`` that it writes, for all engines."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from corolla.records.phases import Standing, clock, listeners, read_standing

METRICS_NAME = "metrics.jsonl"
LOOK_S = 0.5
_SAY_S = 15.0  # between two lines of one phase
_BRIEF_S = 3.0  # a phase that takes no longer is not worth a line
RECENT_ROUNDS = 10  # whose mean duration the time left is reckoned from


class JsonLines:
    """The lines of a JSON-lines file that somebody else writes, as they come, each of them once.

    A last line without its end is left for the next look; a line that is not a JSON object is skipped.
    A file that was replaced or became shorter, as when resume cuts rounds off, is read again from
    the start, and lines that are word for word as before are not returned again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode: int | None = None
        self._seen: set[bytes] = set()

    def read(self) -> list[dict[str, Any]]:
        """Return the objects that were completed since the last call; [] if there is no file."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode or file.seek(0, os.SEEK_END) < self._offset:
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [found for line in whole.splitlines() if (found := self._new(line)) is not None]

    def _new(self, line: bytes) -> dict[str, Any] | None:
        fingerprint = hashlib.sha256(line).digest()
        if fingerprint in self._seen:
            return None
        self._seen.add(fingerprint)
        try:
            value = json.loads(line)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


class TimeLeft:
    """Reckons the remaining time from the moments at which the last rounds were seen to end."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def add(self, now_s: float) -> None:
        """Note that a round ended at ``now_s``."""
        self._ends = [*self._ends, now_s][-RECENT_ROUNDS - 1 :]

    def seconds(self, rounds_left: int) -> float | None:
        """Return the time left, or None as long as fewer than two rounds were seen."""
        if len(self._ends) < 2:
            return None
        per_round = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return per_round * rounds_left


@contextmanager
def following(run_dir: Path, *, rounds: int | None, console: Console) -> Iterator[None]:
    """Show rounds, accuracy and time left while the block runs.

    On a terminal: a progress bar. Elsewhere: one plain line per round. ``rounds`` is the planned
    number, None if it is not known. Rounds that are in the file at the start count as done. The
    directory may come into being later.
    """
    lines = JsonLines(run_dir / METRICS_NAME)
    done = max([0, *(_round(metrics) for metrics in lines.read())])
    ended = threading.Event()
    show = _Bar(console, rounds, done) if console.is_terminal else _Log(console, rounds)

    def watch() -> None:
        while True:
            last_look = ended.wait(LOOK_S)
            for metrics in lines.read():
                show.round(metrics)
            show.phase(read_standing(run_dir))
            if last_look:
                return

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    with show:
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def told(console: Console) -> Iterator[None]:
    """Say what goes on in this process before a run has a directory, such as the decoding of images."""
    said = time.monotonic() - _SAY_S + 1.0  # nothing of what takes no time

    def tell(standing: Standing) -> None:
        nonlocal said
        if time.monotonic() - said >= _SAY_S:
            said = time.monotonic()
            console.out(str(standing), highlight=False)

    listeners.append(tell)
    try:
        yield
    finally:
        listeners.remove(tell)


class _Log:
    """One plain line per round, for files and pipes."""

    def __init__(self, console: Console, rounds: int | None) -> None:
        self._console = console
        self._rounds = rounds
        self._words, self._said_s = "", 0.0

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def round(self, metrics: dict[str, Any]) -> None:
        of = f"/{self._rounds}" if self._rounds else ""
        self._console.out(f"round {_round(metrics)}{of}{_accuracies(metrics)}", highlight=False)

    def phase(self, standing: Standing | None) -> None:
        """Say what goes on between rounds, and how far it is, now and then."""
        words = "" if standing is None else standing.phase
        now = time.monotonic()
        due = now - self._said_s >= _SAY_S
        if standing is None or words.startswith("round "):
            self._words = words
        elif time.time() - standing.began_at >= _BRIEF_S and (words != self._words or due):
            self._console.out(str(standing), highlight=False)
            self._words, self._said_s = words, now


class _Bar:
    """A rich progress bar."""

    def __init__(self, console: Console, rounds: int | None, done: int) -> None:
        self._rounds = rounds
        self._left = TimeLeft()
        self._progress = Progress(
            TextColumn("round {task.fields[round]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[phase]}"),
            console=console,
        )
        self._task: TaskID = self._progress.add_task(
            "",
            total=rounds,
            completed=done,
            round=self._count(done),
            accuracy="",
            left="",
            phase="",
        )

    def __enter__(self) -> _Bar:
        self._progress.start()
        self._left.add(time.monotonic())
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def round(self, metrics: dict[str, Any]) -> None:
        done = _round(metrics)
        self._left.add(time.monotonic())
        seconds = self._left.seconds(self._rounds - done) if self._rounds else None
        self._progress.update(
            self._task,
            completed=done,
            round=self._count(done),
            accuracy=_accuracies(metrics).removeprefix(": "),
            left="" if seconds is None else f"{clock(seconds)} left",
        )

    def phase(self, standing: Standing | None) -> None:
        """Show what goes on now beside the rounds."""
        text = "" if standing is None else f"[{standing}]"
        self._progress.update(self._task, phase=text.replace("[", r"\["))

    def _count(self, done: int) -> str:
        return f"{done}/{self._rounds}" if self._rounds else str(done)


def _round(metrics: dict[str, Any]) -> int:
    value = metrics.get("round", 0)
    return value if isinstance(value, int) else 0


def _accuracies(metrics: dict[str, Any]) -> str:
    """Return ': 5 participants: test 71.2 %, validation 73.0 %; all: test 68.0 %; 1 failed; without site-c'.

    What a round measures is of those who took part in it, right after they trained: no run is judged by that.
    """
    parts = []
    asked = metrics.get("participants")
    number = len(asked) if isinstance(asked, list) else asked or "its"
    who = f"{number} participant{'' if number == 1 else 's'}"
    evaluation = metrics.get("evaluation") or {}
    everybody = evaluation.get("personalised") or evaluation.get("global") or {}
    whole = {key: (everybody.get(key) or {}).get("mean") for key in everybody}
    for whose, found in ((who, metrics), ("all clients", whole)):
        told = [
            f"{name} {100 * value:.1f} %"
            for key, name in (("test_accuracy", "test"), ("val_accuracy", "validation"))
            if isinstance(value := found.get(key), int | float)
        ]
        if told:
            parts.append(f"{whose}: {', '.join(told)}")
    if metrics.get("failures"):
        parts.append(f"{metrics['failures']} failed")
    if isinstance(unusable := metrics.get("unusable"), dict):
        parts.append(f"without {', '.join(map(str, unusable))} (corolla status says why)")
    return ": " + "; ".join(parts) if parts else ""
