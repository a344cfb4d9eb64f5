"""Collects faults of settings, so that all of them are said at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from corolla.errors import Fault, RefusedError, nearest

MOST = 10**9
"""Of rounds, epochs, images and other counts: what is more, is a slip."""


def is_count(value: object, *, least: int, most: int = MOST) -> bool:
    """Tell whether ``value`` is a whole number from ``least`` to ``most``, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


class Checker:
    """What is wrong with one settings object; ``prefix`` comes before all keys."""

    def __init__(self, prefix: str = "") -> None:
        self.faults: list[Fault] = []
        self._prefix = prefix

    def add(self, key: str, value: Any, problem: str, remedy: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(self._prefix + key, value, problem, remedy))

    def finish(self) -> None:
        """Raise `RefusedError` with all faults, if there are any."""
        if self.faults:
            raise RefusedError(self.faults)

    def choice(self, key: str, value: Any, known: Sequence[str]) -> None:
        """Want one of ``known``."""
        if value not in known:
            self.add(key, value, "is not known", nearest(str(value), known))

    def flag(self, key: str, value: Any) -> None:
        """Want true or false."""
        if not isinstance(value, bool):
            self.add(key, value, "is neither true nor false", "Use true or false")

    def count(self, key: str, value: Any, *, least: int, most: int = MOST) -> None:
        """Want a whole number from ``least`` to ``most``."""
        if not is_count(value, least=least, most=most):
            limit = f"to {most:,}" if isinstance(value, int) and value > most else "or more"
            self.add(key, value, "is out of range", f"Use a whole number, {least} {limit}")

    def betas(self, key: str, value: Any) -> None:
        """Want Adam's two decays, each in [0, 1)."""
        if not isinstance(value, list | tuple) or len(value) != 2:
            self.add(key, value, "is not a pair", "Use two numbers in [0, 1), such as [0.9, 0.999]")
            return
        for i, beta in enumerate(value):
            self.number(f"{key}[{i}]", beta, least=0.0, below=1.0)

    def number(
        self,
        key: str,
        value: Any,
        *,
        above: float = -math.inf,
        least: float = -math.inf,
        below: float = math.inf,
    ) -> None:
        """Want a finite number within these bounds."""
        low = f"above {above:g}" if above > least else f"{least:g} or more"
        high = f", below {below:g}" if below < math.inf else ""
        remedy = f"Use a number, {low}{high}"
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            self.add(key, value, "is not a number", remedy)
        elif not (value > above and least <= value < below):
            self.add(key, value, "is out of range", remedy)
