"""What every partition rule shares: fractions, least sizes, refusals; a rule adds ``assign``."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from corolla.data.dataset import Dataset
from corolla.data.images import Indices
from corolla.data.partition.partition import SPLITS, ClientIndices, Partition
from corolla.data.partition.stratified import split_sizes, stratified_split
from corolla.data.remainder import Remainder
from corolla.errors import Fault, RefusedError
from corolla.settings import Count, Fraction, settings
from corolla.types import ClientId, client_seed, generator

log = logging.getLogger(__name__)

LISTED = 20  # clients named one by one in an error; the rest is counted
SPLIT_STREAM = 1  # second entry of the seeds that divide a client's images


class Partitioner(Protocol):
    """A rule that divides a data set. Classes are the ``_target_`` of ``conf/partition/*.yaml``."""

    def split(
        self, dataset: Dataset, *, clients: int, seed: int, held_out: Indices = ()
    ) -> Partition:
        """Divide ``dataset``; the result depends on the arguments and settings only.

        Args:
            dataset: whose images are divided; the partition holds positions in it.
            clients: among so many.
            seed: of all draws.
            held_out: positions of images that no client gets.

        Raises:
            RefusedError: a client would be left without data.
        """
        ...


@dataclass(frozen=True)
class Assignment:
    """Which images each client gets, before they are split.

    Args:
        images: per client, positions in the pool.
        sites: per client, its site's name, if clients are sites.
        notes: what could not be met exactly.
    """

    images: Sequence[NDArray[np.int64]]
    sites: Sequence[str] | None = None
    notes: tuple[str, ...] = ()


@settings
class FractionPartitioner(ABC):
    """A rule that gives each client images, of which fixed fractions are held out."""

    name: ClassVar[str]
    more_even: ClassVar[str] = ""  # what else gives every client enough images, for error messages

    validation: Fraction  # of each client's images
    test: Fraction  # of each client's images; the two sum to less than 1
    min_train: Count  # images of a client
    min_validation: Count
    min_test: Count

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            fractions = {"validation": self.validation, "test": self.test}
            remedy = "Lower partition.validation or partition.test: together they must be below 1"
            raise RefusedError(
                Fault("validation + test", fractions, "leave nothing to train on", remedy)
            )

    @abstractmethod
    def assign(self, dataset: Dataset, clients: int, rng: np.random.Generator) -> Assignment:
        """Return the images of each of ``clients`` clients, disjoint."""

    def split(
        self, dataset: Dataset, *, clients: int, seed: int, held_out: Indices = ()
    ) -> Partition:
        """Divide ``dataset`` without ``held_out`` among ``clients`` clients "0", "1", ...

        Raises:
            RefusedError: a client would be left without data.
        """
        if clients < 1:
            remedy = "Give the number of clients"
            raise RefusedError(Fault("clients", clients, "must be 1 or more", remedy))
        rest = Remainder(dataset, held_out) if len(held_out) else None
        pool: Dataset = dataset if rest is None else rest
        labels = pool.labels()
        if clients > len(labels):
            problem = f"more clients than images ({len(labels)})"
            raise RefusedError(Fault("clients", clients, problem, "Ask for fewer clients"))
        assignment = self.assign(pool, clients, generator(seed, 0))
        ids = [str(client) for client in range(len(assignment.images))]
        self._refuse_short([len(images) for images in assignment.images])
        parts = {
            client: self.divide(images, labels, seed, client)
            for client, images in zip(ids, assignment.images, strict=True)
        }
        if rest is not None:
            parts = {client: _in_whole(part, rest) for client, part in parts.items()}
        sites = assignment.sites
        return partition_of(
            dataset,
            parts,
            seed=seed,
            settings=self.settings(),
            held_out=held_out,
            sites=None if sites is None else dict(zip(ids, sites, strict=True)),
            notes=assignment.notes,
        )

    def settings(self) -> dict[str, Any]:
        """Return the rule's name and settings, as they are written to ``partition.json``."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def is_short(self, images: int) -> bool:
        """Return whether a client with this many images would have too few in some split."""
        sizes = split_sizes(images, validation=self.validation, test=self.test)
        least = (self.min_train, self.min_validation, self.min_test)
        return any(size < bound for size, bound in zip(sizes, least, strict=True))

    def divide(
        self, images: NDArray[np.int64], labels: NDArray[np.int64], seed: int, client: ClientId
    ) -> ClientIndices:
        """Return the client's images in three splits of ``split_sizes``, alike in their labels.

        Args:
            images: the client's positions in the pool.
            labels: of the whole pool.
            seed: that the partition is drawn with.
            client: whose images they are.
        """
        return stratified_split(
            images,
            labels[images],
            validation=self.validation,
            test=self.test,
            rng=self.split_rng(seed, client),
        )

    @staticmethod
    def split_rng(seed: int, client: ClientId) -> np.random.Generator:
        """Return what divides the client's images, whatever the other clients hold."""
        return generator(seed, SPLIT_STREAM, client_seed(client))

    def _refuse_short(self, images: Sequence[int]) -> None:
        short = [client for client, count in enumerate(images) if self.is_short(count)]
        if not short:
            return
        named = []
        for client in short[:LISTED]:
            sizes = split_sizes(images[client], validation=self.validation, test=self.test)
            named.append("{} ({} train, {} validation, {} test)".format(client, *sizes))
        more = f" and {len(short) - LISTED} more" if len(short) > LISTED else ""
        least = f"{self.min_train} train, {self.min_validation} validation, {self.min_test} test"
        problem = f"too few images for client {', '.join(named)}{more}; need {least}"
        remedy = f"Ask for fewer clients{self.more_even}, or other fractions or min_* in partition"
        raise RefusedError(Fault("partition", self.name, problem, remedy))


def partition_of(
    dataset: Dataset,
    clients: Mapping[ClientId, ClientIndices],
    *,
    seed: int,
    settings: Mapping[str, Any],
    held_out: Indices,
    sites: Mapping[ClientId, str] | None = None,
    notes: tuple[str, ...] = (),
) -> Partition:
    """Return the partition that gives ``clients`` these images, and warn of its ``notes``.

    Args:
        dataset: what the positions are in.
        clients: positions of each client's images.
        seed: that they were drawn with.
        settings: the rule's name and settings.
        held_out: positions of the server's images, in any order.
        sites: of each client, if clients are sites.
        notes: what could not be met exactly.
    """
    for note in notes:
        log.warning("partition %s: %s", settings["name"], note)
    partition = Partition(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint(),
        seed=seed,
        partitioner=settings,
        class_names=tuple(dataset.class_names),
        clients=clients,
        sites=sites,
        notes=notes,
        held_out=np.sort(np.asarray(held_out, np.int64)),
    )
    counts = partition.label_counts(dataset.labels(), len(dataset.class_names))
    listed = {
        client: {split: count.tolist() for split, count in splits.items()}
        for client, splits in counts.items()
    }
    return dataclasses.replace(partition, counts=listed)


def _in_whole(part: ClientIndices, rest: Remainder) -> ClientIndices:
    """Return positions in the remainder as positions in the whole data set."""
    return ClientIndices(*(rest.in_whole(getattr(part, split)) for split in SPLITS))
