"""The command line: ``corolla run | resume | report | export | list | tune``."""

from corolla.cli.main import main

__all__ = ["main"]
