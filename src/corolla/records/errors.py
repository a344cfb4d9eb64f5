"""What reading records can end in, besides a refusal."""

from __future__ import annotations

from pathlib import Path

from corolla.errors import CorollaError, Fault

RESTORE = "Restore it from a copy of the run directory, or start the run again in a new run_dir"


class CorruptStateError(CorollaError):
    """A file that Corolla wrote whole is no longer whole.

    Args:
        where: The file, with the line in it where that is known.
        problem: What is wrong with it.
        remedy: What a person can do about it.
    """

    def __init__(self, where: Path | str, problem: str, remedy: str = RESTORE) -> None:
        self.faults = [Fault("file", str(where), f"is damaged: {problem}", remedy)]
        super().__init__(f"{where} is damaged: {problem}. {remedy}")
