"""``corolla table``: runs as a table for papers and other programs."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from corolla.analysis.table import table
from corolla.errors import Fault, RefusedError
from corolla.records.atomic import write_text
from corolla.records.sweep import runs_of


def table_command(options: argparse.Namespace, console: Console) -> int:
    """Print the table, or write it to a file."""
    run_dirs = [run_dir for path in options.run_dirs for run_dir in runs_of(path)]
    text, to_know = table(run_dirs, options.format)
    for sentence in to_know:  # beside the table, which a pipe may take
        console.print(sentence, markup=False, highlight=False)
    if options.output is None:
        sys.stdout.write(text)
        return 0
    try:
        write_text(options.output, text)
    except OSError as error:
        problem, remedy = error.strerror or str(error), "Choose a file in a directory that is there"
        raise RefusedError(Fault("output", str(options.output), problem, remedy)) from error
    sys.stdout.write(f"Written: {options.output}\n")
    return 0
