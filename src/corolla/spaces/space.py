"""A search space: named dimensions, and what can be done with its architectures without weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.errors import Fault, RefusedError, nearest
from corolla.spaces.architecture import Architecture, Choice, Dimension

_DRAWS = 1000  # until one is alive; nearly all are, in all of our spaces


class SearchSpace:
    """Ordered dimensions. Methods never change an architecture, and randomness is an argument."""

    def __init__(self, *, name: str, dimensions: tuple[Dimension, ...]) -> None:
        names = [dimension.name for dimension in dimensions]
        if len(set(names)) != len(names):
            raise ValueError(f"space {name!r}: dimension names must be distinct, got {names}")
        self.name = name
        self.dimensions = dimensions

    @cached_property
    def size(self) -> int:
        """Number of architectures."""
        return math.prod(len(dimension) for dimension in self.dimensions)

    @cached_property
    def num_logits(self) -> int:
        """Number of candidates over all dimensions: the length of one client's policy vector."""
        return sum(len(dimension) for dimension in self.dimensions)

    def is_live(self, architecture: Architecture) -> bool:
        """Tell whether what every part of the network gives depends on the images.

        A network that is not alive gives the same logits for all images, whatever it is trained on. Only
        spaces with choices that carry nothing (DARTS' ``none``) have such; they override this and `smallest`.
        """
        return True

    def smallest(self) -> Architecture:
        """Return the cheapest architecture that is alive: here that of all first choices."""
        return Architecture((0,) * len(self.dimensions))

    def largest(self) -> Architecture:
        """Return the architecture of all last choices."""
        return Architecture(tuple(len(dimension) - 1 for dimension in self.dimensions))

    def middle(self) -> Architecture:
        """Return the architecture of all middle choices (the upper one of two)."""
        return Architecture(tuple(len(dimension) // 2 for dimension in self.dimensions))

    def named(self, which: str | Sequence[int], *, key: str = "architecture") -> Architecture:
        """Return a fixed architecture: ``largest``, ``smallest``, ``middle`` or choice indices.

        Raises:
            RefusedError: there is no such architecture, or it is dead (`is_live`); as a fault of ``key``.

        """
        known = {"largest": self.largest, "smallest": self.smallest, "middle": self.middle}
        try:
            if not isinstance(which, str):
                return self.require_live(self.check(Architecture.of(which)))
            if which in known:
                return self.require_live(known[which]())
        except (TypeError, ValueError) as error:
            remedy = "Use smallest, middle, largest or one choice index per dimension"
            raise RefusedError(Fault(key, which, str(error), remedy)) from error
        remedy = f"{nearest(which, list(known))}, or a list of choice indices"
        raise RefusedError(Fault(key, which, "is not known", remedy))

    def require_live(self, architecture: Architecture) -> Architecture:
        """Return ``architecture``; raise ValueError when its output does not depend on the images."""
        if not self.is_live(architecture):
            raise ValueError(
                f"space {self.name!r}: the architecture {architecture.to_list()} is dead, its output does "
                f"not depend on the images; the smallest that is alive is {self.smallest().to_list()}"
            )
        return architecture

    def check(self, architecture: Architecture) -> Architecture:
        """Return ``architecture``; raise ValueError when it is not one of this space."""
        if len(architecture.choices) != len(self.dimensions):
            raise ValueError(
                f"space {self.name!r} has {len(self.dimensions)} dimensions, "
                f"the architecture {list(architecture.choices)} has {len(architecture.choices)}"
            )
        for dimension, index in zip(self.dimensions, architecture.choices, strict=True):
            if not 0 <= index < len(dimension):
                raise ValueError(
                    f"space {self.name!r}: {dimension.name}={index} is not an index into "
                    f"{list(dimension.choices)}"
                )
        return architecture

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw every dimension uniformly, anew where the draw is dead."""
        return self._first_live(lambda: self._draw(rng), self.smallest)

    def _draw(self, rng: np.random.Generator) -> Architecture:
        return Architecture(tuple(int(rng.integers(len(d))) for d in self.dimensions))

    def _first_live(
        self, draw: Callable[[], Architecture], last: Callable[[], Architecture]
    ) -> Architecture:
        """Return the first draw that is alive; ``last`` after 1000 dead ones."""
        for _ in range(_DRAWS):
            if self.is_live(drawn := draw()):
                return drawn
        return last()

    def mutate(
        self, architecture: Architecture, rng: np.random.Generator, *, probability: float
    ) -> Architecture:
        """Return a copy in which each dimension is redrawn with ``probability``; a live one."""

        def mutant() -> Architecture:
            redraw = rng.random(len(self.dimensions)) < probability
            return _mixed(self._draw(rng), architecture, redraw)

        return self._first_live(mutant, lambda: architecture)

    def cross(
        self, first: Architecture, second: Architecture, rng: np.random.Generator
    ) -> Architecture:
        """Return a child that takes each dimension from either parent with probability 1/2; a live one."""

        def child() -> Architecture:
            return _mixed(first, second, rng.random(len(self.dimensions)) < 0.5)

        return self._first_live(child, lambda: first)

    def enumerate(self, *, limit: int = 100_000) -> Iterator[Architecture]:
        """Yield every architecture, dead ones too; refuse spaces with more than ``limit``."""
        if self.size > limit:
            raise ValueError(
                f"space {self.name!r} has {self.size} architectures, more than limit={limit}"
            )
        for choices in itertools.product(*(range(len(d)) for d in self.dimensions)):
            yield Architecture(choices)

    def values(self, architecture: Architecture) -> dict[str, Choice]:
        """Return dimension name -> chosen candidate, for people and for JSON."""
        self.check(architecture)
        return {
            d.name: d.choices[index]
            for d, index in zip(self.dimensions, architecture.choices, strict=True)
        }

    def cost(self, architecture: Architecture) -> int:
        """Return what tells which of two architectures is costlier: here the sum of their choices."""
        return sum(self.check(architecture).choices)

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """Return the dimensions that vary, each scaled to 0..1 by its index (predictor input)."""
        return np.array(
            [
                index / (len(d) - 1)
                for d, index in zip(self.dimensions, architecture.choices, strict=True)
                if len(d) > 1
            ]
        )

    def one_hot(self, architecture: Architecture) -> NDArray[np.float64]:
        """Return the concatenated one-hot vectors, ``(num_logits,)``."""
        vector = np.zeros(self.num_logits)
        offset = 0
        for dimension, index in zip(self.dimensions, architecture.choices, strict=True):
            vector[offset + index] = 1.0
            offset += len(dimension)
        return vector

    def describe(self) -> list[dict[str, Any]]:
        """Return the dimensions as JSON-able records."""
        return [{"name": d.name, "choices": list(d.choices)} for d in self.dimensions]

    def fingerprint(self) -> str:
        """Return a short hash that changes when an architecture would mean something else."""
        text = json.dumps({"name": self.name, "dimensions": self.describe()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _mixed(first: Architecture, second: Architecture, take: Iterable[bool]) -> Architecture:
    """Return the choices of ``first`` where ``take`` says so, else those of ``second``."""
    pairs = zip(first.choices, second.choices, take, strict=True)
    return Architecture(tuple(a if taken else b for a, b, taken in pairs))
