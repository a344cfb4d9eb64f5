"""Arguments in, exit codes out: 0 done, 2 refused before start, 3 the run failed, 130 interrupted."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from corolla import __version__
from corolla.cli.operating_parsers import add_operating_commands
from corolla.cli.results_parsers import add_results_commands
from corolla.config import own_parts
from corolla.errors import CorollaError, Fault, RefusedError, RunFailedError
from corolla.records.errors import CorruptStateError

DONE, REFUSED, FAILED, INTERRUPTED = 0, 2, 3, 130

_RUN_HELP = """\
Hydra overrides, as in
  corolla run                                   the main job: our own method on digits
  corolla run method=fedavg rounds=20 seed=1
  corolla run experiment=cifar10_small dataset.root=PATH
  corolla run -m seed=0,1,2 method=fedavg,perfedrlnas jobs=2
`corolla list` shows what there is; conf/config.yaml documents every key."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # One thread per process: two on a busy machine are many times slower (docs/performance.md).
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help()
        return REFUSED
    options, rest = parser.parse_known_args(arguments)
    if rest and not getattr(options, "of_others", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    console = Console(stderr=True, soft_wrap=True)
    _log_to_terminal()
    command: Callable[[argparse.Namespace, Console], int] = options.command
    try:
        own_parts.use(options.config_dir)
        return command(options, console)
    except (RefusedError, CorruptStateError) as error:
        _show_faults(console, error.faults)
        return REFUSED
    except RunFailedError as error:
        console.print(f"[bold red]The run failed:[/] {_plain(str(error))}", highlight=False)
        return FAILED
    except (CorollaError, OSError) as error:  # also no right to read a file, a full disk
        console.print(f"[bold red]Error:[/] {_plain(str(error))}", highlight=False)
        return FAILED
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="corolla", description="Personalised federated neural architecture search on Flower."
    )
    parser.add_argument("--version", action="version", version=f"corolla {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, *, module: str = "", **words: Any) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = commands.add_parser(name, **words)
        found.set_defaults(command=_lazy(name, module=module or name))
        return found

    run = add(
        "run",
        module="commands",
        help="start a run",
        epilog=_RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="run all combinations of a=1,2; jobs=2: two at a time",
    )
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE")

    resume = add("resume", module="commands", help="carry on an interrupted run, or sweep")
    resume.add_argument("run_dir", type=Path)
    resume.add_argument(
        "--jobs", type=int, default=1, help="of a sweep: runs at a time, each in its own process"
    )
    resume.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="of engine, prometheus, report, round_timeout_s, tensorboard: kept from now on",
    )

    report = add("report", module="commands", help="write the HTML page of one run, or of several")
    report.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    report.add_argument("-o", "--output", type=Path, help="where to write the page")

    export = add("export", module="commands", help="write one client's model for other programs")
    export.add_argument("run_dir", type=Path)
    export.add_argument("--client", required=True)
    export.add_argument(
        "--format",
        choices=("safetensors", "onnx", "pt2", "card", "genotype", "svg"),
        default="safetensors",
    )
    export.add_argument("-o", "--output", type=Path)

    gain = add(
        "gain", help="try every client's architecture on every client's images (docs/gain.md)"
    )
    gain.add_argument("run_dir", type=Path)
    gain.add_argument("--epochs", type=int, default=30, help="of fine-tuning per cell")
    gain.add_argument("--lr", type=float, help="its step; by default that of the run's fine-tuning")
    gain.add_argument(
        "--start",
        choices=("supernet", "own", "both"),
        default="both",
        help="weights to start from: the shared supernet's slice, or the architecture's own client's",
    )
    gain.add_argument("--fresh", action="store_true", help="forget the cells measured so far")

    listing = add("list", module="listing", help="show methods, spaces, data sets, experiments")
    listing.add_argument(
        "what", nargs="?", choices=("methods", "spaces", "datasets", "experiments")
    )

    check = add(
        "check", help="show what a run would be: settings, images, costs, seconds per round"
    )
    check.add_argument("--no-trial", action="store_true", help="do not try two rounds")
    check.add_argument(
        "--seconds", type=float, default=120.0, help="most that the trial may take (120)"
    )
    check.add_argument("overrides", nargs="*", metavar="KEY=VALUE")

    completion = add(
        "completion", help="print a script that completes commands, keys and names in the shell"
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    job = add("job", module="sweeping")  # of a sweep, in a process of its own
    job.add_argument("path", type=Path)
    job.add_argument("name")
    complete = add("complete", module="completion")  # asked by that script
    complete.add_argument("words", nargs=argparse.REMAINDER)

    tune = add("tune", module="commands", help="measure the fastest training loop for a space")
    tune.add_argument("overrides", nargs="*", metavar="KEY=VALUE")

    add_operating_commands(add)
    add_results_commands(add)
    for each in commands.choices.values():
        each.add_argument(
            "--config-dir",
            action="append",
            default=[],
            metavar="DIR",
            help="a folder of your own methods, spaces, data sets ... (docs/own-parts.md)",
        )
    return parser


def _lazy(name: str, *, module: str) -> Callable[[argparse.Namespace, Console], int]:
    """Import torch and the rest only for the command that needs it: ``--help`` answers at once."""

    def command(options: argparse.Namespace, console: Console) -> int:
        home = importlib.import_module(f"corolla.cli.{module}")
        run: Callable[[argparse.Namespace, Console], int] = getattr(home, f"{name}_command")
        return run(options, console)

    return command


def _log_to_terminal() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("corolla")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def _show_faults(console: Console, faults: Sequence[Fault]) -> None:
    number = len(faults)
    console.print(f"[bold red]Refused:[/] {number} {'fault' if number == 1 else 'faults'}.")
    for fault in faults:
        console.print(f"  • {_plain(str(fault))}", highlight=False)


def _plain(text: str) -> str:
    """Return text that rich prints as it is."""
    return text.replace("[", r"\[")


if __name__ == "__main__":
    sys.exit(main())
