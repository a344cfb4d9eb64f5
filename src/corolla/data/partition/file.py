"""A partition that was drawn before, by Corolla or by another tool (lists of positions per client)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from corolla.data.dataset import Dataset
from corolla.data.images import Indices
from corolla.data.partition.index_lists import IndexLists, read_lists
from corolla.data.partition.partition import Partition
from corolla.data.partition.partitioner import LISTED
from corolla.errors import Fault, RefusedError, refuse
from corolla.settings import Fraction, settings


@settings
class File:
    """Read ``partition.json``, or lists of positions per client."""

    name: ClassVar[str] = "file"

    path: str | Path | None  # None is refused by `split`
    validation: Fraction = 0.2  # of each client's list; a partition.json has splits of its own
    test: Fraction = 0.2

    def split(
        self, dataset: Dataset, *, clients: int, seed: int, held_out: Indices = ()
    ) -> Partition:
        """Return the file's partition. ``seed`` divides lists; a partition.json holds its own.

        Raises:
            RefusedError: file missing or damaged, of another data set or number of clients, or with
                positions outside the pool, overlapping or empty splits, images of ``held_out``.
        """
        if self.path is None:
            remedy = "Set partition.path=RUN_DIR/partition.json"
            raise RefusedError(Fault("partition.path", None, "no file given", remedy))
        path = Path(self.path).expanduser().absolute()
        if read_lists(path) is not None:
            return self._listed(path, dataset, clients=clients, seed=seed, held_out=held_out)
        partition = Partition.load(path)
        faults = []

        def note(problem: str, remedy: str) -> None:
            faults.append(Fault("partition.path", str(path), problem, remedy))

        if partition.fingerprint != dataset.fingerprint():
            problem = f"was drawn for another data set ({partition.dataset}, fingerprint"
            problem += f" {partition.fingerprint}; this {dataset.name} has {dataset.fingerprint()})"
            note(problem, "Use the same files, or draw a partition for these")
        elif partition.class_names != tuple(dataset.class_names):
            note("names other classes", "Give dataset.classes as in the file")
        else:
            pool = len(dataset.labels())
            for client, indices in partition.clients.items():
                positions = indices.all()
                if len(positions) and not 0 <= positions.min() <= positions.max() < pool:
                    problem = f"gives client {client} positions outside 0..{pool - 1}"
                    note(problem, "Draw the partition again")
                if min(indices.sizes()) < 1:
                    sizes = "{} train, {} validation, {} test".format(*indices.sizes())
                    problem = f"leaves client {client} without data ({sizes})"
                    note(problem, "Every client needs images in each split")
        kept = np.sort(np.asarray(held_out, np.int64))
        given = [client for client, i in partition.clients.items() if np.isin(i.all(), kept).any()]
        if given:
            problem = f"gives clients {', '.join(given[:LISTED])} images held out for the server"
            remedy = (
                "Use the file of a run with the same server_set and seed, or server_set=dataset"
            )
            note(problem, remedy)
        if len(partition.clients) != clients:
            problem = f"the partition file has {len(partition.clients)} clients"
            remedy = f"Set clients={len(partition.clients)}"
            faults.append(Fault("clients", clients, problem, remedy))
        refuse(faults)
        return dataclasses.replace(partition, held_out=kept)

    def _listed(
        self, path: Path, dataset: Dataset, *, clients: int, seed: int, held_out: Indices
    ) -> Partition:
        """Return the lists, divided; the server's images cannot come out of them."""
        if len(held_out):
            problem = "lists of positions hold out no images for the server"
            raise RefusedError(
                Fault("partition.path", str(path), problem, "Set server_set=dataset")
            )
        rule = IndexLists(
            path=str(path),
            validation=self.validation,
            test=self.test,
            min_train=1,
            min_validation=1,
            min_test=1,
        )
        return rule.split(dataset, clients=clients, seed=seed)
