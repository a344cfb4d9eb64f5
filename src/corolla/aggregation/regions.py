"""A subnet is a region of the supernet: cutting it out and pasting it back, on named arrays.

A `Region` names, per axis of one array, the entries that a subnet owns: a slice (leading channels,
centre crops of kernels) or a tuple of indices (the rolling windows of FedRolex, Alam et al.,
NeurIPS 2022). Axes that a region does not name are owned whole, as in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from corolla.errors import Fault, RefusedError, nearest, refuse
from corolla.types import Arrays

Index = slice | tuple[int, ...]
"""The entries owned along one axis."""

Region = tuple[Index, ...]
"""The block owned in one array: the outer product of its indices."""


class Place(NamedTuple):
    """A region in an array of a known shape, ready for use."""

    region: Region
    shape: tuple[int, ...]  # of the whole array
    key: tuple[Any, ...]  # what numpy takes
    block: tuple[int, ...]  # shape of what is owned
    whole: bool  # everything is owned, in its order


class Regions(dict[str, Region]):
    """An architecture's regions with their places: thousands of them are asked for in a round."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        super().__init__({name: place.region for name, place in places.items()})
        self.places = places


def place(regions: Mapping[str, Region], name: str, shape: tuple[int, ...]) -> Place:
    """Return where the region of this name lies in an array of ``shape``; refuses as `resolve` does."""
    if isinstance(regions, Regions):
        known = regions.places[name]
        if known.shape == shape:
            return known
    region = resolve(regions[name], shape, name=name)
    block = region_shape(region, shape, name=name)
    in_order = all(isinstance(index, slice) for index in region)
    return Place(region, shape, indexer(region, shape), block, in_order and block == shape)


def places(regions: Mapping[str, Region], arrays: Arrays) -> Mapping[str, Place]:
    """Return `place` of every region in the array of its name."""
    if isinstance(regions, Regions):
        known = regions.places
        if all(arrays[name].shape == found.shape for name, found in known.items()):
            return known
    return {name: place(regions, name, arrays[name].shape) for name in regions}


