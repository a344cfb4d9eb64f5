"""``corolla watch``: runs in a browser while they go on."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from corolla.errors import Fault, RefusedError
from corolla.watch.server import Pages, WatchServer


def watch_command(options: argparse.Namespace, console: Console) -> int:
    """Serve the page until Ctrl-C; the runs go on without it."""
    missing = [path for path in options.run_dirs if not path.is_dir()]
    if missing:
        remedy = "Name run directories, or none for the newest below runs/"
        raise RefusedError([Fault("run_dirs", str(p), "no such folder", remedy) for p in missing])
    pages = Pages(options.run_dirs, Path("runs"))
    try:
        server = WatchServer(pages, port=options.port, every_s=options.every)
    except (OSError, OverflowError) as error:
        remedy = "Give another --port; 0 takes any that is free"
        raise RefusedError(Fault("port", options.port, str(error).rstrip("."), remedy)) from error
    with server:
        console.print(
            f"Open {server.address}   (Ctrl-C ends the page, not the runs)", highlight=False
        )
        server.serve_forever()
    return 0
