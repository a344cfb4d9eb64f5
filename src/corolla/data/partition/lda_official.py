"""Label skew by Dirichlet draws; official test images stay test images, shared out as training images are.

The procedure is FederatedScope's ``lda`` with ``consistent_label_distribution``, as HAPFNAS's public code
uses it: every label's training images are shared among the clients by p ~ Dir(alpha), and of every
label's test images each client gets the same share. Departures: a client's validation images are taken
from its own share with the label proportions of that share (there a random tenth of the training part is
shared out by these proportions, which is the same but for rounding); rounding is Hamilton's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from corolla.data.dataset import Dataset, positions
from corolla.data.images import Indices
from corolla.data.partition.apportion import largest_remainder
from corolla.data.partition.dirichlet import deal, draw_by_label
from corolla.data.partition.partition import ClientIndices, Partition
from corolla.data.partition.partitioner import (
    LISTED,
    SPLIT_STREAM,
    partition_of,
)
from corolla.data.partition.stratified import split_sizes, stratified_split
from corolla.errors import Fault, RefusedError
from corolla.settings import Count, Fraction, Positive, settings
from corolla.types import client_seed, generator

Sizes = tuple[int, int, int]  # train, validation, test


@settings
class LdaOfficial:
    """Clients with different shares of the labels, tested on official test images with the same shares."""

    name: ClassVar[str] = "lda_official"

    alpha: Positive  # concentration; small ones give a client few labels, large ones approach iid
    validation: Fraction  # of each client's share of the training part
    max_draws: Count  # while a client has too few images
    min_train: Count  # images of a client
    min_validation: Count
    min_test: Count

    def split(
        self, dataset: Dataset, *, clients: int, seed: int, held_out: Indices = ()
    ) -> Partition:
        """Divide ``dataset`` without ``held_out`` among ``clients`` clients "0", "1", ...

        Raises:
            RefusedError: no official test part, test images among ``held_out``, or a
                client would be left without data.
        """
        if clients < 1:
            remedy = "Give the number of clients"
            raise RefusedError(Fault("clients", clients, "must be 1 or more", remedy))
        labels = dataset.labels()
        kept = positions(held_out, len(labels))
        official = self._official(dataset, kept)
        train = np.delete(np.arange(official), kept)
        test = np.arange(official, len(labels))
        if clients > len(train):
            problem = f"more clients than training images ({len(train)})"
            raise RefusedError(Fault("clients", clients, problem, "Ask for fewer clients"))
        rng = generator(seed, 0)
        of_train, of_test = self._counts(labels[train], labels[test], clients, rng)
        shares = zip(
            deal(train, labels[train], of_train, rng),
            deal(test, labels[test], of_test, rng),
            strict=True,
        )
        parts = {}
        for client, (own, tested) in enumerate(shares):
            learned = stratified_split(
                own,
                labels[own],
                validation=self.validation,
                test=0.0,
                rng=generator(seed, SPLIT_STREAM, client_seed(str(client))),
            )
            parts[str(client)] = ClientIndices(learned.train, learned.validation, np.sort(tested))
        left = [str(dataset.class_names[label]) for label in _unlearnable(of_train, labels[test])]
        note = f"nobody is tested on {', '.join(left[:LISTED])}: there are no training images"
        return partition_of(
            dataset,
            parts,
            seed=seed,
            settings=self.settings(),
            held_out=held_out,
            notes=(note,) if left else (),
        )

    def settings(self) -> dict[str, Any]:
        """Return the rule's name and settings, as they are written to ``partition.json``."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def _official(self, dataset: Dataset, held_out: NDArray[np.int64]) -> int:
        """Return how many images at the start of the pool are the training part; the rest is for testing."""
        official, pool = dataset.train_size(), len(dataset.labels())
        if official is None or not 0 < official < pool:
            lacking = "test" if official == pool else "training and test"
            problem = f"data set {dataset.name!r} has no official {lacking} part"
            if official == 0:
                problem = f"the pool of {dataset.name!r} has no training part"
            remedy = (
                "Use one that has, with all parts in dataset.parts (cifar10, cifar100, fashion_mnist, "
                "tiny_imagenet, a folder with train/ and test/), or partition=dirichlet"
            )
            raise RefusedError(Fault("partition", self.name, problem, remedy))
        tested = int((held_out >= official).sum())
        if tested:
            problem = (
                f"{tested} of the {len(held_out)} images held out for the server are test images"
            )
            remedy = "Set server_set.part=train, or use another server_set"
            raise RefusedError(Fault("partition", self.name, problem, remedy))
        return official

    def _counts(
        self,
        train: NDArray[np.int64],
        test: NDArray[np.int64],
        clients: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return images per client and label of both parts; the first draw that gives all enough.

        Args:
            train: labels of the training part.
            test: labels of the test part.
            clients: among so many.
            rng: of the draws.
        """
        classes = int(max(train.max(), test.max())) + 1
        supply, to_test = (np.bincount(part, minlength=classes) for part in (train, test))
        short: list[tuple[int, Sizes]] = []
        for _ in range(self.max_draws):
            given = draw_by_label(supply, clients, self.alpha, rng)
            tested = _alike(given, to_test, rng)
            sizes = [self._sizes(*row) for row in zip(given.sum(1), tested.sum(1), strict=True)]
            short = [(client, size) for client, size in enumerate(sizes) if self._is_short(size)]
            if not short:
                return given, tested
        raise self._too_few(short)

    def _sizes(self, train: int, test: int) -> Sizes:
        return *split_sizes(int(train), validation=self.validation, test=0.0)[:2], int(test)

    def _is_short(self, sizes: Sizes) -> bool:
        least = (self.min_train, self.min_validation, self.min_test)
        return any(size < bound for size, bound in zip(sizes, least, strict=True))

    def _too_few(self, short: Sequence[tuple[int, Sizes]]) -> RefusedError:
        named = ", ".join(
            "{} ({} train, {} validation, {} test)".format(client, *sizes)
            for client, sizes in short[:LISTED]
        )
        more = f" and {len(short) - LISTED} more" if len(short) > LISTED else ""
        problem = (
            f"no draw of {self.max_draws} gave every client {self.min_train} train, "
            f"{self.min_validation} validation and {self.min_test} test images; too few in the last: "
            f"client {named}{more}"
        )
        remedy = "Ask for fewer clients, a larger partition.alpha or partition.max_draws"
        return RefusedError(Fault("partition", self.name, problem, remedy))


def _alike(
    given: NDArray[np.int64], supply: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Share out ``supply`` of each label, (labels,), in the proportions of ``given``, (clients, labels)."""
    columns = []
    for held, count in zip(given.T, supply, strict=True):
        total = int(held.sum())
        # Who holds none of a label to learn from has no quota, and only fractions are rounded up
        quotas = held / max(1, total) * count
        shared = int(count) if total else 0
        columns.append(largest_remainder(quotas, shared, np.full(len(held), count), rng))
    return np.stack(columns, axis=1)


def _unlearnable(given: NDArray[np.int64], test: NDArray[np.int64]) -> list[int]:
    """Return the labels that are in the test part alone."""
    return [int(label) for label in np.unique(test) if not given[:, label].any()]