def leading_regions(
    sub_shapes: Mapping[str, tuple[int, ...]],
    super_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Regions:
    """Return `leading_region` of every array of ``sub_shapes``, which ``super_shapes`` must name.

    Without ``super_shapes``: of arrays that are owned whole.
    """
    full = sub_shapes if super_shapes is None else super_shapes
    return Regions({name: _leading_place(shape, full[name]) for name, shape in sub_shapes.items()})


@lru_cache(maxsize=65536)
def _leading_place(sub: tuple[int, ...], full: tuple[int, ...]) -> Place:
    region = leading_region(sub, full)
    return Place(region, full, (*region, ...), sub, sub == full)


def resolve(region: Region, shape: Sequence[int], *, name: str = "region") -> Region:
    """Return ``region`` with exactly one index per axis of ``shape``.

    Runs of consecutive indices come back as slices with explicit bounds and step 1, whatever way
    they were written; anything else as a tuple of indices. Raises `RefusedError` (its key is
    ``name``) for too many axes, entries outside the array, and indices given twice.
    """
    if len(region) > len(shape):
        problem = f"names {len(region)} axes of an array of shape {tuple(shape)}"
        raise RefusedError(Fault(name, region, problem, "Give at most one index per axis"))
    whole = (slice(None),) * (len(shape) - len(region))
    return tuple(
        _resolve_axis(index, length, name)
        for index, length in zip((*region, *whole), shape, strict=True)
    )


def _resolve_axis(index: Index, length: int, name: str) -> Index:
    if isinstance(index, slice):
        first, last = index.start or 0, index.stop
        if index.step is None and last is not None and 0 <= first <= last <= length:
            return slice(first, last)  # nearly all are such, and there are thousands in a round
        start, stop, step = index.indices(length)
        # numpy clips silently; a region that reaches outside belongs to another supernet
        if max(index.start or 0, index.stop or 0) > length:
            remedy = f"Regions and arrays must come from one space: this axis has {length} entries"
            raise RefusedError(Fault(name, index, "reaches outside the array", remedy))
        if step == 1:
            return slice(start, max(start, stop))
        index = tuple(range(start, stop, step))
    if not index:
        return slice(0, 0)
    if min(index) < 0 or max(index) >= length or len(set(index)) < len(index):
        remedy = f"Indices must be distinct and lie in 0..{length - 1}"
        raise RefusedError(Fault(name, index, "has entries outside the array or twice", remedy))
    run = range(index[0], index[0] + len(index))
    if index == tuple(run):
        return slice(run.start, run.stop)
    return index


def indexer(region: Region, shape: Sequence[int]) -> tuple[Any, ...]:
    """Return what numpy takes for a resolved region: slices give a view, indices a copy."""
    if all(isinstance(index, slice) for index in region):
        return (*region, ...)  # the ellipsis makes a view even of an array without axes
    ranges = (
        range(*index.indices(length)) if isinstance(index, slice) else index
        for index, length in zip(region, shape, strict=True)
    )
    return np.ix_(*ranges)


def region_shape(region: Region, shape: Sequence[int], *, name: str = "region") -> tuple[int, ...]:
    """Return the shape of the block that ``region`` owns in an array of ``shape``."""
    return tuple(
        index.stop - index.start if isinstance(index, slice) else len(index)
        for index in resolve(region, shape, name=name)
    )


def cut(state: Arrays, regions: Mapping[str, Region]) -> Arrays:
    """Return the subnet's arrays, contiguous copies in the order of ``regions``.

    Arrays of ``state`` that ``regions`` does not name are left out. Raises `RefusedError` for names
    that ``state`` lacks and for regions that do not fit.
    """
    if not regions.keys() <= state.keys():
        _check_names(state, regions)
    part: Arrays = {}
    for name in regions:
        array = state[name]
        where = place(regions, name, array.shape)
        part[name] = array.copy() if where.whole else np.array(array[where.key], order="C")
    return part


def paste(state: Arrays, part: Arrays, regions: Mapping[str, Region]) -> Arrays:
    """Return a copy of ``state`` with each block of ``part`` at its region; inverse of `cut`."""
    _check_names(state, regions)
    _check_names(part, regions)
    pasted = {name: array.copy() for name, array in state.items()}
    for name, region in regions.items():
        shape = state[name].shape
        block = region_shape(region, shape, name=name)
        if part[name].shape != block:  # numpy would broadcast
            remedy = "Paste the arrays of the architecture whose regions these are"
            problem = f"its region has shape {block}"
            raise RefusedError(Fault(name, part[name].shape, problem, remedy))
        pasted[name][indexer(resolve(region, shape, name=name), shape)] = part[name]
    return pasted


def leading_region(
    sub_shape: Sequence[int], super_shape: Sequence[int], *, name: str = "shape"
) -> Region:
    """Return the region of a narrower layer: leading channels (axes 0, 1), centre crop (the rest).

    ``(16, 8, 3, 3)`` of ``(24, 16, 5, 5)`` gives ``(0:16, 0:8, 1:4, 1:4)``. Raises `RefusedError`
    (its key is ``name``) where the axes differ in number, an axis is empty or longer than the
    supernet's, or a crop has no centre (2 of 5).
    """
    sub, full = tuple(sub_shape), tuple(super_shape)
    if len(sub) != len(full):
        problem = f"has another number of axes than the supernet's array of shape {full}"
        raise RefusedError(Fault(name, sub, problem, "Cut a layer of the same kind"))
    faults = []
    region = []
    for axis, (size, length) in enumerate(zip(sub, full, strict=True)):
        offset, odd = (0, 0) if axis < 2 else divmod(length - size, 2)
        region.append(slice(offset, offset + size))
        if not 1 <= size <= length:
            remedy = f"Take 1..{length} of the supernet's {full}"
            faults.append(
                Fault(name, sub, f"axis {axis} cannot take {size} of {length} entries", remedy)
            )
        elif odd:
            remedy = "Kernel sizes of one layer must all be odd or all be even"
            faults.append(
                Fault(
                    name, sub, f"axis {axis}: {size} of {length} entries cannot be centred", remedy
                )
            )
    refuse(faults)
    return tuple(region)


def _check_names(state: Arrays, regions: Mapping[str, Region]) -> None:
    faults = [
        Fault("array", name, "there is none of this name", nearest(name, list(state)))
        for name in regions
        if name not in state
    ]
    refuse(faults)
