"""A cache that forgets what was used longest ago once its values take too much memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A value that knows how much memory it takes."""

    @property
    def bytes_(self) -> int:
        """Memory that the value takes, in bytes."""
        ...


V = TypeVar("V", bound=Sized)


class ByteLru(Generic[V]):
    """Least-recently-used cache bounded by the bytes of its values.

    Args:
        limit_mib: most that the values may take together; a larger value is not kept. 0 keeps none.
    """

    def __init__(self, *, limit_mib: float) -> None:
        self._limit = int(limit_mib * 2**20)
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._bytes = 0

    @property
    def bytes_(self) -> int:
        """Memory that the kept values take, in bytes."""
        return self._bytes

    def get(self, key: Hashable) -> V | None:
        """Return the value kept under ``key``, if any, and count it as used."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Hashable, value: V) -> V:
        """Keep ``value`` under ``key`` if it fits, forgetting older ones; return it."""
        old = self._values.pop(key, None)
        self._bytes -= old.bytes_ if old is not None else 0
        if value.bytes_ <= self._limit:
            self._values[key] = value
            self._bytes += value.bytes_
        while self._bytes > self._limit:
            self._bytes -= self._values.popitem(last=False)[1].bytes_
        return value
