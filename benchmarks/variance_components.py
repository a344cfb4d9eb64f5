"""How much of clients' accuracies is architecture, client x architecture, noise; what a perfect choice gains.

A table is scores by client, architecture, training (another seed) and half of the client's test images,
(c, a, 2, 2). In the model

    score = client + architecture + interaction + noise,

noise of two trainings on two halves has nothing in common, so products of such a pair estimate the variances
without bias. Let R be a (training, half)'s table less its rows' and columns' means, and m its columns' means
less their mean. For a pair of opposite ones

    E sum R R' = (c - 1) (a - 1) var(interaction)
    E sum m m' = (a - 1) (var(architecture) + var(interaction) / c)

Estimates are means over all pairs of opposites, and can be below 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Table = NDArray[np.float64]  # (clients, architectures, trainings 2, halves 2)


@dataclass(frozen=True)
class Components:
    """Variances, in the scores' unit squared."""

    architecture: float
    interaction: float
    noise: float  # of one training on one half


def components(table: Table) -> Components:
    """Return the estimates; ValueError for fewer than 2 clients or architectures."""
    clients, architectures = _checked(table)
    inner, means = _centred(table)
    opposite = inner[:, :, ::-1, ::-1]
    degrees = (clients - 1) * (architectures - 1)
    interaction = float((inner * opposite).sum()) / 4 / degrees
    shared = float((means * means[:, ::-1, ::-1]).sum()) / 4 / (architectures - 1)
    total = float((inner**2).sum()) / 4 / degrees
    return Components(shared - interaction / clients, interaction, total - interaction)


def _checked(table: Table) -> tuple[int, int]:
    clients, architectures, *replicates = table.shape
    if clients < 2 or architectures < 2 or replicates != [2, 2]:
        raise ValueError(f"a table of shape {table.shape}: need (2 or more, 2 or more, 2, 2)")
    return clients, architectures


def _centred(table: Table) -> tuple[Table, NDArray[np.float64]]:
    """Return R (c, a, 2, 2) and m (a, 2, 2)."""
    columns = table.mean(axis=0, keepdims=True)
    whole = columns.mean(axis=1, keepdims=True)
    inner = table - table.mean(axis=1, keepdims=True) - columns + whole
    return inner, (columns - whole)[0]


@dataclass(frozen=True)
class Gain:
    """What a choice by scores gains over a draw by lot, in the scores' unit, and its standard error."""

    own: float  # each client its best
    shared: float  # all clients the one that is best on average
    error: float  # of `own`, over clients


def gains(table: Table, *, retrained: bool) -> Gain:
    """Return what choosing on one half brings on the other.

    Args:
        table: scores.
        retrained: score another training of what was chosen; else the very weights that it was chosen by.

    """
    clients, _ = _checked(table)
    own, shared = np.zeros(clients), 0.0
    rows = np.arange(clients)
    for training, half in product(range(2), range(2)):
        seen = table[:, :, training, half]
        scored = table[:, :, 1 - training if retrained else training, 1 - half]
        lot = scored.mean(axis=1)
        own += (scored[rows, seen.argmax(axis=1)] - lot) / 4
        shared += float((scored[:, seen.mean(axis=0).argmax()] - lot).mean()) / 4
    return Gain(float(own.mean()), shared, float(own.std(ddof=1)) / clients**0.5)


def expected_best(count: int) -> float:
    """Return the expected largest of so many standard normal draws."""
    grid = np.linspace(-8, 8, 20_001)
    density = count * norm.pdf(grid) * norm.cdf(grid) ** (count - 1)
    return float(np.trapezoid(grid * density, grid))
