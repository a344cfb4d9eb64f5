"""Real clients: the run is submitted to a SuperLink that the user runs, and its SuperNodes train.

Nothing is started here but Flower's own command line. See docs/deployment.md.
"""

from __future__ import annotations

import logging
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from corolla.errors import Fault, RefusedError, gathered, is_number, nearest
from corolla.records.run_lock import RunLock
from engines.addresses import address_faults
from engines.base import LOG_NAME, run_failed
from engines.flower_cli import FlowerCallError, FlowerCli, RunStatus, write_connection
from engines.project import project_root
from engines.scratch import scratch_folder
from engines.submission import GIVE_UP_S, RETRY_S, submit, wait_for_end

LOGGER = logging.getLogger(__name__)
CONNECTION = "corolla"
SUMMARY = "summary.json"
MOST_LOSSES = 3  # of the server part, one after another without a finished round between them
Answer = TypeVar("Answer")


class SuperLinkEngine:
    """Submits to a SuperLink, known by a connection of the Flower configuration or by address."""

    def __init__(
        self,
        *,
        name: str | None,
        address: str | None,
        root_certificates: str | None,
        insecure: bool,
        server_runs: str | None,
        node_timeout_s: float,
        root: str | None,
    ) -> None:
        """Settings as in ``conf/engine/superlink.yaml``; ``server_runs`` is the launcher's."""
        self.name = "superlink"
        self._connection = name or ""
        self._address = address
        self._root_certificates = root_certificates
        self._insecure = insecure
        self._server_runs = server_runs
        self._node_timeout_s = node_timeout_s
        self._root = root

    def check(self) -> list[Fault]:
        """Return faults: connection or address, certificates, reachability, paths."""
        faults = self._which_faults()
        if self._server_runs is not None and not Path(self._server_runs).is_absolute():
            faults.append(
                Fault(
                    "engine.server_runs",
                    self._server_runs,
                    "is not an absolute path",
                    "Give the path at which the SuperLink's machine sees the runs' directory.",
                )
            )
        faults += self._timeout_faults()
        with gathered(faults):
            project_root(self._root)
        if not faults:
            faults = self._reach_faults()
        return faults

    def _timeout_faults(self) -> list[Fault]:
        value = self._node_timeout_s
        if is_number(value) and 1 <= value <= 10**8:
            return []
        return [Fault("engine.node_timeout_s", value, "must be 1 or more seconds", "Raise it.")]

    def run(self, *, config_yaml: str, run_dir: Path, launch: str) -> None:
        """Submit the run and wait for its end; see ``InlineEngine.run``. Ctrl-C stops the run.

        Where the server part is lost (its process, or the SuperLink that it lives by), it is submitted
        again and goes on after its last finished round.
        """
        run_dir = run_dir.resolve()
        run_config = {"config": config_yaml, "launch": launch}
        losses = submissions = 0
        with self._workspace() as (workspace, cli):
            while True:
                submissions += 1
                rounds = _rounds(run_dir)
                status = self._submit(cli, workspace / str(submissions), run_config, run_dir)
                if status.completed or (run_dir / SUMMARY).is_file():
                    return
                what = f"The run on the SuperLink ended as {status}"
                losses = 1 if _rounds(run_dir) > rounds else losses + 1
                if not _is_loss(status) or losses > MOST_LOSSES:
                    raise run_failed(what, run_dir=run_dir, log=run_dir / LOG_NAME)
                LOGGER.warning("%s. Its server part was lost: it goes on by itself", what)
                _wait_until_free(cli, run_dir)

    def _submit(
        self, cli: FlowerCli, workspace: Path, run_config: dict[str, str], run_dir: Path
    ) -> RunStatus:
        """Submit the run once; return how it ended."""
        run_id = submit(
            cli,
            root=project_root(self._root),
            workspace=workspace,
            run_config=run_config,
            run_dir=run_dir,
        )
        try:
            return wait_for_end(cli, run_id, log=run_dir / LOG_NAME)
        except BaseException:  # Ctrl-C above all: nobody would be left to look after the run
            _stop(cli, run_id)
            raise

    def status_of(self, run_id: int) -> RunStatus:
        """Return how a run that was submitted before stands. Raises: RefusedError."""
        return self._asked(lambda cli: cli.status(run_id))

    def stop_run(self, run_id: int) -> None:
        """Stop a run that was submitted before, unless it has ended. Raises: RefusedError."""
        if not self._asked(lambda cli: cli.status(run_id)).finished:
            self._asked(lambda cli: cli.stop(run_id))

    def _asked(self, question: Callable[[FlowerCli], Answer]) -> Answer:
        with self._workspace() as (_, cli):
            try:
                return question(cli)
            except FlowerCallError as problem:
                key = "engine.name" if self._address is None else "engine.address"
                value = self._connection if self._address is None else self._address
                remedy = "Start it, and see that this machine can reach its address and port"
                raise RefusedError(Fault(key, value, str(problem), remedy)) from problem

    @contextmanager
    def _workspace(self) -> Iterator[tuple[Path, FlowerCli]]:
        """Yield a temporary directory and Flower's command line for the SuperLink."""
        with scratch_folder() as folder:
            workspace = Path(folder)
            if self._address is None:
                yield workspace, FlowerCli(connection=self._connection, home=None)
                return
            certificates = Path(self._root_certificates) if self._root_certificates else None
            home = workspace / "flower"
            write_connection(
                home,
                name=CONNECTION,
                address=self._address,
                root_certificates=certificates.resolve() if certificates else None,
            )
            yield workspace, FlowerCli(connection=CONNECTION, home=home)

    def _which_faults(self) -> list[Fault]:
        if self._connection and self._address is not None:
            problem = f"names one SuperLink and engine.address={self._address} another"
            return [Fault("engine.name", self._connection, problem, "Leave one of them out.")]
        if self._address is not None:
            return self._address_faults()
        if self._connection:
            return self._connection_faults()
        return [
            Fault(
                "engine.name",
                None,
                "is not set and engine.address is not either",
                "Give a connection of your Flower configuration, or HOST:PORT.",
            )
        ]

    def _address_faults(self) -> list[Fault]:
        address = str(self._address)
        faults = address_faults("engine.address", address)
        certificates = self._root_certificates
        if self._insecure and certificates is not None:
            problem = "switches TLS off, but engine.root_certificates is for TLS"
            faults.append(Fault("engine.insecure", True, problem, "Leave one of them out."))
        elif not self._insecure and certificates is None:
            faults.append(
                Fault(
                    "engine.root_certificates",
                    None,
                    "is needed to verify the SuperLink",
                    "Give the CA's certificate file, or engine.insecure=true on a private network.",
                )
            )
        elif certificates is not None and not Path(certificates).is_file():
            faults.append(
                Fault(
                    "engine.root_certificates",
                    certificates,
                    "is no file",
                    "Give the certificate of the CA that signed the SuperLink's certificate.",
                )
            )
        return faults

    def _connection_faults(self) -> list[Fault]:
        home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")
        config = home / "config.toml"
        try:
            known = tomllib.loads(config.read_text(encoding="utf-8")).get("superlink", {})
        except OSError:
            known = {}
        except tomllib.TOMLDecodeError as problem:
            return [
                Fault(
                    "engine.name",
                    self._connection,
                    f"the Flower configuration {config} cannot be read: {problem}",
                    "Correct the file.",
                )
            ]
        connections = {key: value for key, value in known.items() if isinstance(value, dict)}
        if self._connection not in connections:
            names = nearest(self._connection, list(connections)) if connections else "None is there"
            return [
                Fault(
                    "engine.name",
                    self._connection,
                    f"is no SuperLink connection of the Flower configuration {config}",
                    f"{names}. Add [superlink.{self._connection}] with address and "
                    "root-certificates, or give engine.address.",
                )
            ]
        address = connections[self._connection].get("address")
        if address is None or str(address).startswith(":"):
            return [
                Fault(
                    "engine.name",
                    self._connection,
                    "is Flower's own local simulation, not a SuperLink",
                    "Use engine=ray for a simulation.",
                )
            ]
        return []

    def _reach_faults(self) -> list[Fault]:
        """Ask the SuperLink something: shows wrong certificates, missing login, old versions."""
        with self._workspace() as (_, cli):
            try:
                cli.reach()
            except FlowerCallError as problem:
                key = "engine.name" if self._address is None else "engine.address"
                value = self._connection if self._address is None else self._address
                remedy = (
                    "Is it running, reachable from here, and does its certificate carry this name?"
                )
                return [Fault(key, value, f"the SuperLink does not answer: {problem}", remedy)]
        return []


