"""Submits a run to a SuperLink and waits for its end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from corolla.errors import Fault, RefusedError
from corolla.records.flower_run import note_flower_run
from engines.base import LOG_NAME, run_failed
from engines.flower_cli import FlowerCallError, FlowerCli, RunStatus
from engines.project import stage, write_run_config

LOGGER = logging.getLogger(__name__)
LOOK_S = 0.25  # between looks at processes: a look costs about 0.1 ms
RETRY_S = 5.0  # after the log ended and the run has not
GIVE_UP_S = 300.0  # a SuperLink that does not answer for so long is taken for lost
LAST_WORDS_S = 3.0  # the log of a run that has ended comes within this time
WAITS_S = 60.0  # a run that has not begun after so long is looked into
HANGS_S = 300.0  # between two looks at a run that works: a call costs 0.8 s of CPU
PENDING = (
    "Flower run %d is still %s after %.0f s: nothing at the SuperLink starts its server part. Its helper "
    "`flower-superexec` died, or (with --isolation process) was never started. Start the SuperLink, or "
    "flower-superexec, again; with --database the run then begins by itself"
)
NO_NODE = (
    "Flower run %d waits: no SuperNode is connected. Start them; the log of each says why it does not "
    "connect (`flwr supernode list` shows who is registered and who is online)"
)
BUNDLE_SIGNS = ("FAB size", "fab-include", "fab-exclude", "project structure", "Flower App config")


def submit(
    cli: FlowerCli,
    *,
    root: Path,
    workspace: Path,
    run_config: dict[str, str],
    run_dir: Path,
) -> int:
    """Submit the app at ``root`` and return the run's id; ``workspace`` takes temporary files.

    Raises RefusedError if Flower does not accept the project as an app, RunFailedError for all else.
    """
    app = stage(root, workspace / "app", run_config.get("config", "{}"))
    write_run_config(workspace / "run.toml", run_config)
    try:
        run_id = cli.submit(app, run_config=workspace / "run.toml")
    except FlowerCallError as problem:
        if any(sign in str(problem) for sign in BUNDLE_SIGNS):
            raise RefusedError(_bundle_fault(root, str(problem))) from problem
        raise run_failed(f"The run could not be submitted. {problem}", run_dir=run_dir) from problem
    note_flower_run(run_dir, run_id)
    LOGGER.info("Flower run %d, log in %s", run_id, run_dir / LOG_NAME)
    return run_id


def wait_for_end(cli: FlowerCli, run_id: int, *, log: Path) -> RunStatus:
    """Append the run's log to ``log`` until the run ends; return how it ended.

    The status ``unknown`` (no answer for 5 minutes) is ours, all others Flower's. On KeyboardInterrupt
    the log's reader is stopped, the run is not.

    A reader that ends before the run, as when the SuperLink is started again, is started again too.
    """
    with log.open("ab") as head:
        head.write(f"Flower run {run_id}\n".encode())
    start, watch = log.stat().st_size, _Watch(cli, run_id)
    reader = cli.follow(run_id, log)
    silent_since: float | None = None
    try:
        while True:
            ended = reader.poll() is not None
            if not ended and not watch.is_due():
                time.sleep(LOOK_S)
                continue
            try:
                status = watch.look()
            except FlowerCallError as error:
                silent_since = silent_since or time.monotonic()
                LOGGER.warning("The SuperLink does not answer; asking again (%s)", error)
                if time.monotonic() - silent_since > GIVE_UP_S:
                    return RunStatus(status="unknown", details=str(error))
            else:
                silent_since = None
                if status.finished:
                    _wait_shortly(reader)
                    return status
            if ended:
                time.sleep(RETRY_S)
                # The log comes from its start again: what of it is here is not written twice.
                reader = cli.follow(run_id, log, skip=log.stat().st_size - start)
    finally:
        _end(reader)


class _Watch:
    """Asks now and then how a run stands, and says where it waits for something that will not come."""

    def __init__(self, cli: FlowerCli, run_id: int) -> None:
        self._cli, self._run_id = cli, run_id
        self._since = time.monotonic()
        self._next = self._since + WAITS_S

    def is_due(self) -> bool:
        """Return whether it is time to ask."""
        return time.monotonic() >= self._next

    def look(self) -> RunStatus:
        """Return how the run stands. Raises FlowerCallError."""
        due, self._next = self.is_due(), time.monotonic() + WAITS_S
        status = self._cli.status(self._run_id)
        if not due or status.finished:
            return status
        waited_s = time.monotonic() - self._since
        if status.status in ("pending", "starting"):
            LOGGER.warning(PENDING, self._run_id, status.status, waited_s)
        elif self._cli.online() == 0:
            LOGGER.warning(NO_NODE, self._run_id)
        else:
            # It works. From now on this is for a reader that hangs, as after a SuperLink's power cut.
            self._next += HANGS_S - WAITS_S
        return status


def _wait_shortly(reader: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the log of a run that has ended."""
    with suppress(subprocess.TimeoutExpired):
        reader.wait(LAST_WORDS_S)


def _end(reader: subprocess.Popen[bytes]) -> None:
    if reader.poll() is None:
        # Its whole group: a reader that skips is two processes.
        os.killpg(reader.pid, signal.SIGTERM)
        try:
            reader.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(reader.pid, signal.SIGKILL)
            reader.wait()


def _bundle_fault(root: Path, problem: str) -> Fault:
    return Fault(
        "engine.root",
        str(root),
        f"Flower does not accept the project as an app: {problem}",
        "Remove what is too large or misplaced below src, strategies, clients and conf.",
    )
