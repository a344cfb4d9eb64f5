"""An id that a run directory keeps, by which a service finds its run again."""

from __future__ import annotations

import secrets
from pathlib import Path

from corolla.records.atomic import write_text


def identity_of(run_dir: Path, service: str) -> str:
    """Return the directory's id for ``service``; the first call makes it."""
    file = run_dir / f".{service}_run"
    if not file.is_file():
        write_text(file, secrets.token_hex(8))
    return file.read_text().strip()
