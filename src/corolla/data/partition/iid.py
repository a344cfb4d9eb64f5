"""Every client draws from the same distribution."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from corolla.data.dataset import Dataset
from corolla.data.partition.partitioner import Assignment, FractionPartitioner
from corolla.settings import settings


@settings
class Iid(FractionPartitioner):
    """All images in random order, dealt out evenly; sizes differ by at most one."""

    name: ClassVar[str] = "iid"

    def assign(self, dataset: Dataset, clients: int, rng: np.random.Generator) -> Assignment:
        """Return an even share of the shuffled pool for each client."""
        return Assignment(np.array_split(rng.permutation(len(dataset.labels())), clients))
