"""What a run leaves behind: the files that people, reports and resumed runs read.

::

    environment.json  partition.json  clients.json  config.yaml
    run.log  metrics.jsonl  clients.jsonl  summary.json
    checkpoints/   see checkpoints.py
    clients/<id>/architecture.json, model.safetensors
    state/<id>/    what simulated clients keep between rounds, see client_store.py
    tensorboard/   events

Every file is replaced whole or appended to by whole lines, and forced to disk before a call
returns. What is read back carries a checksum (seals.py). ``config.yaml`` is written after all else
that a run begins with: it makes the directory a run directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from corolla.errors import Fault, RefusedError, nearest
from corolla.records.atomic import is_temporary, sweep, write_text
from corolla.records.checkpoints import CheckpointHeader, Checkpoints
from corolla.records.client_models import load_model, model_directory, save_model
from corolla.records.client_names import client_of
from corolla.records.client_store import PRIVATE, ClientStore
from corolla.records.errors import CorruptStateError
from corolla.records.event_mirror import EventMirror
from corolla.records.json_files import numeric_leaves
from corolla.records.json_lines import append_lines, keep_lines, read_lines
from corolla.records.run_lock import RunLock, refused
from corolla.records.run_log import logging_to
from corolla.records.seals import read_config, read_sealed, sealed_config, write_sealed
from corolla.records.sweep import Sweep, is_sweep
from corolla.state import State
from corolla.trackers import Guarded, Start, Tracker
from corolla.types import Arrays, ClientId, client_order

_BEGINNING = (".lock", "environment.json", "partition.json", "clients.json")
"""What may be there before ``config.yaml``."""


class RunDirectory:
    """One run's directory; make one with ``create`` or ``open``.

    Reading needs no lock and may go on while the run does. Whoever writes holds ``lock()``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._lock: RunLock | None = None
        self._mirror: EventMirror | None = None
        self._tracker: Guarded | None = None

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        config_yaml: str,
        environment: Mapping[str, Any],
        fill: Callable[[Path], None] = lambda path: None,
    ) -> RunDirectory:
        """Make a new run directory; one that exists must be empty and is otherwise left as it is.

        ``fill`` writes what else the run begins with (``partition.json``, ``clients.json``). What a
        start that was killed has left is cleared away.
        Raises: RefusedError when ``path`` is taken or cannot be made.
        """
        path = Path(path).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise _taken(path) from error
        except OSError as error:
            raise refused(path, f"cannot be made ({error.strerror})", "Choose another") from error
        if not _is_free(path):
            raise _taken(path)
        run = cls(path)
        with run.lock():
            if not _is_free(path):  # another start was faster
                raise _taken(path)
            sweep(path)
            for name in _BEGINNING[1:]:
                (path / name).unlink(missing_ok=True)
            run.write_environment(environment)
            fill(path)
            # last, as it is what makes this a run directory
            write_text(path / "config.yaml", sealed_config(config_yaml))
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """Return the run directory at ``path``. Raises: RefusedError when there is none."""
        path = Path(path).absolute()
        if not path.is_dir():
            raise refused(path, "no such directory", "Name the directory of an existing run")
        if not (path / "config.yaml").is_file():
            if is_sweep(path):
                names = ", ".join(job.name for job in Sweep.open(path).jobs)
                raise refused(path, "a sweep of several runs", f"Name one of its runs: {names}")
            remedy = "Restore it, or name the directory that a run printed when it started"
            if _is_free(path):
                remedy = (
                    "No run was started in it: start one with `corolla run`, there or elsewhere"
                )
            raise refused(path, "not a run directory: it has no config.yaml", remedy)
        return cls(path)

    def lock(self) -> RunLock:
        """Take the directory for this process, until the result is released or the process ends.

        To be used with ``with``, or by itself. Raises: RefusedError naming the process that has it.
        """
        self._lock = RunLock(self.path)  # kept: a lock nobody refers to would be closed
        return self._lock

    def logging(self) -> AbstractContextManager[None]:
        """Append log messages to ``run.log`` while the block runs."""
        return logging_to(self.path / "run.log")

    @contextmanager
    def tensorboard(self, *, resumed_after: int | None = None) -> Iterator[EventMirror]:
        """Mirror the numbers of ``append_round`` to ``tensorboard/`` while the block runs."""
        with closing(EventMirror(self.path / "tensorboard", resumed_after=resumed_after)) as mirror:
            self._mirror = mirror
            try:
                yield mirror
            finally:
                self._mirror = None

    @contextmanager
    def tracked(self, tracker: Tracker, start: Start) -> Iterator[None]:
        """Tell ``tracker`` of the rounds and the summary that are written while the block runs."""
        self._tracker = Guarded(tracker)
        self._tracker.start(start)
        try:
            yield
        finally:
            summary = self.summary() if self.finished else {}
            numbers = numeric_leaves(summary, skip=frozenset({"per_client"}))
            self._tracker.finish(numbers, complete=self.finished)
            self._tracker = None

    def sweep(self) -> None:
        """Delete what killed writers have left; the caller holds the lock."""
        for directory in (self.path, *(self.path / name for name in ("checkpoints", "clients"))):
            sweep(directory)
        for directory in (self.path / "state").glob("*"):
            sweep(directory)

    # -- metrics ---------------------------------------------------------------------------------

    def append_round(self, metrics: Mapping[str, Any]) -> None:
        """Append the line of one round to ``metrics.jsonl``; NaN and infinities become null."""
        append_lines(self.path / "metrics.jsonl", [_with_round(metrics)])
        if self._mirror is not None:
            self._mirror.write(metrics)
        if self._tracker is not None:
            numbers = numeric_leaves(metrics, skip=frozenset({"round"}))
            self._tracker.log(int(metrics["round"]), numbers)

    def append_clients(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one line per client of a round to ``clients.jsonl``, all in one write."""
        append_lines(self.path / "clients.jsonl", [_with_round(row) for row in rows])

    def truncate_after(self, round: int) -> None:
        """Drop the lines of rounds after ``round``, which a resumed run will write again."""
        for name in ("metrics.jsonl", "clients.jsonl"):
            keep_lines(self.path / name, lambda row: has_round(row) and row["round"] <= round)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rounds so far. Raises: CorruptStateError with file and line."""
        return _with_rounds(self.path / "metrics.jsonl")

    def clients(self) -> list[dict[str, Any]]:
        """Return the lines of all clients so far. Raises: CorruptStateError with file and line."""
        return _with_rounds(self.path / "clients.jsonl")

    # -- documents -------------------------------------------------------------------------------

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, which says that the run is finished."""
        write_sealed(self.path / "summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """Return ``summary.json``.

        Raises: RefusedError when the run has not finished; CorruptStateError.
        """
        if not self.finished:
            remedy = f"Finish it with `corolla resume {self.path}`"
            raise refused(self.path, "the run has no summary.json: it is not finished", remedy)
        return read_sealed(self.path / "summary.json", remedy=self._finish_again("it"))

    @property
    def finished(self) -> bool:
        """Whether there is a summary, whole or not."""
        return (self.path / "summary.json").exists()

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``; see ``collect_environment``."""
        write_sealed(self.path / "environment.json", environment)

    def environment(self) -> dict[str, Any]:
        """Return ``environment.json``. Raises: CorruptStateError."""
        return read_sealed(self.path / "environment.json")

    def config_text(self) -> str:
        """Return the resolved configuration, as YAML. Raises: CorruptStateError."""
        return read_config(self.path / "config.yaml")

    # -- checkpoints and models ------------------------------------------------------------------

    def has_checkpoint(self) -> bool:
        """Return whether a checkpoint was saved."""
        return self.checkpoints.round() is not None

    @property
    def client_states(self) -> ClientStore:
        """What simulated clients keep between rounds."""
        return ClientStore(self.path / "state")

    @property
    def private_states(self) -> ClientStore:
        """Parts of the model that never leave simulated clients: what `clients.private_parts` keeps."""
        return self.client_states.apart(PRIVATE)

    def final_state(self, *, expected: CheckpointHeader) -> State:
        """Return the state after the last round that was recorded.

        Raises: as ``Checkpoints.load``; CorruptStateError when the last round's is not there.
        """
        round, state = self.checkpoints.load("latest", expected)
        last = max((row["round"] for row in self.metrics()), default=0)
        if round != last:
            problem = f"its newest checkpoint is of round {round}, metrics.jsonl ends with {last}"
            raise CorruptStateError(self.path / "checkpoints", problem)
        return state

    def save_client_model(
        self, client: ClientId, architecture: Mapping[str, Any], arrays: Arrays
    ) -> None:
        """Write a client's own model, replacing a former one.

        ``architecture`` is JSON-able; ``arrays`` is the standalone model's ``state_dict``.
        """
        target = model_directory(self.path, client)
        target.parent.mkdir(exist_ok=True)
        sweep(target.parent)
        save_model(target, architecture, arrays)

    def client_model(self, client: ClientId) -> tuple[dict[str, Any], Arrays]:
        """Return what ``save_client_model`` was given.

        Raises: RefusedError when there is no model of this client; CorruptStateError.
        """
        directory = model_directory(self.path, client)
        if not directory.is_dir():
            known = self.saved_clients()
            raise RefusedError(
                Fault(
                    "client",
                    client,
                    f"the run holds no model of this client: {directory} is not there",
                    nearest(client, known) if known else "The run has saved no client models yet",
                )
            )
        return load_model(directory, remedy=self._finish_again("summary.json"))

    def saved_clients(self) -> list[ClientId]:
        """Return the clients that have a model here, numbers first."""
        directories = [each for each in (self.path / "clients").glob("[!.]*") if each.is_dir()]
        return sorted((client_of(each.name) for each in directories), key=client_order)

    def _finish_again(self, delete: str) -> str:
        remedy = f"Delete {delete}; `corolla resume {self.path}` then evaluates the clients again"
        return f"{remedy} and writes it anew"


def has_round(row: Mapping[str, Any]) -> bool:
    """Return whether a line says which round it is of."""
    return isinstance(row.get("round"), int) and not isinstance(row["round"], bool)


def _with_rounds(path: Path) -> list[dict[str, Any]]:
    rows = read_lines(path)
    for number, row in enumerate(rows, start=1):
        if not has_round(row):
            raise CorruptStateError(f"{path}, line {number}", "it has no round")
    return rows


def _with_round(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if "round" not in row:
        raise ValueError(f"a line of metrics lacks 'round'; it has {sorted(row)}")
    return row


def _is_free(path: Path) -> bool:
    """Return whether a directory is empty, or holds only what a start that was killed has left."""
    entries = [each for each in path.iterdir() if not is_temporary(each.name)]
    begun = any(each.name == ".lock" for each in entries)
    return not entries if not begun else all(e.name in _BEGINNING and e.is_file() for e in entries)


def _taken(path: Path) -> RefusedError:
    remedy = f"Choose another, or continue it with `corolla resume {path}`"
    return refused(path, "exists already and is not empty", remedy)
