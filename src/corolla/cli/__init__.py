"""The command line: ``corolla run | resume | report | export | gain | list | tune``."""

from corolla.cli.main import main

__all__ = ["main"]
