"""One self-contained HTML page about one run, or about several side by side."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["write_report"]


def write_report(run_dirs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page; see `corolla.report.page.write_report`."""
    # Late: drawing takes a second to import, and tables need none of it.
    from corolla.report.page import write_report as write

    return write(run_dirs, output)
