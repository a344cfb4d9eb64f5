"""Who has which training images in the tables of others; every client is tested on official test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from corolla.data.dataset import Dataset
from corolla.data.partition.partition import ClientIndices, Partition
from corolla.data.partition.partitioner import partition_of

Positions = NDArray[np.int64]
_LEAST = 10  # images of every client, else the Dirichlet draw is repeated


def even(labels: Positions, clients: int, rng: np.random.Generator) -> list[Positions]:
    """Return an even share of the images for each client."""
    return np.array_split(rng.choice(len(labels), len(labels), replace=False), clients)


def dirichlet(
    labels: Positions, clients: int, rng: np.random.Generator, *, alpha: float
) -> list[Positions]:
    """Return shares by Dir(alpha), label by label; a client with an even share gets nothing more."""
    while True:
        owned: list[list[Positions]] = [[] for _ in range(clients)]
        sizes = np.zeros(clients, np.int64)
        for label in np.unique(labels):
            images = np.flatnonzero(labels == label)
            rng.shuffle(images)
            share = rng.dirichlet(np.full(clients, alpha)) * (sizes < len(labels) / clients)
            ends = (np.cumsum(share / share.sum()) * len(images)).astype(int)[:-1]
            for client, part in enumerate(np.split(images, ends)):
                owned[client].append(part)
                sizes[client] += len(part)
        if sizes.min() >= _LEAST:
            return [np.concatenate(parts) for parts in owned]


def few_labels(
    labels: Positions, clients: int, rng: np.random.Generator, *, each: int
) -> list[Positions]:
    """Return images of ``each`` labels per client, one in turn, others drawn; holders share evenly."""
    classes = int(labels.max()) + 1
    holders: list[list[int]] = [[] for _ in range(classes)]
    for client in range(clients):
        mine = [client % classes]
        while len(mine) < each:
            drawn = int(rng.choice(classes, 1)[0])
            if drawn not in mine:
                mine.append(drawn)
        for label in mine:
            holders[label].append(client)
    return _shared_out(labels, holders, clients, rng)


def drawn_labels(
    labels: Positions, clients: int, rng: np.random.Generator, *, each: int
) -> list[Positions]:
    """Return images of ``each`` labels per client, all drawn; holders share evenly."""
    classes = int(labels.max()) + 1
    drawn = [rng.choice(classes, each, replace=False).tolist() for _ in range(clients)]
    holders = [[c for c, mine in enumerate(drawn) if label in mine] for label in range(classes)]
    return _shared_out(labels, holders, clients, rng)


def _shared_out(
    labels: Positions, holders: Sequence[Sequence[int]], clients: int, rng: np.random.Generator
) -> list[Positions]:
    """Return each client's images, where ``holders`` are those of each label."""
    owned: list[list[Positions]] = [[] for _ in range(clients)]
    for label, held in enumerate(holders):
        images = np.flatnonzero(labels == label)
        rng.shuffle(images)
        for client, part in zip(held, np.array_split(images, max(1, len(held))), strict=False):
            owned[client].append(part)
    return [np.concatenate(parts) for parts in owned]


RULES: dict[str, Callable[[Positions, int, np.random.Generator], list[Positions]]] = {
    "iid": even,
    "dir05": lambda labels, clients, rng: dirichlet(labels, clients, rng, alpha=0.5),
    "2labels": lambda labels, clients, rng: few_labels(labels, clients, rng, each=2),
    "2labels_drawn": lambda labels, clients, rng: drawn_labels(labels, clients, rng, each=2),
    "5labels_drawn": lambda labels, clients, rng: drawn_labels(labels, clients, rng, each=5),
}


def with_official_test(
    dataset: Dataset, train: Sequence[Positions], *, seed: int, rule: str
) -> Partition:
    """Return the partition of these training images in which clients have equal shares of the test images.

    One training image of each client is its validation image: every client needs one.
    """
    first, pool = dataset.train_size(), len(dataset.labels())
    test = np.array_split(np.arange(first or 0, pool), len(train))
    clients = {
        str(client): ClientIndices(np.sort(mine[1:]), mine[:1], theirs)
        for client, (mine, theirs) in enumerate(zip(train, test, strict=True))
    }
    return partition_of(dataset, clients, seed=seed, settings={"name": rule}, held_out=())


def with_own_test(
    dataset: Dataset,
    owned: Sequence[Positions],
    *,
    share: float,
    rng: np.random.Generator,
    seed: int,
    rule: str,
) -> Partition:
    """Return the partition in which a ``share`` of each client's images is to train on, the rest to test.

    Which ones is drawn. One training image of each client is its validation image.
    """
    clients = {}
    for client, mine in enumerate(owned):
        images = rng.permutation(mine)
        train = images[: round(share * len(images))]
        test = images[len(train) :]
        clients[str(client)] = ClientIndices(np.sort(train[1:]), train[:1], np.sort(test))
    return partition_of(dataset, clients, seed=seed, settings={"name": rule}, held_out=())
