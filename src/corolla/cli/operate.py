"""``corolla status``, ``attach`` and ``stop``: what a run does at the moment, whoever started it."""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from corolla.cli.progress import following
from corolla.config.schema import RunConfig, require_config
from corolla.errors import CorollaError, Fault, RefusedError
from corolla.records.flower_run import flower_run
from corolla.records.phases import read_standing
from corolla.records.run_directory import RunDirectory
from corolla.records.run_lock import holder
from corolla.records.standing import Standing, standing_of
from corolla.records.sweep import Sweep, is_sweep

if TYPE_CHECKING:
    from engines.superlink import SuperLinkEngine

_OUT = Console(soft_wrap=True)
_LOOK_S = 0.5
_PATIENCE_S = 90.0  # a server part on a SuperLink notices a stop within half a minute
_FAILING_SHOWN = 20


def status_command(options: argparse.Namespace, console: Console) -> int:
    """Say how the run, or each run of a sweep, stands; without a directory, how those below ``runs`` do."""
    path = options.run_dir
    if path is not None and not is_sweep(path):
        _show(RunDirectory.open(path))
        return 0
    if path is not None:
        _list_sweep(Sweep.open(path))
        return 0
    found = sorted(one.parent for one in Path("runs").glob("**/config.yaml"))
    _list(found)
    if not found:
        _OUT.print("There is no run below runs/. Give a run's directory: corolla status RUN_DIR")
    return 0


def _list_sweep(sweep: Sweep) -> None:
    """Print a line for each of its runs, those that have not begun too."""
    _list(sweep.runs())
    for job in sweep.jobs:
        if not sweep.begun(job):
            _OUT.print(f"{sweep.run_dir(job)}: not begun", markup=False)


def _list(run_dirs: Sequence[Path]) -> None:
    """Print a line for each run."""
    for run_dir in run_dirs:
        try:
            standing = standing_of(RunDirectory.open(run_dir))
            _OUT.print(f"{run_dir}: {_line(standing, standing.state)}", markup=False)
        except CorollaError as error:
            _OUT.print(f"{run_dir}: {error}", markup=False)


def _line(standing: Standing, state: str) -> str:
    left = f", {_duration(standing.left_s)} left" if standing.left_s is not None else ""
    failing = sum(one.fails_now for one in standing.clients.values())
    failed = f", {failing} of {len(standing.clients)} clients fail" if failing else ""
    return f"{state}, round {standing.done} of {standing.rounds}{left}{failed}"


def _show(directory: RunDirectory) -> None:
    config, run_id = _config(directory), flower_run(directory.path)
    told, going_on = None, None
    if _is_asked(config) and run_id is not None and not directory.finished:
        told, going_on = _told(config, run_id)
    # After that, which takes seconds: what follows is all of one moment.
    standing, at = standing_of(directory), read_standing(directory.path)
    state = standing.state
    if going_on is not None and standing.held_by is None and not standing.finished:
        state = going_on  # its launcher is gone, and it has not begun, or runs elsewhere
    _OUT.print(_line(standing, state), highlight=False)
    if standing.held_by:
        _OUT.print(f"  held by {standing.held_by}", highlight=False, markup=False)
        if at:
            _OUT.print(f"  at: {at}", highlight=False, markup=False)
    if told is not None:
        _OUT.print(f"  run {run_id} on the SuperLink: {told}", highlight=False, markup=False)
    elif _is_flowers(config) and run_id is not None and standing.held_by:
        text = f"  Flower run {run_id}; `flwr stop {run_id}` stops it as well"
        _OUT.print(text, highlight=False, markup=False)
    if standing.since_s is not None:
        last, failed = standing.last_round, standing.last_round.get("failures", 0)
        text = f"  round {standing.done} ended {_duration(standing.since_s)} ago: "
        text += f"{len(last.get('participants', []))} answered, {failed} failed"
        _OUT.print(text, highlight=False)
    failing = {client: one for client, one in standing.clients.items() if one.fails_now}
    for client, one in list(failing.items())[:_FAILING_SHOWN]:
        answered = (
            f"answered last in round {one.last_answer}" if one.last_answer else "never answered"
        )
        text = f"  client {client} failed in round {one.last_failure} ({answered}): {one.reason}"
        _OUT.print(text, highlight=False, markup=False)
    if len(failing) > _FAILING_SHOWN:
        _OUT.print(f"  and {len(failing) - _FAILING_SHOWN} more; metrics.jsonl has them")
    for name, reason in (standing.last_round.get("unusable") or {}).items():
        _OUT.print(f"  {name} takes no part: {reason}", highlight=False, markup=False)
    for fault in standing.faults:
        _OUT.print(f"  {fault}", highlight=False, markup=False)
    if state == "stopped":
        _OUT.print(f"  carry on with: corolla resume {directory.path}", highlight=False)