def _is_loss(status: RunStatus) -> bool:
    """Return whether the run's server part was lost, rather than that it failed or was stopped.

    What it raises itself, Flower begins with these words; an error 5xx there is the SuperLink's.
    """
    raised = status.details.startswith("ServerApp failed with exception")
    return status.status == "finished:failed" and (
        not raised or "Server error '5" in status.details
    )


def _rounds(run_dir: Path) -> int:
    """Return how many rounds are on record."""
    try:
        return (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _wait_until_free(cli: FlowerCli, run_dir: Path) -> None:
    """Return when the SuperLink answers and the lost server part has let go of the run directory."""
    end = time.monotonic() + GIVE_UP_S
    while True:
        try:
            cli.reach()
            with RunLock(run_dir):
                return
        except (FlowerCallError, RefusedError) as problem:
            if time.monotonic() > end:
                raise run_failed(str(problem), run_dir=run_dir, log=run_dir / LOG_NAME) from problem
            LOGGER.warning("waiting to carry on: %s", problem)
        time.sleep(RETRY_S)


def _stop(cli: FlowerCli, run_id: int) -> None:
    LOGGER.warning("stopping run %d; its server part ends within half a minute", run_id)
    try:
        cli.stop(run_id)
    except (FlowerCallError, KeyboardInterrupt) as problem:
        LOGGER.error("run %d may go on: %s. Stop it with `flwr stop %d`", run_id, problem, run_id)
