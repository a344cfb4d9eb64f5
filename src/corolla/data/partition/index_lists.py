"""Lists of positions per client, as other tools write them, without splits of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from corolla.data.dataset import Dataset
from corolla.data.partition.partitioner import Assignment, FractionPartitioner
from corolla.errors import Fault, RefusedError
from corolla.settings import settings

KEY = "partition.path"


def read_lists(path: Path) -> list[NDArray[np.int64]] | None:
    """Return each client's positions, in the file's order; None where it is not such a file.

    Three forms are known: ``[[0, 5], [1, 2]]``; ``{"a": [0, 5], "b": [1, 2]}``; and FLGo's ``data.json``,
    ``{"client_names": ["a", "b"], "a": {"data": [0, 5]}, ...}`` (https://github.com/WwZzz/FLGo-Bench).

    Raises:
        RefusedError: what should be a list of positions is something else.

    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None  # whoever reads our own form says why
    if isinstance(content, Mapping) and "format" not in content:
        names = content.get("client_names", list(content))
        missing = [name for name in names if name not in content]
        if missing:
            problem = f"names client {missing[0]}, but has no list for it"
            raise RefusedError(
                Fault(KEY, str(path), problem, "Give a file that has a list for every client")
            )
        rows = {str(name): content[name] for name in names}
    elif isinstance(content, Sequence) and not isinstance(content, str):
        rows = {str(place): row for place, row in enumerate(content)}
    else:
        return None
    return [_positions(path, name, row) for name, row in rows.items()]


def _positions(path: Path, client: str, row: Any) -> NDArray[np.int64]:
    listed = row.get("data") if isinstance(row, Mapping) else row
    if not isinstance(listed, list) or not all(type(place) is int for place in listed):
        problem = f"client {client} has no list of positions"
        remedy = 'Give [[0, 5, ...], ...], {"name": [0, 5, ...], ...} or FLGo\'s data.json'
        raise RefusedError(Fault(KEY, str(path), problem, remedy))
    return np.array(listed, np.int64)


@settings
class IndexLists(FractionPartitioner):
    """The clients' lists, of each of which fixed fractions are held out for validation and test."""

    name: ClassVar[str] = "file"

    path: str

    def assign(self, dataset: Dataset, clients: int, rng: np.random.Generator) -> Assignment:
        """Return the file's lists.

        Raises:
            RefusedError: another number of clients; positions outside the pool, or given twice.

        """
        lists = read_lists(Path(self.path)) or []
        if len(lists) != clients:
            problem = f"the partition file has {len(lists)} clients"
            raise RefusedError(Fault("clients", clients, problem, f"Set clients={len(lists)}"))
        together = np.concatenate(lists)
        pool = len(dataset.labels())
        outside = together[(together < 0) | (together >= pool)]
        places, times = np.unique(together, return_counts=True)
        if len(outside):
            problem = f"position {outside[0]} is outside 0..{pool - 1}"
            remedy = "Give the data set that the lists were made for, in its official order"
            raise RefusedError(Fault(KEY, self.path, problem, remedy))
        if (times > 1).any():
            problem = f"image {places[times > 1][0]} is given more than once"
            raise RefusedError(Fault(KEY, self.path, problem, "Clients' lists must be disjoint"))
        return Assignment([np.sort(positions) for positions in lists])
