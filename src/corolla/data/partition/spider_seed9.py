"""SPIDER's partition: label skew by the Dirichlet draws of numpy's legacy generator.

Mushtaq, He, Ding & Avestimehr (SPIDER), TMLR, Fig. 4 and 5, "LDA distribution (Seed 9)"; the procedure
is FedML's, https://arxiv.org/abs/2007.13518. The classes' sizes alone fix the draws, so the 50,000
training images of CIFAR-10 or CIFAR-100, in any order, give the paper's client sizes (a test holds
them). It shares out each label as ``dirichlet`` does, but clients that hold their even share of the
pool already get nothing of the labels that follow.
Departures: the published code divides each client's images with the run's seed; here ``data_seed``
divides them too, so that runs of several seeds train and test on the same images. Draws are limited.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from corolla.data.dataset import Dataset
from corolla.data.images import Indices
from corolla.data.partition.apportion import largest_remainder
from corolla.data.partition.partition import ClientIndices, Partition
from corolla.data.partition.partitioner import LISTED, Assignment, FractionPartitioner
from corolla.data.partition.stratified import split_sizes
from corolla.errors import Fault, RefusedError, refuse
from corolla.settings import Count, Positive, settings
from corolla.types import ClientId

LARGEST_SEED = 2**32 - 1  # of numpy's legacy generator


@settings
class SpiderSeed9(FractionPartitioner):
    """Clients of about equal sizes with few labels each; the run's seed decides nothing."""

    name: ClassVar[str] = "spider_seed9"
    more_even: ClassVar[str] = ", a larger partition.alpha or partition.min_images"

    alpha: Positive  # concentration of the Dirichlet draws
    # of all draws: who holds which images, their splits and the choice of ``images``
    data_seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)]
    images: Count | None  # so many of the pool are shared out, each label in proportion; None: all
    min_images: Count  # the whole is drawn again until every client has as many
    max_draws: Count  # at most

    def split(
        self, dataset: Dataset, *, clients: int, seed: int, held_out: Indices = ()
    ) -> Partition:
        """Divide ``dataset``; ``seed`` is not used, ``data_seed`` is the one that is recorded."""
        return super().split(dataset, clients=clients, seed=self.data_seed, held_out=held_out)

    def assign(self, dataset: Dataset, clients: int, rng: np.random.Generator) -> Assignment:
        """Return each client's images; all of the pool, or of ``images``, are given away."""
        labels = dataset.labels()
        by_label = [np.flatnonzero(labels == k) for k in range(len(dataset.class_names))]
        pool = len(labels) if self.images is None else self.images
        self._refuse_small(pool, len(labels), clients)
        if self.images is not None:
            by_label = _stratified_sample(by_label, self.images, rng)
        legacy = np.random.RandomState(self.data_seed)  # one stream through all draws
        for _ in range(self.max_draws):
            drawn = _draw(by_label, clients, self.alpha, legacy)
            if drawn is not None and min(map(len, drawn)) >= self.min_images:
                return Assignment(drawn)
        problem = f"no draw of {self.max_draws} gave every client {self.min_images} images"
        if drawn is not None:
            short = [(c, len(images)) for c, images in enumerate(drawn)]
            short = [(c, count) for c, count in short if count < self.min_images]
            named = ", ".join(f"client {c} ({count})" for c, count in short[:LISTED])
            problem += f"; too few in the last: {named}"
        remedy = "Ask for fewer clients, a larger partition.alpha or partition.max_draws"
        raise RefusedError(Fault("partition", self.name, problem, remedy))

    def divide(
        self, images: NDArray[np.int64], labels: NDArray[np.int64], seed: int, client: ClientId
    ) -> ClientIndices:
        """Return the client's images, shuffled and cut: labels may differ from split to split."""
        train, validation, _ = split_sizes(len(images), validation=self.validation, test=self.test)
        shuffled = self.split_rng(seed, client).permutation(images)
        parts = np.split(shuffled, [train, train + validation])
        return ClientIndices(*(np.sort(part) for part in parts))

    def _refuse_small(self, pool: int, there: int, clients: int) -> None:
        faults = []
        if pool > there:
            remedy = "Give at most as many, or null for all"
            faults.append(Fault("partition.images", pool, f"the pool holds {there}", remedy))
        if clients * self.min_images > pool:
            problem = f"{clients} clients need {clients * self.min_images} images, of {pool}"
            remedy = "Lower it, or ask for fewer clients"
            faults.append(Fault("partition.min_images", self.min_images, problem, remedy))
        refuse(faults)


def _draw(
    by_label: list[NDArray[np.int64]], clients: int, alpha: float, legacy: np.random.RandomState
) -> list[NDArray[np.int64]] | None:
    """Return each client's images; None where all shares of a label fell to full clients.

    The order of the calls to ``legacy`` is the published one: per label a shuffle, then a draw.
    """
    even = sum(map(len, by_label)) / clients
    shares: list[list[NDArray[np.int64]]] = [[] for _ in range(clients)]
    held = np.zeros(clients, np.int64)
    for images in by_label:
        shuffled = images.copy()
        legacy.shuffle(shuffled)
        share = np.where(held < even, legacy.dirichlet(np.repeat(alpha, clients)), 0.0)
        if not share.sum() > 0:  # also nan: draws of a tiny alpha may all underflow
            return None
        bounds = (np.cumsum(share / share.sum()) * len(images)).astype(np.int64)[:-1]
        for client, part in enumerate(np.split(shuffled, bounds)):
            shares[client].append(part)
            held[client] += len(part)
    return [np.concatenate(share) for share in shares]


def _stratified_sample(
    by_label: list[NDArray[np.int64]], images: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return ``images`` of the images, ascending, each label in proportion to how often it is."""
    supply = np.array([len(each) for each in by_label], np.int64)
    wanted = largest_remainder(supply * (images / supply.sum()), images, supply, rng)
    return [
        np.sort(rng.permutation(each)[:count]) for each, count in zip(by_label, wanted, strict=True)
    ]
