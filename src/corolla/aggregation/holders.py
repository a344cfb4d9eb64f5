"""Who of a round's clients holds which entries of the supernet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corolla.aggregation.regions import places
from corolla.aggregation.updates import Update
from corolla.types import Arrays


class Holders:
    """Who holds which arrays of a supernet, and where."""

    def __init__(self, supernet: Arrays, updates: Sequence[Update]) -> None:
        """``updates`` are sorted by descending weight."""
        self.updates = updates
        self.places = [places(update.regions, supernet) for update in updates]
        # weights relative to the heaviest cannot overflow in a sum
        least = float(np.finfo(np.float32).tiny)
        self.shares = [max(update.weight / updates[0].weight, least) for update in updates]
        self.who: dict[str, int] = {}  # bit i: update i holds some of it
        self._numbers: dict[int, list[int]] = {}
        self.partly: set[str] = set()  # somebody does not hold it whole
        for number, found in enumerate(self.places):
            bit = 1 << number
            for name, place in found.items():
                self.who[name] = self.who.get(name, 0) | bit
                if not place.whole:
                    self.partly.add(name)

    def of(self, name: str) -> list[int]:
        """Return the numbers of the updates that hold some of this array."""
        who = self.who[name]
        if who not in self._numbers:
            self._numbers[who] = [n for n in range(who.bit_length()) if who >> n & 1]
        return self._numbers[who]

    @property
    def total(self) -> float:
        """Weight of all updates, summed as `weight` sums those that hold an entry."""
        total = 0.0
        for share in self.shares:
            total += share
        return total

    def weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return each entry's weight of those who hold it; without axes where all of them hold all of it."""
        held = self.of(name)
        whole = all(self.places[number][name].whole for number in held)
        weight = np.zeros(() if whole else shape)
        for number in held:
            weight[... if whole else self.places[number][name].key] += self.shares[number]
        return weight

    def mask(self, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return for each entry whether somebody holds it."""
        held = np.zeros(shape, dtype=np.bool_)
        for number in self.of(name):
            held[self.places[number][name].key] = True
        return held
