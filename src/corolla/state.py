"""All that a strategy or a client has to remember, as named arrays and JSON-able values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from corolla.types import Arrays


@dataclass(eq=False)
class State:
    """A snapshot that can be written to disk and read back without loss.

    ``arrays`` holds numbers in bulk (weights, policies, momentum); ``meta`` holds the rest:
    str-keyed dicts, lists, strings, numbers, booleans and None.
    """

    arrays: Arrays = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> Arrays:
        """Return the arrays whose names begin with ``prefix``, without it."""
        return {
            name.removeprefix(prefix): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }
