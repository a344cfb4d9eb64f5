"""How far runs are, from their files alone: the strip above the page."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from corolla.records.phases import read_standing
from corolla.report.facts import failures
from corolla.report.load import Run, load_run, mapping, number
from corolla.report.wording import duration, listing, percent

_FILES = ("config.yaml", "metrics.jsonl", "clients.jsonl", "summary.json", "gain.json")
_NEWEST = 6  # runs shown where none is named
_SILENT_S = 3600.0


def runs_below(folder: Path) -> list[Path]:
    """Return the newest run directories in ``folder``, also those of multiruns, newest first."""
    found = [p.parent for at in ("*", "*/*") for p in folder.glob(f"{at}/config.yaml")]
    return sorted(found, key=_changed, reverse=True)[:_NEWEST]


def fingerprint(run_dir: Path) -> str:
    """Return a text that changes when the run's records do."""
    known = _recorded(run_dir)
    return ";".join(f"{name}:{file.st_size}:{file.st_mtime_ns}" for name, file in known)


def state_of(run_dir: Path) -> dict[str, Any]:
    """Return what the strip says of one run."""
    run = load_run(run_dir)
    alive = run.summary is None and _held(run_dir)
    word = "complete" if run.summary is not None else "running" if alive else "not running"
    planned, done = run.rounds_planned, run.rounds_done
    last = run.rounds[-1] if run.rounds else {}
    accuracy = run.deployed_curve("test_accuracy")
    failed = failures(run)
    said = {
        "round": f"{done} of {planned}" if planned else str(done),
        "stage": _stage(run, last),
        "all clients, test": f"{percent(accuracy[-1][1].mean)} %" if accuracy else "",
        "last round": _participants(last),
        "last round took": duration(number(last.get("round_s"))) if last else "",
        "now": _now(run_dir) if alive else "",
        "time left": _left(run) if alive else "",
        "failed exchanges": str(failed.total) if failed else "",
        "take no part": listing(list(mapping(last.get("unusable")))),
    }
    return {
        "name": run.name,
        "title": run.title,
        "state": word,
        "done": done / planned if planned else 0.0,
        "facts": [[key, value] for key, value in said.items() if value],
        "fingerprint": fingerprint(run_dir),
    }


def _stage(run: Run, last: dict[str, Any]) -> str:
    for key in ("stage", "mean_phase"):
        value = number(last.get(key))
        if value is not None:
            return f"{value:g}" if key == "stage" else f"phase {value:.1f}, mean"
    return ""


def _participants(last: dict[str, Any]) -> str:
    names = last.get("participants")
    if not isinstance(names, list):
        return ""
    return f"clients {listing([str(name) for name in names])}" if names else "nobody answered"


def _now(run_dir: Path) -> str:
    standing = read_standing(run_dir)
    if standing is None:
        return ""
    return f"{standing}; client {listing(standing.who)}" if standing.who else str(standing)


def _left(run: Run) -> str:
    """Return the time that the rounds still to do will take, by the median of the latest."""
    if not run.rounds_planned:
        return ""
    times = sorted(value for _, value in run.curve("round_s")[-9:])
    rest = run.rounds_planned - run.rounds_done
    if rest <= 0:
        return "the last evaluation"
    return (
        f"about {duration(times[len(times) // 2] * rest)}, then the last evaluation"
        if times
        else ""
    )


def _held(run_dir: Path) -> bool:
    """Tell whether a process has the run's lock, without touching it: a start could meet ours."""
    try:
        words = (run_dir / ".lock").read_text(errors="replace").split()
    except OSError:
        return False
    if len(words) != 4 or words[0] != "pid" or not words[1].isdigit():
        return False
    if words[3] != platform.node():  # another machine's process: by when it last wrote
        return time.time() - _changed(run_dir) < _SILENT_S
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _changed(run_dir: Path) -> float:
    """Return when anything was last recorded."""
    return max((file.st_mtime for _, file in _recorded(run_dir)), default=time.time())


def _recorded(run_dir: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the run's records that are there."""
    for name in _FILES:
        with suppress(OSError):
            yield name, (run_dir / name).stat()
