"""An architecture is a value: immutable, hashable, ordered choice indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Choice = int | float | str


@dataclass(frozen=True)
class Dimension:
    """One thing to choose, with its candidates in ascending order of cost."""

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.choices or len(set(self.choices)) != len(self.choices):
            raise ValueError(
                f"dimension {self.name!r}: choices={list(self.choices)} must be distinct, at least one"
            )

    def __len__(self) -> int:
        return len(self.choices)


@dataclass(frozen=True, order=True)
class Architecture:
    """Choice indices, one per dimension of the space it belongs to."""

    choices: tuple[int, ...]

    @classmethod
    def of(cls, choices: Sequence[int]) -> Architecture:
        """Return the architecture of any sequence of indices (JSON, ConfigRecord, numpy)."""
        return cls(tuple(int(index) for index in choices))

    def with_choice(self, dimension: int, index: int) -> Architecture:
        """Return a copy in which one dimension has another choice."""
        return Architecture((*self.choices[:dimension], index, *self.choices[dimension + 1 :]))

    def to_list(self) -> list[int]:
        """Return plain ints: what JSON and a Flower ConfigRecord carry."""
        return list(self.choices)
