"""Room on the disk, asked for before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from corolla.errors import Fault, RefusedError

_MIB = 2**20


def require_free_disk(path: Path, bytes_needed: int, *, key: str = "run_dir") -> None:
    """Refuse when the file system that ``path`` is (or would be) on has too little room.

    Raises: RefusedError naming ``key`` and ``path``, with what is free and what is needed in MiB.
    """
    place = path.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < bytes_needed:
        raise RefusedError(
            Fault(
                key,
                str(path),
                f"{free / _MIB:.0f} MiB are free, about {bytes_needed / _MIB:.0f} MiB are needed",
                f"Free some space, or choose another {key}",
            )
        )
