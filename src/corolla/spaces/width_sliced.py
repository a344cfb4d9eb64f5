"""Thinner copies of one network: at rate r, ceil(r * C) of every layer's C channels.

HeteroFL: Diao, Ding & Tarokh, ICLR 2021, https://arxiv.org/abs/2010.01264. Whole stay the image's channels
and the classes. How many channels an axis keeps follows from its length alone, so a block is thinned
consistently: shortcut, depthwise convolution and squeeze-and-excite keep what they are added to, applied to
or multiplied with.

Any space whose networks consist of convolutions, BatchNorm (or GroupNorm of one group) and linear layers can
be sliced, from small CNNs to ResNet-18; others are refused (`corolla.spaces.narrowing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from corolla.aggregation.regions import Regions
from corolla.aggregation.rolling import rolling_regions
from corolla.errors import Fault, RefusedError
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.base_space import base_space, network_fingerprint
from corolla.spaces.narrowing import ends, kept_channels, narrow, scale
from corolla.spaces.supernet import Network, Shapes, Supernet


class WidthSlicedSpace(Supernet):
    """One dimension, ``rate``; the supernet is one architecture of ``base``, whose tensors' names it keeps.

    Args:
        network: name, classes, channels: `corolla.spaces.supernet.Network`.
        base: a space, or its ``_target_`` node without name, classes and channels.
        architecture: of ``base``, the network at rate 1: ``largest``, ``middle``, ``smallest`` or indices.
        rates: ascending shares of the channels, in (0, 1], the last one 1.
        scaler: HeteroFL's Scaler, see `corolla.spaces.narrowing.ScaledBatchNorm`.

    Raises:
        ValueError: invalid rates, or a network that cannot be sliced.
        RefusedError: what the base space refuses.

    """

    def __init__(
        self,
        *,
        base: Supernet | Mapping[str, Any],
        rates: Sequence[float],
        architecture: str | Sequence[int] = "largest",
        scaler: bool = True,
        **network: Unpack[Network],
    ) -> None:
        base = base_space(base, **network)
        self.base = base
        self.full = base.named(architecture)
        self.scaler = scaler
        super().__init__(
            dimensions=(Dimension("rate", _rates(rates)),),
            resolution=base.resolution,
            **network,
        )
        # Really run: torch's first run on the meta device takes seconds of imports, in every process.
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            self._ends = ends(self.subnet_whole(), self._images())
            self._try(self.smallest())
        self._windows_of = lru_cache(maxsize=64)(self._windows)

    def rate(self, architecture: Architecture) -> float:
        """Return the share of the channels that ``architecture`` has."""
        return float(self.values(architecture)["rate"])

    def subnet_whole(self) -> nn.Module:
        """Build the network at rate 1, which is the base's."""
        return self.base.subnet(self.full)

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the thin network; fresh, it has the leading channels of a fresh whole one."""
        rate, module = self.rate(architecture), self.subnet_whole()
        if rate < 1:
            narrow(module, rate, self._ends)
            if self.scaler:
                scale(module, rate)
        return module

    def shapes(self, architecture: Architecture) -> Shapes:
        """Return the state_dict's shapes in closed form: only axes 0 and 1 are channels."""
        rate = self.rate(architecture)
        shapes = Shapes()
        for name, shape in self.supernet_shapes.items():
            layer = name.rpartition(".")[0]
            whole = (layer == self._ends.last, layer in self._ends.readers)
            spans = (1, self._ends.spans.get(layer, 1))
            shapes[name] = tuple(
                length
                if axis > 1 or whole[axis]
                else kept_channels(length // spans[axis], rate) * spans[axis]
                for axis, length in enumerate(shape)
            )
        return shapes

    def window(self, architecture: Architecture, shift: int) -> Regions:
        """Return the regions with every window moved on by ``shift`` channels, 0 or more (cached).

        `corolla.aggregation.rolling` says where that is. `regions` are those of shift 0.
        """
        return self._windows_of(self.check(architecture), shift)

    def _windows(self, architecture: Architecture, shift: int) -> Regions:
        spans = {f"{layer}.weight": span for layer, span in self._ends.spans.items()}
        return rolling_regions(self._shapes_of(architecture), self.supernet_shapes, shift, spans)

    def fingerprint(self) -> str:
        """Return a short hash that changes with the network too, which no dimension names."""
        return network_fingerprint(super().fingerprint(), self.supernet_shapes, self.scaler)

    def _images(self) -> Tensor:
        return torch.zeros(1, self.in_channels, self.resolution, self.resolution)

    def _try(self, architecture: Architecture) -> None:
        try:
            self.subnet(architecture).eval()(self._images())
        except RuntimeError as error:  # torch's word for shapes that do not meet
            problem = f"space.base: at rate {self.rate(architecture)} its layers do not fit together: {error}"
            raise ValueError(f"{problem}; take a space of plain layers") from error


def require_width_sliced(space: Supernet, method: str) -> WidthSlicedSpace:
    """Return ``space``; RefusedError where it has no rates."""
    if isinstance(space, WidthSlicedSpace):
        return space
    problem = f"has no width rates, which {method} gives to clients"
    remedy = (
        "Take a space of thinner copies: space=mobilenetv2_width_8, mobilenetv2_width_small ..."
    )
    raise RefusedError(Fault("space", space.name, problem, remedy))


def _rates(rates: Sequence[float]) -> tuple[float, ...]:
    given = list(rates) if isinstance(rates, Sequence) and not isinstance(rates, str) else [rates]
    numbers = all(isinstance(r, int | float) and not isinstance(r, bool) for r in given)
    if not given or not numbers or given != sorted(set(given)) or given[0] <= 0 or given[-1] != 1:
        raise ValueError(f"space.rates={given}: need ascending numbers above 0, the last one 1")
    return tuple(float(rate) for rate in given)
