"""Under which number a SuperLink knows the run of a directory: who stops it need not have started it."""

from __future__ import annotations

from pathlib import Path

from corolla.records.atomic import write_text

_NAME = ".flower-run"


def note_flower_run(run_dir: Path, run_id: int) -> None:
    """Write the number that Flower gave the run when it was last submitted."""
    write_text(run_dir / _NAME, f"{run_id}\n")


def flower_run(run_dir: Path) -> int | None:
    """Return the number; None where the run was never submitted to a SuperLink."""
    try:
        return int((run_dir / _NAME).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
