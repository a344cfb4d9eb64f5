"""JSON as Corolla writes it: numpy values welcome, strict JSON where other tools read it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corolla.records.atomic import write_bytes
from corolla.records.errors import RESTORE, CorruptStateError

_NUMBERS = (int, float, np.integer, np.floating)
_PLAIN = (int, str, bool, type(None))


def to_json(value: Any, *, exact: bool = False, where: str = "value") -> Any:
    """Return ``value`` as dicts, lists, strings, numbers, booleans and None.

    Numpy scalars and arrays become numbers and lists, tuples become lists. For records (the
    default) NaN and infinities become None, as JSON has no word for them, and integer keys become
    strings. For state that is read back (``exact``) they stay what they are, and keys that are not
    strings are refused, because they would come back as something else.

    Raises: TypeError with the place of the first value that cannot be written.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if exact or math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        value = value.tolist()
        if not isinstance(value, list):  # 0-d
            return to_json(value, exact=exact, where=where)
    if isinstance(value, Mapping):
        return {
            _key(key, exact, where): to_json(item, exact=exact, where=f"{where}[{key!r}]")
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            item
            if type(item) in _PLAIN  # spares long lists of numbers the making of names
            or (type(item) is float and (exact or math.isfinite(item)))
            else to_json(item, exact=exact, where=f"{where}[{i}]")
            for i, item in enumerate(value)
        ]
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold: {value!r}")


def write_json(path: Path, value: Any, *, exact: bool = False, indent: int | None = 2) -> None:
    """Write ``value`` to ``path`` atomically; without ``indent`` several times as fast."""
    content = to_json(value, exact=exact, where=path.name)
    write_bytes(path, (json.dumps(content, indent=indent, allow_nan=exact) + "\n").encode())


def read_json(path: Path, *, remedy: str = RESTORE) -> dict[str, Any]:
    """Return the object in ``path``.

    Raises: CorruptStateError when there is no such file, or it holds no JSON object.
    """
    try:
        content = json.loads(read_bytes(path, remedy=remedy).decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise CorruptStateError(path, str(error), remedy) from error
    if not isinstance(content, dict):
        raise CorruptStateError(path, "expected a JSON object", remedy)
    return content


def read_bytes(path: Path, *, remedy: str = RESTORE) -> bytes:
    """Return the content of a file that must be there. Raises: CorruptStateError."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptStateError(path, "it is missing", remedy) from error
    except OSError as error:  # a directory in its place, no permission, a bad disk
        problem = f"it cannot be read ({error.strerror})"
        raise CorruptStateError(path, problem, remedy) from error


def flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what nested mappings hold, under keys joined by "/"; lists stay lists."""
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            leaves |= {f"{key}/{name}": inner for name, inner in flat(item).items()}
        else:
            leaves[str(key)] = item
    return leaves


def numeric_leaves(
    value: Mapping[str, Any], skip: frozenset[str] = frozenset()
) -> dict[str, float]:
    """Return the finite numbers of nested mappings under keys joined by "/".

    Booleans, lists, strings and None are left out, and so is whatever has a key in ``skip``.
    """
    leaves: dict[str, float] = {}
    for key, item in value.items():
        if key in skip:
            continue
        if isinstance(item, Mapping):
            inner = numeric_leaves(item, skip)
            leaves.update({f"{key}/{name}": number for name, number in inner.items()})
        elif isinstance(item, _NUMBERS) and not isinstance(item, bool) and math.isfinite(item):
            leaves[str(key)] = float(item)
    return leaves


def _key(key: Any, exact: bool, where: str) -> str:
    if isinstance(key, str):
        return key
    if not exact and isinstance(key, int | np.integer) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"{where} has the key {key!r} ({type(key).__name__}); keys must be strings")
