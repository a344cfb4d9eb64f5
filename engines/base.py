"""What engines share: how each says that a run failed, and checks its counts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from corolla.errors import Fault, RunFailedError
from corolla.kinds import MOST

LOG_NAME = "superlink.log"
"""File in the run directory that takes the output of SuperLink, ServerApp and clients."""

MOST_THREADS = 1024
"""Of one process: more is a slip."""

_SERVICE_LINE = re.compile(r"^INFO :|\[uvicorn\.|^For more information, visit:")
_TAIL_LINES, _TAIL_BYTES = 15, 16384
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def run_failed(what: str, *, run_dir: Path, log: Path | None = None) -> RunFailedError:
    """Return the error that says what failed, where to look, and how to resume."""
    lines = [what.strip()]
    if log is not None:
        excerpt = log_tail(log)
        if excerpt:
            lines += ["Last lines of the log:", *(f"  | {line}" for line in excerpt)]
        lines.append(f"Full log: {log}")
    lines.append(f"Resume after the last finished round: corolla resume {run_dir}")
    return RunFailedError("\n".join(lines))


def log_tail(log: Path) -> list[str]:
    """Return the last lines of a log that say something, without colours; [] if there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    told = without_colours(text).splitlines()
    return [line for line in told if line.strip() and not _SERVICE_LINE.search(line)][-_TAIL_LINES:]


def without_colours(text: str) -> str:
    """Return ``text`` without terminal colour codes, which Flower and Ray put everywhere."""
    return _COLOURS.sub("", text)


def count_fault(key: str, value: Any, *, most: int = MOST) -> list[Fault]:
    """Return a fault unless ``value`` is a whole number from 1 to ``most``."""
    if type(value) is int and 1 <= value <= most:
        return []
    if isinstance(value, int) and value > most:
        return [Fault(key, value, f"is more than {most:,}", f"Use an integer <= {most}.")]
    return [Fault(key, value, "is not a whole number >= 1", "Use an integer >= 1.")]
