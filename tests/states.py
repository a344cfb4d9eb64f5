"""What two states of a strategy or a client differ in, to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from corolla.state import State


def differences(left: State, right: State) -> list[str]:
    """Return one line per difference between two states, none when they are the same to the bit.

    Arrays must agree in name, order, dtype, shape and bytes (so 0.0 is not -0.0, and a NaN equals
    itself); meta must agree in value and type (so 1 is neither 1.0 nor True).
    """
    lines = []
    if list(left.arrays) != list(right.arrays):
        lines.append(f"array names: {list(left.arrays)} and {list(right.arrays)}")
    for name in left.arrays.keys() & right.arrays.keys():
        a, b = left.arrays[name], right.arrays[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            lines.append(f"array {name!r}: {a.dtype}{a.shape} and {b.dtype}{b.shape}")
        elif a.tobytes() != b.tobytes():
            lines.append(
                f"array {name!r}: {int(np.sum(a != b))} of {a.size} entries differ in value"
            )
    return lines + _meta_differences(left.meta, right.meta, "meta")


def _meta_differences(a: Any, b: Any, where: str) -> list[str]:
    if type(a) is not type(b):
        return [f"{where}: {a!r} and {b!r}"]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {sorted(a)} and {sorted(b)}"]
        return [line for key in a for line in _meta_differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} items"]
        pairs = enumerate(zip(a, b, strict=True))
        return [line for i, (x, y) in pairs for line in _meta_differences(x, y, f"{where}[{i}]")]
    if isinstance(a, float) and math.isnan(a) and math.isnan(b):
        return []
    return [] if a == b else [f"{where}: {a!r} and {b!r}"]


def same(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """Tell whether two networks have the same arrays, to the bit."""
    return left.keys() == right.keys() and all(
        left[name].tobytes() == right[name].tobytes() for name in left
    )