def _told(config: RunConfig, run_id: int) -> tuple[str, str | None]:
    """Return what the SuperLink says of the run, or why nothing; and its status unless it has ended."""
    try:
        told = _superlink(config).status_of(run_id)
    except CorollaError as error:
        return str(error), None
    return str(told), None if told.finished else told.status


def attach_command(options: argparse.Namespace, console: Console) -> int:
    """Show the rounds of a run that somebody else started, until it ends; Ctrl-C lets it go on."""
    directory = RunDirectory.open(options.run_dir)
    rounds = _config(directory).rounds
    if holder(directory.path) is not None:
        try:
            with following(directory.path, rounds=rounds, console=console):
                while holder(directory.path) is not None:
                    time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            console.print(f"\nThe run goes on. Stop it with: corolla stop {directory.path}")
            return 0
    _show(directory)
    return 0


def stop_command(options: argparse.Namespace, console: Console) -> int:
    """Stop a run, or all of a sweep, after the last finished round; it can be resumed.

    Raises: RefusedError where the run does not run, or cannot be reached from here.
    """
    if is_sweep(options.run_dir):
        _stop_sweep(options.run_dir.absolute())
        return 0
    directory = RunDirectory.open(options.run_dir)
    if directory.finished:
        _OUT.print("This run is complete; there is nothing to stop.")
        return 0
    config, run_id = _config(directory), flower_run(directory.path)
    held_by = holder(directory.path)
    if _is_asked(config) and run_id is not None:
        _stop_there(config, run_id, held_by, directory.path)
    elif held_by is None:
        _OUT.print("Nobody works on this run; there is nothing to stop.")
    else:
        _interrupt(held_by, directory.path, flowers=run_id if _is_flowers(config) else None)
    _wait_until_free(directory.path)
    _show(directory)
    return 0


def _stop_there(config: RunConfig, run_id: int, held_by: str | None, path: Path) -> None:
    """Stop it by the SuperLink; where that cannot be reached, by whoever works on it here."""
    try:
        _superlink(config).stop_run(run_id)
    except CorollaError as error:
        if held_by is None:
            raise
        _OUT.print(str(error), highlight=False, markup=False)
        _interrupt(held_by, path)
        _OUT.print(f"Asked {held_by} itself to stop.", highlight=False, markup=False)


def _stop_sweep(path: Path) -> None:
    sweep = Sweep.open(path)
    held = {one: holder(one) for one in (path, *sweep.runs())}
    working = {one: by for one, by in held.items() if by is not None}
    if not working:
        _OUT.print("Nobody works on this sweep; there is nothing to stop.")
        return
    if path in working:  # it ends its runs itself; they are left over where it was killed
        working = {path: working[path]}
    for one, by in working.items():
        _interrupt(by, one)
    for one in working:
        _wait_until_free(one)
    _list_sweep(sweep)
    _OUT.print(f"  carry on with: corolla resume {path}", highlight=False)


def _interrupt(held_by: str, path: Path, *, flowers: int | None = None) -> None:
    """Ask the process that holds it to end, as Ctrl-C does; ``flowers``: the run's number there, if any."""
    found = re.fullmatch(r"pid (\d+) on (.*)", held_by)
    if found is None or found.group(2) != platform.node():
        remedy = "Stop it there, with corolla stop RUN_DIR"
        if flowers is not None:
            remedy = f"Stop it where you gave `flwr run`: flwr stop {flowers}"
        problem = f"{held_by} works on it, and that is another machine"
        raise RefusedError(Fault("run_dir", str(path), problem, remedy))
    # Not SIGINT: a shell that starts a command in the background has it ignored.
    os.kill(int(found.group(1)), signal.SIGTERM)


def _wait_until_free(path: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while (held_by := holder(path)) is not None:
        if time.monotonic() > end:
            problem = f"is still held by {held_by} {_PATIENCE_S:.0f} s after it was asked to end"
            remedy = "Look again with corolla status; a killed run can be resumed as well"
            raise RefusedError(Fault("run_dir", str(path), problem, remedy))
        time.sleep(_LOOK_S)


def _is_flowers(config: RunConfig) -> bool:
    """Return whether `flwr run` started the run: which SuperLink that was, its user alone knows."""
    return str(config.engine["_target_"]) == "strategies.flower_run.FlowerEngine"


def _is_asked(config: RunConfig) -> bool:
    """Return whether the configuration says at which SuperLink the run is."""
    return config.on_nodes and not _is_flowers(config)


def _superlink(config: RunConfig) -> SuperLinkEngine:
    from corolla.config.build import build_engine  # imports torch

    engine: SuperLinkEngine = build_engine(config)
    return engine


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _config(directory: RunDirectory) -> RunConfig:
    return require_config(yaml.safe_load(directory.config_text()))
