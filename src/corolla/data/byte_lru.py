"""A cache that forgets what was used longest ago once its values take too much memory."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from typing import Protocol, TypeVar

from cachetools import LRUCache


class Sized(Protocol):
    """A value that knows how much memory it takes."""

    @property
    def bytes_(self) -> int:
        """Memory that the value takes, in bytes."""
        ...


V = TypeVar("V", bound=Sized)


class ByteLru(LRUCache[Hashable, V]):
    """Least-recently-used cache bounded by the bytes of its values.

    Args:
        limit_mib: most that the values may take together; a larger value is not kept. 0 keeps none.
    """

    def __init__(self, *, limit_mib: float) -> None:
        super().__init__(int(limit_mib * 2**20), getsizeof=lambda value: value.bytes_)

    def put(self, key: Hashable, value: V) -> V:
        """Keep ``value`` under ``key`` if it fits, forgetting older ones; return it."""
        with suppress(ValueError):  # larger than the whole cache
            self[key] = value
        return value
