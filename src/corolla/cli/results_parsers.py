"""Arguments of the commands that read finished runs; light, as all of ``--help`` must be."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_results_commands(commands: Any, lazy: Callable[..., Any]) -> None:
    """Add the commands to argparse's subparsers; ``lazy`` is `corolla.cli.main`'s."""
    _table(commands, lazy)


def _table(commands: Any, lazy: Callable[..., Any]) -> None:
    table: argparse.ArgumentParser = commands.add_parser(
        "table", help="print runs as a table: csv, md, latex or json (docs/python.md)"
    )
    table.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    table.add_argument("--format", choices=("csv", "md", "latex", "json"), default="md")
    table.add_argument("-o", "--output", type=Path, help="a file; by default it is printed")
    table.set_defaults(command=lazy("table", module="table"))
