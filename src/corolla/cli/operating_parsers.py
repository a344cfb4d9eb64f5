"""Arguments of the commands that operate what runs already: status, attach, stop, clean, node."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_operating_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add them; ``add`` makes a command's parser, which knows what carries it out."""
    status = add(
        "status", module="operate", help="say how a run stands: round, time left, who fails"
    )
    status.add_argument("run_dir", type=Path, nargs="?", help="default: all runs below runs/")

    attach = add("attach", module="operate", help="follow a run that goes on; Ctrl-C lets it go on")
    attach.add_argument("run_dir", type=Path)

    stop = add(
        "stop",
        module="operate",
        help="stop a run or a sweep, whoever started it; it can be resumed",
    )
    stop.add_argument("run_dir", type=Path)

    clean = add(
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

    node = add(
        "node",
        add_help=False,  # it is flower-supernode's
        help="start a SuperNode whose messages need no Python of their own (docs/deployment.md)",
    )
    node.set_defaults(of_others=True)
