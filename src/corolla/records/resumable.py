"""Whether a run directory holds all that its run needs to go on, asked before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.errors import Fault, RefusedError, refuse
from corolla.records.checkpoints import CheckpointHeader
from corolla.records.client_facts import read_client_facts
from corolla.records.errors import RESTORE, CorruptStateError
from corolla.records.json_lines import surviving_lines
from corolla.records.run_directory import RunDirectory, has_round

CLIENT_STATES = "client_states"
"""Entry of a checkpoint's meta: simulated client -> round that its state on the disk is from."""

PRIVATE_STATES = "private_states"
"""The same of the private parts of its model."""

_FILES = (
    *(".launch", "run.log", "superlink.log", "clients.log", "environment.json"),
    *("partition.json", "clients.json"),
    *("metrics.jsonl", "clients.jsonl", "checkpoints/latest", "checkpoints/best"),
)
_DIRECTORIES = ("checkpoints", "clients", "state", "tensorboard")


def require_resumable(directory: RunDirectory, header: CheckpointHeader) -> None:
    """Check all that the rounds still to come will read; nothing is changed.

    Raises: RefusedError naming each damaged file, with what to do about it.
    """
    refuse(_misplaced(directory))
    faults: list[Fault] = []
    try:
        read_client_facts(directory.path)
    except CorruptStateError as error:
        faults += error.faults
    try:
        faults += _progress_faults(directory, header)
    except (CorruptStateError, RefusedError) as error:
        faults += error.faults
    refuse(faults)


def _misplaced(directory: RunDirectory) -> list[Fault]:
    faults = []
    for name in (*_FILES, *_DIRECTORIES):
        path, kind = directory.path / name, "directory" if name in _DIRECTORIES else "file"
        if path.exists() and not (path.is_dir() if kind == "directory" else path.is_file()):
            faults.append(Fault("file", str(path), f"is no {kind}", f"Move it away. {RESTORE}"))
    return faults


def _progress_faults(directory: RunDirectory, header: CheckpointHeader) -> list[Fault]:
    """Look at the checkpoint to go on from, and at what must agree with it."""
    checkpoint = directory.checkpoints.load_to_resume(header)
    done = 0 if checkpoint is None else checkpoint[0]
    faults = line_faults(directory, done)
    if checkpoint is None:
        return faults
    try:
        if directory.checkpoints.round("best") is not None:
            directory.checkpoints.load("best", header)
    except CorruptStateError as error:
        faults += error.faults
    stores = {CLIENT_STATES: directory.client_states, PRIVATE_STATES: directory.private_states}
    for key, store in stores.items():
        states: Mapping[str, int] = checkpoint[1].meta.get(key, {})
        for client, saved_in in states.items():
            try:
                store.require(client, saved_in=saved_in, up_to=done)
            except CorruptStateError as error:
                faults += error.faults
    return faults


def line_faults(directory: RunDirectory, done: int) -> list[Fault]:
    """Return a fault for each file of lines that lacks one of the rounds up to ``done``.

    Nothing that was lost with a crash is missed: lines of a round are on the disk before its
    checkpoint is. So lines of rounds well after the newest checkpoint mean that one is missing.
    """
    metrics_path, clients_path = (directory.path / f"{n}.jsonl" for n in ("metrics", "clients"))
    metrics, bad_metrics = surviving_lines(metrics_path)
    clients, bad_clients = surviving_lines(clients_path)
    metrics, clients = _by_round(metrics), _by_round(clients)
    faults = []
    recorded = Counter(row["round"] for row in metrics)
    wrong = [number for number in range(1, done + 1) if recorded[number] != 1]
    if wrong:
        faults.append(_lines_fault(metrics_path, wrong[0], bad_metrics))
    asked = Counter(
        (row["round"], client)
        for row in metrics
        if row["round"] <= done
        for client in row.get("participants", [])
    )
    answered = Counter((r["round"], r.get("client")) for r in clients if r["round"] <= done)
    if not wrong and asked != answered:
        first = min(number for number, _ in (asked - answered) + (answered - asked))
        faults.append(_lines_fault(clients_path, first, bad_clients))
    newest = directory.checkpoints.round() or 0
    last = max(recorded, default=0)
    if last > newest + 1:
        problem = f"is damaged: metrics.jsonl goes on to round {last}, its newest checkpoint is of "
        where = str(directory.path / "checkpoints")
        faults.append(Fault("file", where, f"{problem}round {newest}", RESTORE))
    return faults


def _by_round(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if has_round(row)]


def _lines_fault(path: Path, round: int, bad: list[int]) -> Fault:
    which = f"; line {bad[0]} cannot be read" if bad else ""
    problem = f"is damaged: it does not hold the lines of round {round}{which}"
    return Fault("file", str(path), problem, RESTORE)
