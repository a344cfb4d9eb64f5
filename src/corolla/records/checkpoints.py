"""Checkpoints of a run: those of the last two rounds, and the best by validation.

Layout, below ``checkpoints/``::

    round-000012/state.safetensors   the arrays
    round-000012/state.json          header, round, meta, and which checkpoint is the best one
    latest, best                     the name of a directory, for people; nothing reads them

A checkpoint is written under a hidden name, forced to disk and renamed, which is the one step that
counts: a directory that has its name is whole, and the one of the last round is the latest. The
one before it stays as it is, so that a run goes on from there when the latest one is damaged.
Which checkpoint is best is read from the latest one, so both can never disagree. What is needed no
more is deleted last.
"""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import corolla
from corolla.errors import Fault, RefusedError, refuse
from corolla.records.atomic import sweep, with_temporary_directory, write_text
from corolla.records.errors import CorruptStateError
from corolla.records.json_files import read_json
from corolla.records.seals import other_format, read_sealed, write_sealed
from corolla.records.tensor_files import read_tensors, write_tensors
from corolla.state import State

FORMAT_VERSION = 2
"""Of the checkpoint's layout; raised when older releases could misread it."""

Which = Literal["latest", "best"]

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"round-(\d+)(?:\.(\d+))?")  # .2: the round was saved again


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """What must agree before a checkpoint may be loaded into a strategy."""

    method: str
    space: str
    space_fingerprint: str  # of the space's dimensions and the supernet's tensors
    format_version: int = FORMAT_VERSION
    corolla_version: str = corolla.__version__  # for people; any release may read its format


class Checkpoints:
    """The ``checkpoints/`` directory of one run; one writer at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._current: tuple[str, str | None] | None = None  # where the run is, and its best

    def save(
        self, state: State, *, round: int, header: CheckpointHeader, best: bool = False
    ) -> None:
        """Write ``state`` as the latest checkpoint, and as the best one if ``best``.

        A crash anywhere leaves the previous checkpoint, or this one, loadable.
        Raises: OSError naming the file; TypeError naming what cannot be stored.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        sweep(self._root)
        former, former_best = self._place()
        name = self._free_name(round)
        best_name = name if best else former_best
        record = {**asdict(header), "round": round, "best": best_name, "meta": state.meta}

        def fill(directory: Path) -> None:
            write_tensors(directory / "state.safetensors", state.arrays)
            write_sealed(directory / "state.json", record, exact=True, indent=None)

        with_temporary_directory(self._root / name, fill)
        self._current = (name, best_name)
        self._point("latest", name)
        if best_name is not None:
            self._point("best", best_name)
        for other in self._names():
            if other not in (name, best_name, former, former_best):
                shutil.rmtree(self._root / other, ignore_errors=True)

    def load(self, which: Which, expected: CheckpointHeader) -> tuple[int, State]:
        """Return the round after which the state was saved, and the state.

        Raises: RefusedError when there is none, or it belongs to another method, space or
        release; CorruptStateError naming the damaged file.
        """
        return self._load(self._directory(which), expected)

    def load_to_resume(self, expected: CheckpointHeader) -> tuple[int, State] | None:
        """Return the latest checkpoint, or the one of the round before it if that is damaged.

        None when the run has none yet. What is saved next follows the one that was returned.

        Raises: as ``load``; RefusedError naming all damaged files when none is left.
        """
        faults: list[Fault] = []
        names = self._names()
        for name in names:
            if _round(name) < _round(names[0]) - 1:
                break
            directory = self._root / name
            try:
                checkpoint = self._load(directory, expected)
            except CorruptStateError as error:
                faults += error.faults
                continue
            for fault in faults:
                _LOG.warning(
                    "%s %s; going on after round %d", fault.value, fault.problem, checkpoint[0]
                )
            self._current = (name, _record(directory)["best"])
            return checkpoint
        refuse(faults)
        return None

    def header(self, which: Which = "latest") -> CheckpointHeader:
        """Return the header of a checkpoint. Raises: as ``load``."""
        directory = self._directory(which)
        return _header(_record(directory), directory)

    def round(self, which: Which = "latest") -> int | None:
        """Return the round of a checkpoint, whole or not; None if there is none."""
        if which == "best":
            best = self._place()[1]
            return None if best is None else _round(best)
        names = self._names()
        return _round(names[0]) if names else None

    def _load(self, directory: Path, expected: CheckpointHeader) -> tuple[int, State]:
        record = _record(directory)
        refuse(_mismatches(_header(record, directory), expected, directory))
        arrays, _ = read_tensors(directory / "state.safetensors")
        try:
            return int(record["round"]), State(arrays=arrays, meta=record["meta"])
        except KeyError as error:
            raise CorruptStateError(directory / "state.json", f"it lacks {error}") from error

    def _directory(self, which: Which) -> Path:
        names = self._names()
        name = (names[0] if names else None) if which == "latest" else self._place()[1]
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
        return self._root / name

    def _place(self) -> tuple[str | None, str | None]:
        """Return the checkpoint that the run is at, and the best one by it."""
        if self._current is None:
            names = self._names()
            if not names:
                return None, None
            self._current = (names[0], _record(self._root / names[0])["best"])
        return self._current

    def _names(self) -> list[str]:
        """Return the names of all checkpoints, the latest first."""
        names = [each.name for each in self._root.glob("round-*") if _NAME.fullmatch(each.name)]
        return sorted(names, key=_order, reverse=True)

    def _point(self, which: Which, name: str) -> None:
        pointer, text = self._root / which, f"{name}\n"
        if not pointer.is_file() or pointer.read_bytes() != text.encode():
            write_text(pointer, text)

    def _free_name(self, round: int) -> str:
        """Return a name for this round; what was written is never overwritten."""
        name, again = f"round-{round:06d}", 1
        while (self._root / name).exists():
            again += 1
            name = f"round-{round:06d}.{again}"
        return name


