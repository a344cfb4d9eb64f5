"""Processes that a test starts, and all that comes out of them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil


class Started:
    """A command that was started; its output is appended to ``log``."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path
    ) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Return whether the command still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ask the command to end, then end it and all that it started."""
        family = [psutil.Process(self._process.pid)] if self.running() else []
        family += [child for process in family for child in process.children(recursive=True)]
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(4)
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait(10)
        psutil.wait_procs(family, timeout=10)


def is_over(process: psutil.Process) -> bool:
    """Return whether the process has ended; a zombie, which nobody waited for, has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
