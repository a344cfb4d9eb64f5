"""How a run stands, from what lies in its directory: reading needs no lock and disturbs nobody."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from corolla.errors import Fault
from corolla.records.resumable import line_faults
from corolla.records.run_directory import RunDirectory
from corolla.records.run_lock import holder
from corolla.types import ClientId, client_order

RECENT_ROUNDS = 10
"""Whose mean duration the time left is reckoned from."""


@dataclass
class Attendance:
    """How often one client answered and failed, and what was last heard of it."""

    answered: int = 0
    failed: int = 0
    last_answer: int | None = None  # round
    last_failure: int | None = None
    reason: str = ""  # of the last failure

    @property
    def fails_now(self) -> bool:
        """Whether the last that was heard of it is a failure."""
        return (self.last_failure or 0) > (self.last_answer or 0)


@dataclass(frozen=True)
class Standing:
    """How a run stands."""

    held_by: str | None  # the process that works on it; None: nobody
    finished: bool
    done: int  # rounds
    rounds: int
    last_round: Mapping[str, Any] = field(default_factory=dict)  # its line of metrics.jsonl
    since_s: float | None = None  # since that round ended
    left_s: float | None = None  # that the other rounds will take; None: not known
    clients: Mapping[ClientId, Attendance] = field(default_factory=dict)
    faults: Sequence[Fault] = ()  # of records that do not go with the checkpoint

    @property
    def state(self) -> str:
        """One of finished, damaged, running, stopped."""
        if self.finished:
            return "finished"
        if self.faults:
            return "damaged"
        return "stopped" if self.held_by is None else "running"


def standing_of(directory: RunDirectory, *, now_s: float | None = None) -> Standing:
    """Return how the run in ``directory`` stands; ``now_s``: seconds since the epoch.

    Raises: CorruptStateError naming a damaged file.
    """
    rounds = int(yaml.safe_load(directory.config_text())["rounds"])
    lines = directory.metrics()
    held_by = holder(directory.path)
    finished, faults = directory.finished, list[Fault]()
    if held_by is None and not finished:  # nobody is writing them
        faults = line_faults(directory, directory.checkpoints.round() or 0)
    if not lines:
        return Standing(held_by, finished, done=0, rounds=rounds, faults=faults)
    done = lines[-1]["round"]
    written_s = (directory.path / "metrics.jsonl").stat().st_mtime
    since_s = max(0.0, (time.time() if now_s is None else now_s) - written_s)
    return Standing(
        held_by=held_by,
        finished=finished,
        faults=faults,
        done=done,
        rounds=rounds,
        last_round=lines[-1],
        since_s=since_s,
        left_s=_left_s(lines, rounds - done, since_s) if held_by is not None else None,
        clients=attendance(lines),
    )


def attendance(lines: Sequence[Mapping[str, Any]]) -> dict[ClientId, Attendance]:
    """Return who answered and who failed in these rounds, in the order of the clients."""
    found: dict[ClientId, Attendance] = {}
    for line in lines:
        for client in line.get("participants") or []:
            one = found.setdefault(str(client), Attendance())
            one.answered += 1
            one.last_answer = line["round"]
        for failure in line.get("failed") or []:
            one = found.setdefault(str(failure.get("client", "?")), Attendance())
            one.failed += 1
            one.last_failure, one.reason = line["round"], str(failure.get("reason", ""))
    return {client: found[client] for client in sorted(found, key=client_order)}


def _left_s(lines: Sequence[Mapping[str, Any]], rounds: int, since_s: float) -> float | None:
    times = [float(line["round_s"]) for line in lines[-RECENT_ROUNDS:] if line.get("round_s")]
    if not times:
        return None
    mean_s = sum(times) / len(times)
    return max(0.0, rounds * mean_s - min(since_s, mean_s))  # the next round has begun already