def _order(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 1)) if match else (-1, 0)


def _round(name: str) -> int:
    return _order(name)[0]


def _record(directory: Path) -> dict[str, Any]:
    """Return ``state.json``; one of another format is refused before anything else is looked at."""
    path = directory / "state.json"
    try:
        return read_sealed(path)
    except CorruptStateError:
        content = read_json(path)  # again, as another release may seal in another way
        version = content.get("format_version")
        if "crc32" not in content and isinstance(version, int) and version != FORMAT_VERSION:
            raise RefusedError(_other_format(content, directory)) from None
        raise


def _header(record: dict[str, Any], directory: Path) -> CheckpointHeader:
    if record.get("format_version") != FORMAT_VERSION:
        raise RefusedError(_other_format(record, directory))
    try:
        return CheckpointHeader(**{key.name: record[key.name] for key in fields(CheckpointHeader)})
    except KeyError as error:
        raise CorruptStateError(directory / "state.json", f"it lacks {error}") from error


def _other_format(record: dict[str, Any], directory: Path) -> Fault:
    key, writer = "format_version", record.get("corolla_version")
    return other_format(
        directory, f"checkpoint.{key}", record.get(key), FORMAT_VERSION, writer and str(writer)
    )


def _mismatches(
    saved: CheckpointHeader, expected: CheckpointHeader, directory: Path
) -> list[Fault]:
    remedies = {
        "method": f"Resume with method={saved.method}, or start a new run_dir",
        "space": f"Resume with space={saved.space}, or start a new run_dir",
        "space_fingerprint": "Restore the space's settings from that run's config.yaml, or start "
        "a new run_dir",
    }
    if saved.space != expected.space:
        del remedies["space_fingerprint"]  # differs anyway; one fault says it all
    return [
        Fault(
            f"checkpoint.{key}",
            getattr(saved, key),
            f"{directory} was saved with this {key}, but {getattr(expected, key)!r} is asked for",
            remedy,
        )
        for key, remedy in remedies.items()
        if getattr(saved, key) != getattr(expected, key)
    ]
