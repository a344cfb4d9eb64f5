"""The space of what lies inside one architecture: a client's slice as a supernet of its own."""

from __future__ import annotations

from torch import nn

from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.supernet import Supernet


class Within(Supernet):
    """Architectures of ``space`` with no choice above those of ``whole``, under the same numbers.

    Its supernet is ``whole``'s network, in which they lie as they do in the space's: leading channels, centre
    crops. Its arrays are those of `Supernet.cut`. Not all of these architectures need to lie inside ``whole``
    (`inside`): of two operations on an edge one has other arrays than the other.
    """

    def __init__(self, space: Supernet, whole: Architecture) -> None:
        kept = zip(space.dimensions, whole.choices, strict=True)
        super().__init__(
            name=space.name,
            dimensions=tuple(Dimension(d.name, d.choices[: top + 1]) for d, top in kept),
            num_classes=space.num_classes,
            in_channels=space.in_channels,
            resolution=space.resolution,
        )
        self._space = space

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the plain module that ``space`` builds."""
        return self._space.subnet(architecture)

    def blank(self, architecture: Architecture) -> nn.Module:
        """Build it on the meta device."""
        return self._space.blank(architecture)


def inside(space: Supernet, inner: Architecture, outer: Architecture) -> bool:
    """Return whether ``inner`` is not ``outer``, and all its arrays lie inside those of ``outer``."""
    pairs = zip(inner.choices, outer.choices, strict=True)
    if inner == outer or any(own > top for own, top in pairs):
        return False
    whole = space.shapes(outer)
    return all(
        name in whole and all(own <= top for own, top in zip(shape, whole[name], strict=True))
        for name, shape in space.shapes(inner).items()
    )
