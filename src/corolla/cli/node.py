"""``corolla node``: flower-supernode with a warm client."""

from __future__ import annotations

import argparse
import importlib
from typing import NoReturn

from rich.console import Console


def node_command(options: argparse.Namespace, console: Console) -> NoReturn:
    """Become the SuperNode; its options are flower-supernode's own."""
    importlib.import_module("engines.supernode").main(options.rest)  # engines import corolla
    raise AssertionError("a program that was started never returns")
