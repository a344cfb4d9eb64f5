"""Arguments of the commands that operate what runs already: status, attach, stop, clean, node."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_operating_commands(commands: Any, lazy: Callable[..., Any]) -> None:
    """Add them to ``commands``, argparse's subparsers; ``lazy`` makes what carries one out."""
    status = commands.add_parser("status", help="say how a run stands: round, time left, who fails")
    status.add_argument("run_dir", type=Path, nargs="?", help="default: all runs below runs/")
    status.set_defaults(command=lazy("status", module="operate"))

    attach = commands.add_parser("attach", help="follow a run that goes on; Ctrl-C lets it go on")
    attach.add_argument("run_dir", type=Path)
    attach.set_defaults(command=lazy("attach", module="operate"))

    stop = commands.add_parser("stop", help="stop a run, whoever started it; it can be resumed")
    stop.add_argument("run_dir", type=Path)
    stop.set_defaults(command=lazy("stop", module="operate"))

    clean = commands.add_parser(
        "clean",
        help="on a site: say what finished runs have left there, and with --delete remove it",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    clean.add_argument("state_dir", type=Path, help="the site's state-dir")
    clean.add_argument("--flower-home", type=Path, help="the site's FLWR_HOME: old bundles go too")
    clean.add_argument(
        "--days", type=float, default=30.0, help="untouched for so long counts as over"
    )
    clean.add_argument("--delete", action="store_true", help="remove it; without, nothing changes")
    clean.set_defaults(command=lazy("clean", module="clean"))

    node = commands.add_parser(
        "node",
        add_help=False,  # it is flower-supernode's
        help="start a SuperNode whose messages need no Python of their own (docs/deployment.md)",
    )
    node.set_defaults(command=lazy("node", module="node"), of_others=True)
