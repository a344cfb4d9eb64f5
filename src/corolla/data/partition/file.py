"""A partition that was drawn before, by Corolla or by another tool."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from corolla.data.dataset import Dataset
from corolla.data.images import Indices
from corolla.data.partition.partition import Partition
from corolla.data.partition.partitioner import LISTED
from corolla.errors import Fault, RefusedError


class File:
    """Read ``partition.json``.

    Args:
        path: the file; None is refused by ``split``.
    """

    name = "file"

    def __init__(self, *, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path).expanduser().absolute()

    def split(
        self, dataset: Dataset, *, clients: int, seed: int, held_out: Indices = ()
    ) -> Partition:
        """Return the file's partition; ``seed`` is not used, the file holds the one it came from.

        Raises:
            RefusedError: file missing or damaged, of another data set or number of clients, or with
                positions outside the pool, overlapping or empty splits, images of ``held_out``.
        """
        if self.path is None:
            remedy = "Set partition.path=RUN_DIR/partition.json"
            raise RefusedError(Fault("partition.path", None, "no file given", remedy))
        partition = Partition.load(self.path)
        faults = []

        def refuse(problem: str, remedy: str) -> None:
            faults.append(Fault("partition.path", str(self.path), problem, remedy))

        if partition.fingerprint != dataset.fingerprint():
            problem = f"was drawn for another data set ({partition.dataset}, fingerprint"
            problem += f" {partition.fingerprint}; this {dataset.name} has {dataset.fingerprint()})"
            refuse(problem, "Use the same files, or draw a partition for these")
        elif partition.class_names != tuple(dataset.class_names):
            refuse("names other classes", "Give dataset.classes as in the file")
        else:
            pool = len(dataset.labels())
            for client, indices in partition.clients.items():
                positions = indices.all()
                if len(positions) and not 0 <= positions.min() <= positions.max() < pool:
                    problem = f"gives client {client} positions outside 0..{pool - 1}"
                    refuse(problem, "Draw the partition again")
                if min(indices.sizes()) < 1:
                    sizes = "{} train, {} validation, {} test".format(*indices.sizes())
                    problem = f"leaves client {client} without data ({sizes})"
                    refuse(problem, "Every client needs images in each split")
        kept = np.sort(np.asarray(held_out, np.int64))
        given = [client for client, i in partition.clients.items() if np.isin(i.all(), kept).any()]
        if given:
            problem = f"gives clients {', '.join(given[:LISTED])} images held out for the server"
            remedy = (
                "Use the file of a run with the same server_set and seed, or server_set=dataset"
            )
            refuse(problem, remedy)
        if len(partition.clients) != clients:
            problem = f"the partition file has {len(partition.clients)} clients"
            remedy = f"Set clients={len(partition.clients)}"
            faults.append(Fault("clients", clients, problem, remedy))
        if faults:
            raise RefusedError(faults)
        return dataclasses.replace(partition, held_out=kept)
