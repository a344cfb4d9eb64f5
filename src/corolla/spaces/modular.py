"""Pools of modules: some layers of a network have several alternatives, of which any subset can be on.

FedMN: Wang et al. 2022, https://arxiv.org/abs/2210.14830. An architecture says per layer which of its
alternatives are there; the layer gives the mean of what they give. Every alternative is such a layer of a
network of the base space, with weights of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from corolla.errors import Fault, RefusedError, nearest
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.base_space import base_space, network_fingerprint
from corolla.spaces.supernet import Network, Shapes, Supernet

MOST_MODULES = 6  # 63 subsets of a layer


class ModulePool(nn.Module):
    """Alternatives of one layer, by their numbers.

    With ``gates`` (modules,), of 0 and 1 and not all 0, it gives the mean of those that are on; all of them
    are run, so that a gate's gradient says what its module would change. Without: the mean of all.
    """

    def __init__(self, alternatives: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.alternatives = nn.ModuleDict({str(n): module for n, module in alternatives.items()})
        self.gates: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what a single module would give."""
        given = [module(hidden) for module in self.alternatives.values()]
        if self.gates is not None:
            weighted = [gate * one for gate, one in zip(self.gates, given, strict=True)]
            return torch.stack(weighted).sum(0) / self.gates.sum()
        return given[0] if len(given) == 1 else torch.stack(given).mean(0)


class ModularSpace(Supernet):
    """One dimension per layer: which subset of its modules, fewer first.

    Args:
        network: name, classes, channels: `corolla.spaces.supernet.Network`.
        base: a space, or its ``_target_`` node without name, classes and channels.
        architecture: of ``base``: ``largest``, ``middle``, ``smallest`` or indices.
        layers: names of the network's modules that become pools, in the order in which they run.
        modules: J, of every layer.

    Raises:
        ValueError: layers that the network does not have, or numbers out of range.
        RefusedError: what the base space refuses.

    """

    def __init__(
        self,
        *,
        base: Supernet | Mapping[str, Any],
        layers: Sequence[str],
        modules: int,
        architecture: str | Sequence[int] = "largest",
        **network: Unpack[Network],
    ) -> None:
        base = base_space(base, **network)
        if not 1 <= modules <= MOST_MODULES:
            raise ValueError(f"modules={modules}: need 1 to {MOST_MODULES} alternatives of a layer")
        self.base, self.full = base, base.named(architecture)
        there = [path for path, _ in base.blank(self.full).named_modules() if path]
        for layer in layers:
            if layer not in there:
                raise ValueError(f"layers={layer!r}: is no module. {nearest(layer, there)}")
        inside = [one for one in layers for other in layers if one.startswith(f"{other}.")]
        if not layers or len(set(layers)) != len(layers) or inside:
            raise ValueError(f"layers={list(layers)}: need distinct modules, none inside another")
        self.layers, self.modules = tuple(layers), modules
        self._subsets = [
            subset
            for count in range(1, modules + 1)
            for subset in combinations(range(modules), count)
        ]
        choices = tuple("+".join(str(number) for number in subset) for subset in self._subsets)
        super().__init__(
            dimensions=tuple(Dimension(layer, choices) for layer in layers),
            resolution=base.resolution,
            **network,
        )

    def on(self, architecture: Architecture) -> list[tuple[int, ...]]:
        """Return the numbers of the modules that are on, per layer."""
        return [self._subsets[index] for index in self.check(architecture).choices]

    def of(self, on: Sequence[Sequence[int]]) -> Architecture:
        """Invert `on`. ValueError where a layer has no module, or one that there is not."""
        return Architecture(tuple(self._subsets.index(tuple(sorted(set(one)))) for one in on))

    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the network with the modules that are on."""
        on = self.on(architecture)
        copies = [self.base.subnet(self.full) for _ in range(1 + max(one[-1] for one in on))]
        found = {
            layer: ModulePool({number: copies[number].get_submodule(layer) for number in numbers})
            for layer, numbers in zip(self.layers, on, strict=True)
        }
        network = copies[0]
        for layer, pool in found.items():
            path, _, last = layer.rpartition(".")
            setattr(network.get_submodule(path), last, pool)
        return network

    def shapes(self, architecture: Architecture) -> Shapes:
        """Return the state_dict's shapes: those of the modules that are on."""
        on = self.on(architecture)
        pooled = [f"{layer}.alternatives." for layer in self.layers]
        there = [
            f"{start}{number}."
            for start, numbers in zip(pooled, on, strict=True)
            for number in numbers
        ]
        return {
            name: shape
            for name, shape in self.supernet_shapes.items()
            if name.startswith(tuple(there)) or not name.startswith(tuple(pooled))
        }

    def pools(self, network: nn.Module) -> list[ModulePool]:
        """Return the pools of a network of this space, in the order of the layers."""
        found = [network.get_submodule(layer) for layer in self.layers]
        return [pool for pool in found if isinstance(pool, ModulePool)]

    def modules_in(self, names: Sequence[str]) -> Architecture:
        """Return the architecture whose arrays these are. ValueError where they are no architecture's."""
        on: list[set[int]] = [set() for _ in self.layers]
        for name in names:
            for layer, numbers in zip(self.layers, on, strict=True):
                if name.startswith(f"{layer}.alternatives."):
                    numbers.add(int(name.removeprefix(f"{layer}.alternatives.").partition(".")[0]))
        if not all(on) or set(names) != set(self._shapes_of(found := self.of([*map(sorted, on)]))):
            raise ValueError("arrays of modules that are not whole, or of a layer without any")
        return found

    def fingerprint(self) -> str:
        """Return a short hash that changes with the network too."""
        return network_fingerprint(super().fingerprint(), self.supernet_shapes)


def require_modular(space: Supernet, method: str) -> ModularSpace:
    """Return ``space``; RefusedError where it has no pools of modules."""
    if isinstance(space, ModularSpace):
        return space
    problem = f"has no pools of modules, from which {method} assembles networks"
    remedy = (
        "Take space=lenet_modules or resnet18_modules, or make another (corolla.spaces.modular)"
    )
    raise RefusedError(Fault("space", space.name, problem, remedy))
