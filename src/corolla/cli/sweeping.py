"""``corolla run -m`` and what carries it on: all runs are checked first, none stops another."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from corolla.cli.commands import complete, resumed, tell_choices, terminable
from corolla.config.compose import compose_values
from corolla.config.overrides import sweep
from corolla.errors import Fault, RefusedError
from corolla.launch import plan_of, plan_run
from corolla.records.run_directory import RunDirectory
from corolla.records.sweep import Job, Sweep, runs_of

_OUT = Console(soft_wrap=True)
_LOG = logging.getLogger(__name__)
_AT_ONCE = "jobs="
_LOOK_S = 0.5
_MOST_AT_ONCE = 64


def run_sweep(overrides: list[str], console: Console) -> int:
    """Check all combinations, write them down, and run them."""
    at_once = number_of([o for o in overrides if o.startswith(_AT_ONCE)])
    jobs = sweep([o for o in overrides if not o.startswith(_AT_ONCE)])
    for job in jobs:
        compose_values(job)
    base = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-multirun"
    planned = []
    for number, job in enumerate(jobs):
        own = [o for o in job if not o.startswith("run_dir=")]
        base = next((Path(o.partition("=")[2]) for o in job if o.startswith("run_dir=")), base)
        varied = [o for o in own if not all(o in other for other in jobs)]
        name = f"{number:02d}-{_job_name(varied)}"
        tell_choices(own, _OUT)
        config = plan_run(own, default_dir=base / name).config
        planned.append(Job(name, own, yaml.safe_load(config.to_yaml())))
    return go_on(Sweep.create(base.expanduser().absolute(), planned), at_once, console)


def go_on(jobs: Sweep, at_once: int, console: Console) -> int:
    """Run what is not finished and compare; 0, or 3 where a run failed."""
    try:
        with jobs.lock(), terminable():
            left = [job for job in jobs.jobs if not jobs.finished(job)]
            run = _in_turn if at_once == 1 else _side_by_side
            failed = run(jobs, left, at_once, console)
    except KeyboardInterrupt:
        console.print(f"\nCarry on with: corolla resume {jobs.path}", highlight=False)
        raise
    finished = [jobs.run_dir(job) for job in jobs.jobs if jobs.finished(job)]
    if len(finished) > 1:
        from corolla.cli import tables

        table, to_know = tables.comparison(finished)
        for sentence in to_know:
            _OUT.print(sentence, highlight=False, markup=False)
        _OUT.print(table)
        report_sweep(jobs.path)
    for name in failed:
        console.print(f"Failed: {name}", highlight=False)
    if failed:
        console.print(f"Try these again with: corolla resume {jobs.path}", highlight=False)
    return 3 if failed else 0


def report_sweep(path: Path, output: Path | None = None) -> None:
    """Write the page of all runs that have begun."""
    from corolla.report import write_report

    jobs = Sweep.open(path)
    page = write_report(runs_of(path), output or path / "report-compare.html")
    waiting = [job.name for job in jobs.jobs if not jobs.begun(job)]
    if waiting:
        _OUT.print(f"Not begun yet: {', '.join(waiting)}", highlight=False)
    _OUT.print(f"Comparison: {page}")


def job_command(options: argparse.Namespace, console: Console) -> int:
    """Run one job of a sweep, for `_side_by_side`."""
    jobs = Sweep.open(options.path)
    _run(jobs, next(job for job in jobs.jobs if job.name == options.name), console)
    return 0


def _run(jobs: Sweep, job: Job, console: Console) -> RunDirectory:
    if jobs.begun(job):
        return resumed(jobs.run_dir(job), console)
    values = {**job.config, "run_dir": str(jobs.run_dir(job))}
    return complete(plan_of(values), console)


def _in_turn(jobs: Sweep, left: list[Job], at_once: int, console: Console) -> list[str]:
    """Run one after the other here; return which failed, and why."""
    failed = []
    for number, job in enumerate(left, start=1):
        _OUT.print(f"[bold]Run {number} of {len(left)}:[/] {job.name}")
        try:
            _run(jobs, job, console)
        except Exception as error:  # whatever it is: the other runs go on
            _LOG.debug("%s", job.name, exc_info=True)
            console.print(f"[bold red]Failed:[/] {job.name}")
            console.out(str(error), highlight=False)
            failed.append(job.name)
    return failed


def _side_by_side(jobs: Sweep, left: list[Job], at_once: int, console: Console) -> list[str]:
    """Run ``at_once`` jobs at a time, each in a process of its own that writes NAME.log."""
    running: dict[str, subprocess.Popen[Any]] = {}
    waiting, failed = list(left), []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[job.name] = _process(jobs, job)
                _OUT.print(f"Started: {job.name}; {jobs.path / job.name}.log", highlight=False)
            for name, code in _ended(running):
                ended = f"{len(left) - len(waiting) - len(running)} of {len(left)}"
                _OUT.print(f"{'Failed' if code else 'Done'} ({ended}): {name}", highlight=False)
                failed += [f"{name} ({jobs.path / name}.log says why)"] if code else []
            time.sleep(_LOOK_S)
    finally:
        for process in running.values():  # as after Ctrl-C: each can be resumed
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def _process(jobs: Sweep, job: Job) -> subprocess.Popen[Any]:
    code = "import sys; from corolla.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "job", str(jobs.path), job.name]
    with (jobs.path / f"{job.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _ended(running: dict[str, subprocess.Popen[Any]]) -> Iterator[tuple[str, int]]:
    for name in list(running):
        code = running[name].poll()
        if code is not None:
            del running[name]
            yield name, code


def number_of(texts: list[str]) -> int:
    """Return the number in the last of ``jobs=2``, 1 where there is none; RefusedError where it is none."""
    text = texts[-1].partition("=")[2] if texts else "1"
    if text.isdecimal() and 1 <= int(text) <= _MOST_AT_ONCE:
        return int(text)
    raise RefusedError(
        Fault("jobs", text, "is not how many runs may go at once", "Use 1 to 64, as in jobs=2")
    )


def _job_name(job: list[str]) -> str:
    name = "-".join(o.replace("=", "_").replace("/", "_") for o in job)
    return "".join(c for c in name if c.isalnum() or c in "-_.")[:80] or "run"
