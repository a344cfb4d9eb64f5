"""What spaces share that hold a single network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Unpack

from torch import nn

from corolla.spaces.architecture import Architecture, Choice, Dimension
from corolla.spaces.supernet import Network, Supernet


class FixedNetwork(Supernet):
    """A space of one architecture: smallest, middle and largest are the same network.

    Args:
        sizes: name of a dimension -> its only choice.
        build: makes the network, given ``in_channels``, ``num_classes`` and ``resolution``.
        resolution: pixels a side that images are scaled to.
    """

    def __init__(
        self,
        sizes: Mapping[str, Choice],
        build: Callable[..., nn.Module],
        *,
        resolution: int,
        **network: Unpack[Network],
    ) -> None:
        dimensions = tuple(Dimension(name, (size,)) for name, size in sizes.items())
        super().__init__(dimensions=dimensions, resolution=resolution, **network)
        self._build = build

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the network."""
        self.check(architecture)
        images = {"in_channels": self.in_channels, "resolution": self.resolution}
        return self._build(num_classes=self.num_classes, **images)
