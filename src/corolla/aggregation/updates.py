"""What a client returned, and whether it can be used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corolla.aggregation.regions import Region, Regions, place
from corolla.errors import Fault, RefusedError, nearest
from corolla.types import Arrays, ClientId

Weights = Literal["uniform", "examples"]


@dataclass(frozen=True, kw_only=True)
class Update:
    """One client's trained subnet: its arrays, and where each belongs in the supernet."""

    arrays: Arrays
    regions: Mapping[str, Region]
    weight: float = 1.0  # > 0; only ratios between clients matter
    client: ClientId = ""


def update_weight(weights: Weights, num_examples: int) -> float:
    """Return a client's weight: 1 for ``uniform``, its training examples for ``examples``."""
    return float(num_examples) if weights == "examples" else 1.0


def check_update(supernet: Arrays, update: Update, *, values: bool = True) -> list[Fault]:
    """Return everything that makes ``update`` unusable for ``supernet``; nothing when it is fit.

    Looks for a weight that is not positive and finite, array names missing or in excess, wrong
    shapes, floating arrays where the supernet has integers (or the reverse) and, with ``values``,
    NaN and infinities.
    """
    faults = []
    if not (math.isfinite(update.weight) and update.weight > 0):
        remedy = "A client with examples has a positive, finite weight"
        faults.append(Fault("weight", update.weight, "cannot be a weight in an average", remedy))
    if update.arrays.keys() == update.regions.keys() <= supernet.keys():
        names = list(update.arrays) if values else _doubtful(supernet, update)
    else:
        names = sorted({*update.regions, *update.arrays})
    for name in names:
        if name not in supernet:
            remedy = nearest(name, list(supernet))
            faults.append(Fault("array", name, "the supernet has no array of this name", remedy))
        elif name not in update.regions:
            remedy = "Return the arrays of the architecture that was sent, nothing else"
            faults.append(Fault("array", name, "is not part of the architecture sent", remedy))
        elif name not in update.arrays:
            remedy = "Return every array of the architecture that was sent"
            faults.append(Fault("array", name, "is missing in the reply", remedy))
        else:
            faults += _check_array(supernet[name], update, name, values=values)
    return faults


def _doubtful(supernet: Arrays, update: Update) -> list[str]:
    """Return the arrays that are not plainly right; a round asks this of thousands."""
    if not isinstance(update.regions, Regions):
        return list(update.arrays)
    known = update.regions.places
    doubtful = []
    for name, array in update.arrays.items():
        place, old = known[name], supernet[name]
        if array.shape != place.block or old.shape != place.shape or array.dtype is not old.dtype:
            doubtful.append(name)
    return doubtful


def _check_array(old: NDArray[Any], update: Update, name: str, *, values: bool) -> list[Fault]:
    array = update.arrays[name]
    try:
        shape = place(update.regions, name, old.shape).block
    except RefusedError as error:
        return error.faults
    if array.shape != shape:
        remedy = "Return the arrays of the architecture that was sent, nothing else"
        return [Fault(name, array.shape, f"its region has shape {shape}", remedy)]
    if (array.dtype.kind == "f") != (old.dtype.kind == "f"):
        remedy = f"Return it as {old.dtype}"
        return [Fault(name, str(array.dtype), "has another number type than the supernet", remedy)]
    # min and max pass NaN on and, unlike isfinite over all entries, need no array of their own
    if values and array.size and not np.isfinite([array.min(), array.max()]).all():
        remedy = "Lower the client's learning rate or clip its gradients"
        return [Fault(name, "NaN or infinity", "the training diverged", remedy)]
    return []
