"""One process per run directory, and one that launches it."""

from __future__ import annotations

import fcntl
import os
import platform
from pathlib import Path

from corolla.errors import Fault, RefusedError

LAUNCHING = ".launcher.lock"
"""Held from before the engine starts until it has ended, which is longer than the run itself."""


def holder(run_dir: Path) -> str | None:
    """Return who works on the run, or else launches it, as "pid 12 on HOST"; None where nobody does.

    Asked with a shared lock that is given back at once: a run that starts in that very moment is refused.
    """
    return _holder(run_dir / ".lock") or _holder(run_dir / LAUNCHING)


def is_held(lock: Path) -> bool:
    """Tell whether a process holds the lock on this file."""
    return _holder(lock) is not None


def _holder(lock: Path) -> str | None:
    try:
        with lock.open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        return None
    return None


def refused(run_dir: Path, problem: str, remedy: str) -> RefusedError:
    """Return the refusal of a run directory."""
    return RefusedError(Fault("run_dir", str(run_dir), problem, remedy))


class RunLock:
    """An advisory lock on a file in the run directory, held from construction to ``release``.

    The kernel drops it when the process dies, however that happens, so there are no stale locks.
    The file names the holder for the message only and stays behind: deleting it would let two
    processes lock two different files. Processes forked (not spawned) while it is held keep it
    until they end.

    Raises: RefusedError naming the process that holds it.
    """

    def __init__(self, run_dir: Path, name: str = ".lock") -> None:
        try:
            self._file = (run_dir / name).open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            problem = f"cannot be written to ({error.strerror})"
            remedy = "Ask its owner, or choose another run_dir"
            raise refused(run_dir, problem, remedy) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            remedy = "Wait for it to end, stop it, or choose another run_dir"
            raise refused(run_dir, f"in use by {holder}", remedy) from error
        except OSError as error:
            self._file.close()
            problem = f"its file system cannot lock files ({error.strerror})"
            raise refused(run_dir, problem, "Choose a run_dir on a local disk") from error
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()} on {platform.node()}\n")
        self._file.flush()

    def release(self) -> None:
        """Give the run directory free; a second call does nothing."""
        if not self._file.closed:
            self._file.truncate(0)
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
