"""Checkpoints of a run: the latest, and the best by validation.

Layout, below ``checkpoints/``::

    round-000012/state.safetensors   the arrays
    round-000012/state.json          header, round, meta, and which checkpoint is the best one
    latest, best                     files that hold the name of a directory

A checkpoint is written under a hidden name, forced to disk and renamed; then ``latest`` is
replaced, which is the one step that counts: before it the previous checkpoint is the latest, after
it the new one. Which checkpoint is best is read from the latest one, so both can never disagree;
the file ``best`` is written for people and other tools. What nothing points at any more is deleted
last.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import corolla
from corolla.errors import Fault, RefusedError
from corolla.records.atomic import sweep, with_temporary_directory, write_bytes
from corolla.records.errors import CorruptStateError
from corolla.records.json_files import read_json, write_json
from corolla.records.tensor_files import read_tensors, write_tensors
from corolla.state import State

FORMAT_VERSION = 1
"""Of the checkpoint's layout; raised when older releases could misread it."""

Which = Literal["latest", "best"]


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """What must agree before a checkpoint may be loaded into a strategy."""

    method: str
    space: str
    space_fingerprint: str  # of the space's dimensions and the supernet's tensors
    format_version: int = FORMAT_VERSION
    corolla_version: str = corolla.__version__  # for people; any release may read an older format


class Checkpoints:
    """The ``checkpoints/`` directory of one run; one writer at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def save(
        self, state: State, *, round: int, header: CheckpointHeader, best: bool = False
    ) -> None:
        """Write ``state`` as the latest checkpoint, and as the best one if ``best``.

        A crash anywhere leaves the previous checkpoint, or this one, loadable.
        Raises: OSError naming the file; TypeError naming what cannot be stored.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        sweep(self._root)
        former_best = None if best else self._name("best")
        name = self._free_name(round)
        best_name = name if best else former_best
        record = {**asdict(header), "round": round, "best": best_name, "meta": state.meta}

        def fill(directory: Path) -> None:
            write_tensors(directory / "state.safetensors", state.arrays)
            write_json(directory / "state.json", record, exact=True, indent=None)

        with_temporary_directory(self._root / name, fill)
        self._point("latest", name)
        if best_name is not None:
            self._point("best", best_name)
        for directory in self._root.glob("round-*"):
            if directory.name not in (name, best_name):
                shutil.rmtree(directory, ignore_errors=True)

    def load(self, which: Which, expected: CheckpointHeader) -> tuple[int, State]:
        """Return the round after which the state was saved, and the state.

        Raises: RefusedError when there is none, or it belongs to another method, space or a newer
        release; CorruptStateError naming the damaged file.
        """
        record, directory = self._record(which)
        found = _header(record, directory, expected.format_version)
        faults = _mismatches(found, expected, directory)
        if faults:
            raise RefusedError(faults)
        try:
            arrays, _ = read_tensors(directory / "state.safetensors")
            return int(record["round"]), State(arrays=arrays, meta=record["meta"])
        except (FileNotFoundError, KeyError) as error:
            raise CorruptStateError(f"{directory} is damaged: {error!r} is missing") from error

    def header(self, which: Which = "latest") -> CheckpointHeader:
        """Return the header of a checkpoint. Raises: as ``load``."""
        return _header(*self._record(which), FORMAT_VERSION)

    def round(self, which: Which = "latest") -> int | None:
        """Return the round of a checkpoint, None if there is none."""
        return None if self._name(which) is None else int(self._record(which)[0]["round"])

    def _record(self, which: Which) -> tuple[dict[str, Any], Path]:
        name = self._name(which)
        if name is None:
            raise RefusedError(
                Fault(
                    "checkpoint",
                    which,
                    f"{self._root.parent} holds no such checkpoint",
                    "Start the run again in a new run_dir"
                    if which == "latest"
                    else "A best checkpoint appears with the first evaluation round",
                )
            )
        directory = self._root / name
        try:
            return read_json(directory / "state.json"), directory
        except FileNotFoundError as error:
            raise CorruptStateError(f"{directory} is damaged: state.json is missing") from error

    def _name(self, which: Which) -> str | None:
        pointer = self._root / "latest"
        if not pointer.is_file():
            return None
        latest = pointer.read_text().strip()
        if not latest.startswith("round-") or "/" in latest:
            raise CorruptStateError(f"{pointer} is damaged: it says {latest[:80]!r}")
        if which == "latest":
            return latest
        try:
            best = read_json(self._root / latest / "state.json")["best"]
        except (FileNotFoundError, KeyError) as error:
            raise CorruptStateError(f"{self._root / latest} is damaged: {error!r}") from error
        return None if best is None else str(best)

    def _point(self, which: Which, name: str) -> None:
        pointer = self._root / which
        if not pointer.is_file() or pointer.read_text() != f"{name}\n":
            write_bytes(pointer, f"{name}\n".encode())

    def _free_name(self, round: int) -> str:
        """Return a name for this round; what a pointer leads to is never overwritten."""
        taken = {self._name("latest"), self._name("best")}
        name, again = f"round-{round:06d}", 1
        while name in taken:
            again += 1
            name = f"round-{round:06d}.{again}"
        return name  # may be taken by one that a crash left before the pointer was set


def _header(record: dict[str, Any], directory: Path, newest: int) -> CheckpointHeader:
    """Return the header; a format after ``newest`` is refused before its keys are looked at."""
    try:
        version = int(record["format_version"])
        if version > newest:
            raise RefusedError(_newer_format(record, directory, newest))
        return CheckpointHeader(**{key.name: record[key.name] for key in fields(CheckpointHeader)})
    except KeyError as error:
        raise CorruptStateError(f"{directory}/state.json is damaged: it lacks {error}") from error


def _newer_format(record: dict[str, Any], directory: Path, newest: int) -> Fault:
    writer = record.get("corolla_version", "of a newer release")
    return Fault(
        "checkpoint.format_version",
        record["format_version"],
        f"{directory} was written by Corolla {writer}; this is Corolla {corolla.__version__}, "
        f"which reads formats up to {newest}",
        "Install the release that wrote it, or start a new run_dir",
    )


def _mismatches(
    found: CheckpointHeader, expected: CheckpointHeader, directory: Path
) -> list[Fault]:
    remedies = {
        "method": f"Resume with method={found.method}, or start a new run_dir",
        "space": f"Resume with space={found.space}, or start a new run_dir",
        "space_fingerprint": "Restore the space's settings from that run's config.yaml, or start "
        "a new run_dir",
    }
    if found.space != expected.space:
        del remedies["space_fingerprint"]  # differs anyway; one fault says it all
    return [
        Fault(
            f"checkpoint.{key}",
            getattr(found, key),
            f"{directory} was saved with this {key}, but {getattr(expected, key)!r} is asked for",
            remedy,
        )
        for key, remedy in remedies.items()
        if getattr(found, key) != getattr(expected, key)
    ]
