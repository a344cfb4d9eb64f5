"""The launcher's side of ``guard.py``: start a guarded command, look at it, stop it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import psutil

from engines import guard

STOP_S = guard.GRACE_S + 15.0


class Guarded:
    """A command that runs, with all its descendants, no longer than this object's ``stop``."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
        remove: Sequence[Path] = (),
    ) -> None:
        """Start ``command`` in ``cwd``; its output is appended to ``log``.

        The directories ``remove`` are removed when everything has ended, however that came.
        """
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, guard.__file__, *map(str, remove), guard.COMMAND_MARK, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,  # Ctrl-C in the terminal must reach the launcher only
            )

    @property
    def pid(self) -> int:
        """Return the guard's process id: all that was started descends from it."""
        return self._guard.pid

    def running(self) -> bool:
        """Return whether the command still runs."""
        return self._guard.poll() is None

    def find(self, command: str) -> psutil.Process | None:
        """Return the descendant whose command has this file name, if it is there."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if any(PurePath(part).name == command for part in process.cmdline()[:3]):
                        return process
        return None

    def listens(self, port: int) -> bool:
        """Return whether a descendant, and not some other program, listens on this TCP port."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.pid).children(recursive=True):
                with suppress(psutil.Error):
                    for socket in process.net_connections(kind="tcp"):
                        if socket.status == psutil.CONN_LISTEN and socket.laddr.port == port:
                            return True
        return False

    def stop(self) -> None:
        """Stop everything; returns when it is gone. A second Ctrl-C does not cut this short."""
        interrupted = False
        while True:
            try:
                self._stop()
                break
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            raise KeyboardInterrupt

    def _stop(self) -> None:
        if self._guard.stdin is not None:
            with suppress(OSError):
                self._guard.stdin.close()
        try:
            self._guard.wait(STOP_S)
        except subprocess.TimeoutExpired:  # the guard itself hangs: do its work from here
            with suppress(psutil.Error):
                family = psutil.Process(self.pid)
                for process in [*family.children(recursive=True), family]:
                    with suppress(psutil.Error):
                        process.kill()
            self._guard.wait(STOP_S)


def is_over(process: psutil.Process) -> bool:
    """Return whether the process has ended; a zombie, which Flower leaves behind, has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
