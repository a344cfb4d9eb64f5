"""Cells of the matrix that are finished: ``gain_cells.jsonl``, so that a restart carries on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from corolla.errors import Fault
from corolla.records.errors import CorruptStateError
from corolla.records.json_lines import append_lines, read_lines
from corolla.types import ClientId

Start = Literal["supernet", "own"]
STARTS: tuple[Start, ...] = ("supernet", "own")

Key = tuple[Start, ClientId, ClientId]
"""Start, client i whose images are learned, client j whose architecture learns them."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of P under the settings it was measured with. Accuracies are of test images."""

    start: Start
    client: ClientId  # i
    architecture_of: ClientId  # j
    epochs: int
    lr: float
    accuracy: float  # after the last epoch
    best_accuracy: float  # of the best epoch, the start not counted
    best_epoch: int  # from 1; 0: nothing was trained
    cell_s: float

    @property
    def key(self) -> Key:
        """What tells it from others of the same settings."""
        return (self.start, self.client, self.architecture_of)


class CellFile:
    """The cells of one run, appended as whole lines; its writer holds the run's lock."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "gain_cells.jsonl"

    def append(self, cell: Cell) -> None:
        """Add a cell, durably."""
        append_lines(self.path, [asdict(cell)])

    def read(self) -> dict[Key, Cell]:
        """Return all cells. Raises: CorruptStateError naming file and line."""
        names = {field.name for field in fields(Cell)}
        cells = {}
        for number, row in enumerate(read_lines(self.path), start=1):
            if row.keys() != names:
                problem = f"it is no measured cell, its keys are {sorted(row)}"
                where = f"{self.path}, line {number}"
                raise CorruptStateError(where, problem, "Start again with --fresh")
            cell = Cell(**row)
            cells[cell.key] = cell
        return cells

    def remove(self) -> None:
        """Forget all cells."""
        self.path.unlink(missing_ok=True)


def setting_faults(cells: Iterable[Cell], path: Path, *, epochs: int, lr: float) -> list[Fault]:
    """Return a fault for each setting that is not the one the cells in ``path`` were measured with."""
    cells, faults = list(cells), []
    for key, asked in (("epochs", epochs), ("lr", lr)):
        others = sorted({getattr(cell, key) for cell in cells} - {asked})
        if others:
            text = " and ".join(str(value) for value in others)
            problem = f"the cells in {path} were measured with {key}={text}"
            remedy = f"Give --{key} {text}, or --fresh to start again"
            faults.append(Fault(key, asked, problem, remedy))
    return faults
