"""An engine's folder for sockets, keys and logs, and what killed runs have left of theirs."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from corolla.records.run_lock import RunLock, is_held

_LOG = logging.getLogger("corolla")
_PREFIX = "corolla-"
_LOCK = ".scratch.lock"  # no run directory has one
_YOUNG_S = 60.0  # it may not be locked yet


@contextmanager
def scratch_folder(base: Path | None = None) -> Iterator[str]:
    """Yield a new folder below ``base`` (default: where temporary files go), and remove it in the end.

    Folders that killed processes have left there go first.
    """
    base = Path(tempfile.gettempdir()) if base is None else base
    for lock in base.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(FileNotFoundError):  # another run was faster
            if time.time() - lock.stat().st_mtime < _YOUNG_S or is_held(lock):
                continue
            shutil.rmtree(lock.parent, ignore_errors=True)
            _LOG.info("removed %s, which a killed run had left", lock.parent)
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, dir=base, ignore_cleanup_errors=True) as folder,
        RunLock(Path(folder), _LOCK),
    ):
        yield folder
