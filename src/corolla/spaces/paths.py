"""Several subnets sent as one: the smallest block of every array that holds what any of them owns.

What a client of FedorAS gets (`clients.paths`): the operations of a few paths, of which it trains another one
with every batch. In a space of whole operations that is their union; in one of leading channels the widest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from corolla.aggregation.regions import Index, Region, resolve
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Shapes, Supernet
from corolla.tasks import Task

PATHS = "paths"
"""Key in a task's ``extra``: the choices of all paths, one after the other."""


def paths_of(space: Supernet, task: Task) -> list[Architecture]:
    """Return the paths that a task names. ValueError where they are none of the space."""
    flat, count = task.extra[PATHS], len(space.dimensions)
    rows = [flat[start : start + count] for start in range(0, len(flat), count)]
    return [space.check(Architecture.of(row)) for row in rows]


def to_extra(paths: Sequence[Architecture]) -> dict[str, list[int]]:
    """Return the entry of a task; the inverse of `paths_of`."""
    return {PATHS: [index for path in paths for index in path.choices]}


def box(space: Supernet, paths: Sequence[Architecture]) -> dict[str, Region]:
    """Return name -> smallest block of slices that holds all paths, in the supernet's order."""
    shapes = space.supernet_shapes
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    for path in paths:
        for name, region in space.regions(path).items():
            own = _spans(region, shapes[name], name)
            before = found.get(name, own)
            found[name] = tuple(
                (min(a, c), max(b, d)) for (a, b), (c, d) in zip(own, before, strict=True)
            )
    return {name: tuple(slice(a, b) for a, b in found[name]) for name in shapes if name in found}


def holds(held: Mapping[str, Region], space: Supernet, path: Architecture) -> bool:
    """Tell whether the blocks of `box` hold all that ``path`` owns."""
    shapes = space.supernet_shapes
    for name, region in space.regions(path).items():
        if name not in held:
            return False
        inside, around = _spans(region, shapes[name], name), _spans(held[name], shapes[name], name)
        if any(a < c or b > d for (a, b), (c, d) in zip(inside, around, strict=True)):
            return False
    return True


def box_shapes(held: Mapping[str, Region], space: Supernet) -> Shapes:
    """Return the shapes of the blocks."""
    return {
        name: tuple(b - a for a, b in _spans(region, space.supernet_shapes[name], name))
        for name, region in held.items()
    }


def box_size(held: Mapping[str, Region], space: Supernet) -> int:
    """Return how many numbers the blocks hold."""
    return sum(math.prod(shape) for shape in box_shapes(held, space).values())


def held_by(space: Supernet, task: Task) -> Mapping[str, Region]:
    """Return where the arrays of a task belong: those of its paths, or of its architecture."""
    if PATHS in task.extra:
        return box(space, paths_of(space, task))
    return space.regions(task.architecture)


def _spans(region: Region, shape: tuple[int, ...], name: str) -> tuple[tuple[int, int], ...]:
    return tuple(_span(index) for index in resolve(region, shape, name=name))


def _span(index: Index) -> tuple[int, int]:
    if isinstance(index, slice):
        return index.start, index.stop
    return min(index), max(index) + 1
