"""What the commands do; `corolla.cli.main` reads their arguments and turns errors into exit codes.

torch takes seconds to import: what needs it is imported where the words of a command were found right.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import yaml
from rich.console import Console

from corolla.config.compose import compose_values, suggested
from corolla.config.effects import without_effect
from corolla.errors import Fault, RefusedError
from corolla.records.run_directory import RunDirectory
from corolla.records.sweep import Sweep, is_sweep, runs_of

if TYPE_CHECKING:
    from corolla.launch import Plan

_OUT = Console(soft_wrap=True)
_MOST_NOTES = 10


def run_command(options: argparse.Namespace, console: Console) -> int:
    """Start one run, or all combinations of a multirun."""
    if options.multirun:
        from corolla.cli.sweeping import run_sweep

        return run_sweep(options.overrides, console)
    compose_values(options.overrides)  # a slip is refused before torch is imported
    tell_choices(options.overrides, _OUT)
    from corolla.cli.progress import told
    from corolla.launch import plan_run

    with told(console):
        plan = plan_run(options.overrides)
    tell_images(plan, _OUT)
    complete(plan, console)
    return 0


def tell_choices(overrides: list[str], out: Console) -> None:
    """Say what the method chose where nothing was given, and which given keys change nothing."""
    chosen = suggested(overrides)
    if chosen:
        method = next(text for text in overrides if text.startswith("method="))
        words = f"{method} takes {' '.join(chosen)} (conf/method); what you give wins."
        out.print(words, highlight=False, markup=False)
    for sentence in without_effect(overrides):
        out.print(f"Note: {sentence}", highlight=False, markup=False)


def complete(plan: Plan, console: Console) -> RunDirectory:
    """Run to the end with a progress bar, print the table, write the report."""
    from corolla.cli.progress import following
    from corolla.launch import start

    with (
        _resumable(plan.run_dir, console),
        following(plan.run_dir, rounds=plan.config.rounds, console=console),
    ):
        directory = start(plan)
    _conclude(directory, report=plan.config.report)
    return directory


def tell_images(plan: Plan, out: Console) -> None:
    """Say which images are left out, and where the space makes them smaller than they are."""
    notes = plan.partition.notes if plan.partition is not None else ()
    for note in notes[:_MOST_NOTES]:
        out.print(f"Note: {note}", highlight=False, markup=False)
    if len(notes) > _MOST_NOTES:
        out.print(f"Note: {len(notes) - _MOST_NOTES} more in partition.json.", highlight=False)
    side = plan.config.dataset.get("resolution")
    if side and plan.space.resolution * 2 <= side:
        out.print(
            f"Note: images of {side} pixels are scaled to {plan.space.resolution} inside "
            f"space={plan.space.name}; mobilenetv3_32, elastic_cnn, mobilenetv2_small take 32.",
            highlight=False,
        )


@contextmanager
def _resumable(run_dir: Path, console: Console) -> Iterator[None]:
    """Say how to carry on after Ctrl-C, or SIGTERM (`corolla stop`), which means the same."""
    try:
        with terminable():
            yield
    except KeyboardInterrupt:
        console.print(f"\nCarry on with: corolla resume {run_dir}", highlight=False)
        raise


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM interrupt the block; outside the main thread nothing can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def resume_command(options: argparse.Namespace, console: Console) -> int:
    """Carry on an interrupted run, or what is not finished of a sweep."""
    if is_sweep(options.run_dir):
        from corolla.cli.sweeping import go_on, number_of

        if options.overrides:
            path, remedy = (
                str(options.run_dir),
                "Resume a run of it: corolla resume RUN_DIR KEY=VALUE",
            )
            raise RefusedError(
                Fault("run_dir", path, "is a sweep, which takes no overrides", remedy)
            )
        at_once = number_of([f"jobs={options.jobs}"])
        return go_on(Sweep.open(options.run_dir.absolute()), at_once, console)
    resumed(options.run_dir, console, options.overrides)
    return 0


def resumed(run_dir: Path, console: Console, overrides: Sequence[str] = ()) -> RunDirectory:
    """Carry on an interrupted run to its end; ``overrides`` as in `corolla.launch.resume`."""
    from corolla.cli.progress import following
    from corolla.launch import resume

    if RunDirectory.open(run_dir).finished:
        directory = resume(run_dir, overrides)
        _OUT.print("This run is complete; nothing to resume.")
    else:
        with _resumable(run_dir, console), following(run_dir, rounds=None, console=console):
            directory = resume(run_dir, overrides)
    _conclude(directory, report=bool(yaml.safe_load(directory.config_text())["report"]))
    return directory


def _conclude(directory: RunDirectory, *, report: bool) -> None:
    from corolla.cli import tables

    summary = directory.summary()
    if summary["clients"]:
        _OUT.print(tables.clients(summary))
        _OUT.print(tables.headline(summary))
    else:
        why = "evaluation.final=none" if summary.get("final") == "none" else "all failed"
        _OUT.print(f"No accuracies of clients at the end: {why}.")
    for shared in (tables.global_model(summary), tables.shared_models(summary)):
        if shared is not None:
            _OUT.print(shared)
    if report:
        from corolla.report import write_report

        _OUT.print(f"Report: {write_report([directory.path])}")
    _OUT.print(f"Run directory: {directory.path}")


def report_command(options: argparse.Namespace, console: Console) -> int:
    """Write the HTML page."""
    from corolla.report import write_report

    if len(options.run_dirs) == 1 and is_sweep(options.run_dirs[0]):
        from corolla.cli.sweeping import report_sweep

        report_sweep(options.run_dirs[0], options.output)
        return 0
    run_dirs = [run_dir for path in options.run_dirs for run_dir in runs_of(path)]
    _OUT.print(f"Report: {write_report(run_dirs, options.output)}")
    return 0


def export_command(options: argparse.Namespace, console: Console) -> int:
    """Write one client's model."""
    from corolla.export import export_model

    for path in export_model(options.run_dir, options.client, options.format, options.output):
        _OUT.print(f"Written: {path}")
    return 0


def tune_command(options: argparse.Namespace, console: Console) -> int:
    """Measure loop settings for the space of the given overrides."""
    from corolla.cli.tune import tune_space

    tune_space(options.overrides, _OUT)
    return 0
