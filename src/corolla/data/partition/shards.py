"""Few labels per client, by shards of label-sorted data.

McMahan, Moore, Ramage, Hampson & Agüera y Arcas, AISTATS 2017, section 3: data sorted by digit, cut
into 200 shards of 300, two for each of 100 clients.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from corolla.data.dataset import Dataset
from corolla.data.partition.partitioner import Assignment, FractionPartitioner
from corolla.errors import Fault, RefusedError
from corolla.settings import Count, settings


@settings
class Shards(FractionPartitioner):
    """Images sorted by label, cut into equal shards, and these dealt out at random."""

    name: ClassVar[str] = "shards"

    shards_per_client: Count  # hence about as many labels of each client

    def assign(self, dataset: Dataset, clients: int, rng: np.random.Generator) -> Assignment:
        """Return the images of ``shards_per_client`` random shards for each client."""
        labels = dataset.labels()
        number = clients * self.shards_per_client
        if number > len(labels):
            problem = f"{number} shards for {clients} clients, but only {len(labels)} images"
            remedy = "Lower it, or ask for fewer clients"
            key = "partition.shards_per_client"
            raise RefusedError(Fault(key, self.shards_per_client, problem, remedy))
        shuffled = rng.permutation(len(labels))
        by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
        shards = np.array_split(by_label, number)
        dealt = rng.permutation(number).reshape(clients, self.shards_per_client)
        return Assignment([np.concatenate([shards[s] for s in row]) for row in dealt])
