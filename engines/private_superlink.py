"""A simulation SuperLink for one run: free port of the loopback interface, own Flower directory."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

import psutil

from engines.addresses import free_port
from engines.base import LOG_NAME, log_tail, run_failed
from engines.flower_cli import FlowerCli, flower_env, scripts, write_connection
from engines.guarded import Guarded, is_over

LOGGER = logging.getLogger(__name__)
CONNECTION = "corolla"
SIMULATION = "flwr-simulation"
START_S = 60.0  # for the SuperLink to answer, and then for the simulation process to appear
PORTS_TRIED = 3
ACTOR_DIED = b"ray.exceptions.ActorDiedError"


class PrivateSuperLink:
    """Context manager: the SuperLink runs inside, and nothing of it is left outside."""

    def __init__(self, *, run_dir: Path, env: dict[str, str]) -> None:
        """``env`` is added to the environment of the SuperLink and of all that it starts."""
        self._run_dir = run_dir
        self._log = run_dir / LOG_NAME
        # Inside the run directory, so that on a shared file system every node of a Ray cluster
        # finds the code of this very run under the same path.
        self.home = Path(tempfile.mkdtemp(prefix=".flower-", dir=run_dir))
        self._scratch = _scratch()
        self._env = flower_env(self.home) | {
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_TMPDIR": str(self._scratch),
            **env,
        }
        self._command: Guarded | None = None
        self._simulation: psutil.Process | None = None
        self._log_start = self._log_seen = self._log.stat().st_size if self._log.exists() else 0
        self._patience_ends = 0.0

    def __enter__(self) -> PrivateSuperLink:
        """Start it and wait until it answers. Raises RunFailedError."""
        try:
            for attempt in range(1, PORTS_TRIED + 1):
                if self._start(free_port()):
                    return self
                taken = any("in use" in line for line in log_tail(self._log))
                if not taken or attempt == PORTS_TRIED:
                    break
                LOGGER.warning("another program took the port first; trying the next one")
            raise run_failed("The SuperLink did not start.", run_dir=self._run_dir, log=self._log)
        except BaseException:
            self._clean_up()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it with all it started, and remove its files."""
        self._clean_up()

    def cli(self) -> FlowerCli:
        """Return Flower's command line for this SuperLink."""
        return FlowerCli(connection=CONNECTION, home=self.home)

    def gone(self) -> str | None:
        """Return what of a submitted run has died, or None while all is well."""
        if self._command is None or not self._command.running():
            return "the SuperLink ended unexpectedly"
        if self._simulation is None:
            self._simulation = self._command.find(SIMULATION)
            if self._simulation is None and time.monotonic() > self._patience_ends:
                return f"Flower started no {SIMULATION} within {START_S:.0f} s"
        elif is_over(self._simulation):
            return "the simulation process ended without a result; was it killed for memory?"
        if ACTOR_DIED in self._new_log():
            return (
                "a client process died (killed for memory, or its node was lost); Flower does not "
                "replace it and gives it most of the messages that follow"
            )
        return None

    def _new_log(self) -> bytes:
        """Return what came into the log since the last look, and the end of what was there."""
        with self._log.open("rb") as file:
            file.seek(max(self._log_seen - len(ACTOR_DIED), self._log_start))
            text = file.read()
            self._log_seen = file.tell()
        return text

    def _start(self, port: int) -> bool:
        """Start on ``port``; return whether it answers there before it ends or time is up."""
        write_connection(self.home, name=CONNECTION, address=f"127.0.0.1:{port}")
        command = [str(scripts() / "flower-superlink"), "--simulation", "--insecure"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--isolation", "subprocess"]
        command += ["--disable-runtime-dependency-installation"]
        self._command = Guarded(
            command,
            env=self._env,
            log=self._log,
            cwd=self._run_dir,
            remove=[self.home, self._scratch],
        )
        deadline = time.monotonic() + START_S
        self._patience_ends = deadline + START_S
        while time.monotonic() < deadline and self._command.running():
            # The port's owner is looked at first: another program may have got it in between.
            if self._command.listens(port) and _answers(port):
                return True
            time.sleep(0.1)
        return False

    def _clean_up(self) -> None:
        try:
            if self._command is not None:
                self._command.stop()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)
            shutil.rmtree(self._scratch, ignore_errors=True)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _scratch() -> Path:
    """Return a new directory for Ray's files; short: a socket's path may have 107 characters."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > 30 and os.name == "posix":
        base = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="corolla-", dir=base))
