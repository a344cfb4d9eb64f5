"""Label skew by Dirichlet draws, in the two forms that papers use.

By label (Yurochkin et al., ICML 2019, https://arxiv.org/abs/1905.12022): every label's images are
shared among the clients by p ~ Dir(alpha), so clients also differ in size. Balanced (Hsu, Qi &
Brown, 2019, https://arxiv.org/abs/1909.06335; also PerFedRLNAS): every client draws its own label
distribution q ~ Dir(alpha) and gets the same number of images. Departure from PerFedRLNAS's code,
where clients may hold the same images: none is given twice.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from corolla.data.dataset import Dataset
from corolla.data.partition.apportion import fit_to_supply
from corolla.data.partition.partitioner import Assignment, FractionPartitioner
from corolla.errors import Fault, RefusedError
from corolla.settings import Count, Positive, settings


def draw_by_label(
    supply: NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Share out each label's images by p ~ Dir(alpha).

    Args:
        supply: images per label, (labels,).
        clients: among so many.
        alpha: concentration.
        rng: of the draws.

    Returns:
        Images per client and label, int64 (clients, labels); columns sum to ``supply``.
    """
    share = rng.dirichlet(np.full(clients, alpha), size=len(supply))
    bounds = np.floor(np.cumsum(share, axis=1) * supply[:, np.newaxis])
    bounds[:, -1] = supply  # a sum of 0.999... would lose the last image
    given: NDArray[np.int64] = np.diff(bounds, axis=1, prepend=0).astype(np.int64).T
    return given


def deal(
    images: NDArray[np.int64],
    labels: NDArray[np.int64],
    given: NDArray[np.int64],
    rng: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Return each client's images, drawn label by label.

    Args:
        images: positions, (n,).
        labels: of these, (n,).
        given: images per client and label, (clients, labels); columns sum to what is there at most.
        rng: of the draws.
    """
    shares: list[list[NDArray[np.int64]]] = [[] for _ in given]
    for label, counts in enumerate(given.T):
        shuffled = rng.permutation(images[labels == label])
        bounds = np.cumsum(counts)
        for share, start, stop in zip(shares, bounds - counts, bounds, strict=True):
            share.append(shuffled[start:stop])
    return [np.concatenate(share) for share in shares]


@settings
class Dirichlet(FractionPartitioner):
    """Clients with different shares of the labels."""

    name: ClassVar[str] = "dirichlet"
    more_even: ClassVar[str] = ", a larger partition.alpha, partition.balanced=true"

    alpha: Positive  # concentration; small ones give a client few labels, large ones approach iid
    balanced: bool  # every client gets the same number of images
    images_per_client: Count | None  # that number, if balanced; None divides the whole pool
    max_draws: Count  # while a client has too few images, if not balanced

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.images_per_client
        if size is not None and not self.balanced:
            remedy = "Set partition.balanced=true, or leave it null"
            problem = (
                "is for clients of equal sizes, and partition.balanced=false draws their sizes"
            )
            raise RefusedError(Fault("images_per_client", size, problem, remedy))

    def assign(self, dataset: Dataset, clients: int, rng: np.random.Generator) -> Assignment:
        """Return each client's images; in the unbalanced form all of the pool is given away."""
        labels = dataset.labels()
        supply = np.bincount(labels)
        notes: tuple[str, ...] = ()
        if self.balanced:
            given, notes = self._balanced(supply, clients, rng)
        else:
            given = self._by_label(supply, clients, rng)
        return Assignment(deal(np.arange(len(labels)), labels, given, rng), notes=notes)

    def _by_label(
        self, supply: NDArray[np.int64], clients: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return images per client and label; of ``max_draws`` draws the first that will do."""
        best, fewest = None, clients + 1
        for _ in range(self.max_draws):
            given = draw_by_label(supply, clients, self.alpha, rng)
            short = sum(self.is_short(int(size)) for size in given.sum(1))
            if short < fewest:
                best, fewest = given, short
            if short == 0:
                break
        if best is None:
            raise ValueError("max_draws must be at least 1")
        return best

    def _balanced(
        self, supply: NDArray[np.int64], clients: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Return images per client and label, every client with as many, and what was not met."""
        images = int(supply.sum())
        size = images // clients if self.images_per_client is None else self.images_per_client
        if size * clients > images:
            problem = f"{clients} clients need {size * clients} images, but there are {images}"
            remedy = f"At most {images // clients}, or ask for fewer clients"
            raise RefusedError(Fault("partition.images_per_client", size, problem, remedy))
        present = supply > 0
        wanted = np.zeros((clients, len(supply)))
        wanted[:, present] = rng.dirichlet(np.full(present.sum(), self.alpha), size=clients)
        given = fit_to_supply(wanted, size, supply, rng)
        moved = np.abs(given / size - wanted).sum(1) / 2  # total variation distance
        if not (wanted.sum(0) * size > supply).any():
            return given, ()
        note = (
            "labels ran short: clients' label distributions differ from the drawn ones by a total "
            f"variation of {moved.mean():.3f} on average, {moved.max():.3f} at most"
        )
        return given, (note,)
