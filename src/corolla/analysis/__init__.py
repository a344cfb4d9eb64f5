"""Runs from Python: started, opened, read as tables, compared (docs/python.md)."""

from corolla.analysis.comparing import compare
from corolla.analysis.opened import OpenedRun, open_run, resume, run

__all__ = ["OpenedRun", "compare", "open_run", "resume", "run"]
