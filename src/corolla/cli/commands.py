"""What the commands do; `corolla.cli.main` reads their arguments and turns errors into exit codes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from corolla.cli import tables
from corolla.config.compose import config_dir, groups, methods, sweep
from corolla.errors import CorollaError, RefusedError
from corolla.launch import Plan, plan_run, resume, start
from corolla.records.run_directory import RunDirectory

_OUT = Console(soft_wrap=True)


def run_command(options: argparse.Namespace, console: Console) -> int:
    """Start one run, or all combinations of a multirun."""
    if options.multirun:
        return _multirun(options.overrides, console)
    _complete(plan_run(options.overrides), console)
    return 0


def _multirun(overrides: list[str], console: Console) -> int:
    """Check all runs before the first one starts; a failing one does not stop the others."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    jobs = sweep(overrides)
    plans: list[Plan] = []
    for number, job in enumerate(jobs):
        own = [o for o in job if not o.startswith("run_dir=")]
        parent = next((o.partition("=")[2] for o in job if o.startswith("run_dir=")), None)
        base = Path(parent) if parent else Path("runs") / f"{stamp}-multirun"
        varied = [o for o in own if not all(o in other for other in jobs)]
        plans.append(plan_run(own, default_dir=base / f"{number:02d}-{_job_name(varied)}"))
    finished, worst = [], 0
    for number, plan in enumerate(plans, start=1):
        _OUT.print(f"[bold]Run {number} of {len(plans)}:[/] {plan.run_dir.name}")
        try:
            finished.append(_complete(plan, console))
        except RefusedError:
            raise
        except CorollaError as error:
            console.print(f"[bold red]Failed:[/] {error}", markup=True)
            worst = 3
    if len(finished) > 1:
        from corolla.report import write_report

        _compare([directory.path for directory in finished])
        page = write_report(
            [d.path for d in finished], finished[0].path.parent / "report-compare.html"
        )
        _OUT.print(f"Comparison: {page}")
    return worst


def _compare(run_dirs: list[Path]) -> None:
    table, to_know = tables.comparison(run_dirs)
    for sentence in to_know:
        _OUT.print(sentence, highlight=False, markup=False)
    _OUT.print(table)


def _job_name(job: list[str]) -> str:
    name = "-".join(o.replace("=", "_").replace("/", "_") for o in job)
    return "".join(c for c in name if c.isalnum() or c in "-_.")[:80] or "run"


def _complete(plan: Plan, console: Console) -> RunDirectory:
    """Run to the end with a progress bar, print the table, write the report."""
    from corolla.cli.progress import following

    with (
        _resumable(plan.run_dir, console),
        following(plan.run_dir, rounds=plan.config.rounds, console=console),
    ):
        directory = start(plan)
    _conclude(directory, report=plan.config.report)
    return directory


@contextmanager
def _resumable(run_dir: Path, console: Console) -> Iterator[None]:
    """Say how to carry on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"\nCarry on with: corolla resume {run_dir}", highlight=False)
        raise


def resume_command(options: argparse.Namespace, console: Console) -> int:
    """Carry on an interrupted run."""
    from corolla.cli.progress import following

    if RunDirectory.open(options.run_dir).finished:
        directory = resume(options.run_dir)
        _OUT.print("This run is complete; nothing to resume.")
    else:
        with (
            _resumable(options.run_dir, console),
            following(options.run_dir, rounds=None, console=console),
        ):
            directory = resume(options.run_dir)
    _conclude(directory, report=True)
    return 0


def _conclude(directory: RunDirectory, *, report: bool) -> None:
    summary = directory.summary()
    _OUT.print(tables.clients(summary))
    _OUT.print(tables.headline(summary))
    if report:
        from corolla.report import write_report

        _OUT.print(f"Report: {write_report([directory.path])}")
    _OUT.print(f"Run directory: {directory.path}")


def report_command(options: argparse.Namespace, console: Console) -> int:
    """Write the HTML page."""
    from corolla.report import write_report

    _OUT.print(f"Report: {write_report(options.run_dirs, options.output)}")
    return 0


def export_command(options: argparse.Namespace, console: Console) -> int:
    """Write one client's model."""
    from corolla.export import export_model

    path = export_model(options.run_dir, options.client, options.format, options.output)
    _OUT.print(f"Written: {path}")
    return 0


def list_command(options: argparse.Namespace, console: Console) -> int:
    """Print what can be chosen, with the first comment line of each file."""
    members = groups()
    wanted = {"methods": "method", "spaces": "space", "datasets": "dataset"}
    wanted["experiments"] = "experiment"
    for plural, group in wanted.items():
        if options.what in (None, plural):
            _OUT.print(f"[bold]{plural}[/]")
            for name in methods() if group == "method" else members.get(group, []):
                text = (config_dir() / group / f"{name}.yaml").read_text().splitlines()
                remarks = (li.lstrip("# ") for li in text if li.startswith("#"))
                comment = next((r for r in remarks if not r.startswith("@package")), "")
                sys.stdout.write(f"  {name:<20} {comment}\n")
    return 0


def tune_command(options: argparse.Namespace, console: Console) -> int:
    """Measure loop settings for the space of the given overrides."""
    from corolla.cli.tune import tune_space

    tune_space(options.overrides, _OUT)
    return 0
