"""One family of nested architectures for all devices: a client gets the largest of them that fits it. Ours.

The family is a path from the smallest architecture on, raised in one dimension at a time. Each member lies
inside every larger one, so that what one device trains is part of what every larger device runs (but for a
step that a device between two members takes beside the path); architectures that were chosen for each cap
alone share weights, but in shapes that have little to do with each other. The path grows kind after kind, as
``order`` says; within a kind the dimension that is lowest relative to its range comes first, and of equals
the cheapest step (multiply-accumulates).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise

from corolla.errors import Fault, RefusedError
from corolla.search.evolution import Fits, require_smallest
from corolla.search.proposals.protocol import SearchContext, Unlearning
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace
from corolla.types import ClientId, generator

OTHERS = "others"
_WIDTHS = ("width", "expand")  # kinds that grow unless an order is given
_LOT = 0x9207  # keeps these draws apart from others of the same seed


@settings
class GrowthSettings:
    """In which order kinds of dimensions grow; a kind is the last word of a dimension's name."""

    # Such as [depth, width, others]; without "others" kinds that are not named stay at their smallest.
    # None: the widths and expansions of the space, or all kinds of a space that has neither.
    order: Sequence[str] | None
    shuffle: bool = False  # the control by lot: any dimension of the kind in turn may grow next


class Growth(Unlearning):
    """The largest member that fits, raised along the path where single steps of its kind still fit."""

    settings: GrowthSettings

    def __init__(self, *, settings: GrowthSettings, context: SearchContext) -> None:
        self._space, self._seed = context.space, context.seed if settings.shuffle else None
        there = [*dict.fromkeys(map(_kind, (d.name for d in self._space.dimensions))), OTHERS]
        usual = [kind for kind in _WIDTHS if kind in there] or [OTHERS]
        self._order = usual if settings.order is None else [str(kind) for kind in settings.order]
        for kind in self._order:
            if self._order.count(kind) > 1:
                remedy = "Name each kind once"
                raise RefusedError(Fault("order", self._order, f"names {kind} twice", remedy))
        if unknown := [kind for kind in self._order if kind not in there]:
            problem = f"{', '.join(unknown)}: no kind of dimension of space {self._space.name!r}"
            raise RefusedError(Fault("order", self._order, problem, f"Take of {', '.join(there)}"))

    @cached_property
    def family(self) -> list[Architecture]:
        """All members, the smallest first."""
        return list(path(self._space, self._order, shuffle=self._seed))

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return what is trained; RefusedError where not even the smallest architecture fits."""
        require_smallest(self._space, fits)
        family = self.family
        last = max(number for number, member in enumerate(family) if fits(member))
        found, steps = family[last], [_step(*pair) for pair in pairwise(family[last:])]
        kinds = [_kind(self._space.dimensions[step].name) for step in steps]
        for step, kind in zip(steps, kinds, strict=True):
            if kind == kinds[0] and fits(tried := _grown(found, step)):
                found = tried
        return found


def path(
    space: SearchSpace, order: Sequence[str], *, shuffle: int | None = None
) -> Iterator[Architecture]:
    """Yield the family, from the smallest architecture on; ``shuffle``: the seed of the control by lot."""
    rng = None if shuffle is None else generator(shuffle, _LOT)
    member = space.smallest()
    yield member
    sizes = [len(dimension) for dimension in space.dimensions]
    kinds = [_kind(dimension.name) for dimension in space.dimensions]
    kinds = [kind if kind in order else OTHERS for kind in kinds]
    for turn in order:
        own = [number for number, kind in enumerate(kinds) if kind == turn]
        while higher := [n for n in own if member.choices[n] < sizes[n] - 1]:
            grown = [_grown(member, number) for number in higher]
            levels = [member.choices[number] / (sizes[number] - 1) for number in higher]
            best = min(range(len(higher)), key=lambda i: (levels[i], space.cost(grown[i]), i))
            if rng is not None:
                best = int(rng.integers(len(higher)))
            member = grown[best]
            yield member


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _step(before: Architecture, after: Architecture) -> int:
    """Return the dimension in which the two differ."""
    pairs = zip(before.choices, after.choices, strict=True)
    return next(number for number, (low, high) in enumerate(pairs) if low != high)


def _grown(architecture: Architecture, dimension: int) -> Architecture:
    return architecture.with_choice(dimension, architecture.choices[dimension] + 1)
