"""What a run leaves behind: the files that people, reports and resumed runs read.

::

    config.yaml  environment.json  run.log  metrics.jsonl  clients.jsonl  summary.json
    checkpoints/   see checkpoints.py
    clients/<id>/architecture.json, model.safetensors
    tensorboard/   events

Every file is replaced whole or appended to by whole lines, and forced to disk before a call
returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from corolla.errors import Fault, RefusedError, nearest
from corolla.records.atomic import sweep, write_text
from corolla.records.checkpoints import CheckpointHeader, Checkpoints, Which
from corolla.records.client_models import load_model, model_directory, save_model
from corolla.records.client_names import client_of
from corolla.records.event_mirror import EventMirror
from corolla.records.json_files import read_json, write_json
from corolla.records.json_lines import append_lines, keep_lines, read_lines
from corolla.records.run_lock import RunLock
from corolla.records.run_log import logging_to
from corolla.state import State
from corolla.types import Arrays, ClientId, client_order


class RunDirectory:
    """One run's directory; make one with ``create`` or ``open``.

    Reading needs no lock and may go on while the run does. Whoever writes holds ``lock()``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._lock: RunLock | None = None
        self._mirror: EventMirror | None = None

    @classmethod
    def create(
        cls, path: Path | str, *, config_yaml: str, environment: Mapping[str, Any]
    ) -> RunDirectory:
        """Make a new run directory; one that exists must be empty and is otherwise left as it is.

        Raises: RefusedError when ``path`` is taken or cannot be made.
        """
        path = Path(path).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            taken = any(path.iterdir())
            if not taken:
                (path / ".lock").touch(exist_ok=False)  # of two who come at once, one gets through
        except FileExistsError:
            taken = True
        except OSError as error:
            raise _refused(path, f"cannot be made ({error.strerror})", "Choose another") from error
        if taken:
            remedy = f"Choose another, or continue it with `corolla resume {path}`"
            raise _refused(path, "exists already and is not empty", remedy)
        run = cls(path)
        run.write_environment(environment)
        # last, as it is what makes this a run directory
        write_text(path / "config.yaml", config_yaml)
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """Return the run directory at ``path``. Raises: RefusedError when there is none."""
        path = Path(path).absolute()
        if not path.is_dir():
            raise _refused(path, "no such directory", "Name the directory of an existing run")
        if not (path / "config.yaml").is_file():
            remedy = "Name the directory that a run printed when it started"
            raise _refused(path, "not a run directory: it has no config.yaml", remedy)
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
        with EventMirror(self.path / "tensorboard", resumed_after=resumed_after) as mirror:
            self._mirror = mirror
            try:
                yield mirror
            finally:
                self._mirror = None

    # -- metrics ---------------------------------------------------------------------------------

    def append_round(self, metrics: Mapping[str, Any]) -> None:
        """Append the line of one round to ``metrics.jsonl``; NaN and infinities become null."""
        append_lines(self.path / "metrics.jsonl", [_with_round(metrics)])
        if self._mirror is not None:
            self._mirror.write(metrics)

    def append_clients(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one line per client of a round to ``clients.jsonl``, all in one write."""
        append_lines(self.path / "clients.jsonl", [_with_round(row) for row in rows])

    def truncate_after(self, round: int) -> None:
        """Drop the lines of rounds after ``round``, which a resumed run will write again."""
        for name in ("metrics.jsonl", "clients.jsonl"):
            keep_lines(self.path / name, lambda row: int(_with_round(row)["round"]) <= round)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rounds so far. Raises: CorruptStateError with file and line."""
        return read_lines(self.path / "metrics.jsonl")

    def clients(self) -> list[dict[str, Any]]:
        """Return the lines of all clients so far. Raises: CorruptStateError with file and line."""
        return read_lines(self.path / "clients.jsonl")

    # -- documents -------------------------------------------------------------------------------

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, which says that the run is finished."""
        write_json(self.path / "summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """Return ``summary.json``. Raises: RefusedError when the run has not finished."""
        if not self.finished:
            remedy = f"Finish it with `corolla resume {self.path}`"
            raise _refused(self.path, "the run has no summary.json: it is not finished", remedy)
        return read_json(self.path / "summary.json")

    @property
    def finished(self) -> bool:
        """Whether there is a summary."""
        return (self.path / "summary.json").is_file()

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``; see ``collect_environment``."""
        write_json(self.path / "environment.json", environment)

    def environment(self) -> dict[str, Any]:
        """Return ``environment.json``, nothing if it is missing."""
        path = self.path / "environment.json"
        return read_json(path) if path.is_file() else {}

    def config_text(self) -> str:
        """Return the resolved configuration, as YAML."""
        return (self.path / "config.yaml").read_text(encoding="utf-8")

    # -- checkpoints and models ------------------------------------------------------------------

    def save_checkpoint(
        self, state: State, *, round: int, header: CheckpointHeader, best: bool = False
    ) -> None:
        """Write the state after ``round``; see ``Checkpoints.save``."""
        self.checkpoints.save(state, round=round, header=header, best=best)

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return self.checkpoints.round() is not None

    def load_checkpoint(
        self, which: Which = "latest", *, expected: CheckpointHeader
    ) -> tuple[int, State]:
        """Return round and state of a checkpoint; see ``Checkpoints.load`` for what is refused."""
        return self.checkpoints.load(which, expected)

    def save_client_model(
        self, client: ClientId, architecture: Mapping[str, Any], arrays: Arrays
    ) -> None:
        """Write a client's own model, replacing a former one.

        ``architecture`` is JSON-able; ``arrays`` is the standalone model's ``state_dict``.
        """
        target = self._model_directory(client)
        target.parent.mkdir(exist_ok=True)
        sweep(target.parent)
        save_model(target, architecture, arrays)

    def client_model(self, client: ClientId) -> tuple[dict[str, Any], Arrays]:
        """Return what ``save_client_model`` was given.

        Raises: RefusedError when there is no model of this client; CorruptStateError.
        """
        directory = self._model_directory(client)
        if not directory.is_dir():
            known = self.saved_clients()
            raise RefusedError(
                Fault(
                    "client",
                    client,
                    f"{self.path} holds no model of this client",
                    nearest(client, known) if known else "The run has saved no client models yet",
                )
            )
        return load_model(directory)

    def saved_clients(self) -> list[ClientId]:
        """Return the clients that have a model here, numbers first."""
        directories = (self.path / "clients").glob("[!.]*")
        return sorted((client_of(each.name) for each in directories), key=client_order)

    def _model_directory(self, client: ClientId) -> Path:
        return model_directory(self.path, client)


def _with_round(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if "round" not in row:
        raise ValueError(f"a line of metrics lacks 'round'; it has {sorted(row)}")
    return row


def _refused(path: Path, problem: str, remedy: str) -> RefusedError:
    return RefusedError(Fault("run_dir", str(path), problem, remedy))
