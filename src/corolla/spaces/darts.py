"""DARTS search space: which operation is on each edge of two kinds of cell.

DARTS: Liu, Simonyan & Yang, ICLR 2019, https://arxiv.org/abs/1806.09055; as single-path subnets:
PerFedRLNAS (AAAI 2024); as a network that is pruned while it trains: SPIDER (TMLR). Parameters and
multiply-accumulates are the published ones (``affine: false``: only the stem's BatchNorm has a scale).
Departures: candidates ascend in cost instead of DARTS' order, genotypes therefore go by names; shared
ReLUs (`corolla.spaces.darts_operations`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Unpack

from corolla.errors import Fault, RefusedError, refuse
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.costs import Costs, weight_macs
from corolla.spaces.darts_cells import DartsNetwork, DartsPlan, checked_alive
from corolla.spaces.darts_genotype import KINDS, Alive, Genotype, edge_name, edge_pairs
from corolla.spaces.darts_operations import CARRIES_NOTHING, operations_of
from corolla.spaces.supernet import Network, Shapes, Supernet

_FLOAT = 4  # bytes


class DartsSpace(Supernet):
    """One operation per edge; 28 dimensions at 4 nodes, ``normal.0-2`` to ``reduce.4-5``.

    The supernet is the mixed network with all operations on all edges. A subnet owns the whole tensors
    of its operations, and those that all share: stem, the cells' preprocessing, classifier.
    """

    def __init__(
        self,
        *,
        resolution: int,
        operations: str | Sequence[str],
        channels: int,
        cells: int,
        nodes: int,
        stem_multiplier: int,
        affine: bool,
        **network: Unpack[Network],
    ) -> None:
        """Take the YAML's settings.

        Raises:
            RefusedError: settings that make no network, all of them at once.

        """
        names, faults = operations_of(operations)
        faults += _faults(resolution, channels, cells, nodes, stem_multiplier)
        refuse(faults)
        pairs, candidates = edge_pairs(nodes), self._candidates(names)
        super().__init__(
            dimensions=tuple(
                Dimension(f"{kind}.{edge_name(pair)}", candidates)
                for kind in KINDS
                for pair in pairs
            ),
            resolution=resolution,
            **network,
        )
        self.plan = DartsPlan(
            operations=names,
            channels=channels,
            cells=cells,
            nodes=nodes,
            stem_multiplier=stem_multiplier,
            affine=affine,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            resolution=resolution,
        )

    @staticmethod
    def _candidates(operations: tuple[str, ...]) -> tuple[str, ...]:
        """Return what there is to choose from on an edge."""
        return operations

    def subnet(self, architecture: Architecture) -> DartsNetwork:
        """Build the network with one operation on every edge."""
        return DartsNetwork(self.plan, self.alive(architecture))

    def supernet(self) -> DartsNetwork:
        """Build the mixed network with all operations on every edge."""
        return DartsNetwork(self.plan, self.all_alive())

    def network(self, alive: Alive) -> DartsNetwork:
        """Build the network of any choices: SPIDER's local model, say, out of its saved state."""
        return DartsNetwork(self.plan, alive)

    def all_alive(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Return the choices of the supernet."""
        return dict.fromkeys(KINDS, (self.plan.operations,) * len(edge_pairs(self.plan.nodes)))

    def alive(self, architecture: Architecture) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Return the operations of each edge: of a single-path subnet, one."""
        self.check(architecture)
        chosen = [self._operations(index) for index in architecture.choices]
        half = len(chosen) // 2
        return {"normal": tuple(chosen[:half]), "reduce": tuple(chosen[half:])}

    def _operations(self, index: int) -> tuple[str, ...]:
        """Return the operations that a dimension's candidate ``index`` puts on its edge."""
        return (self.plan.operations[index],)

    def is_live(self, architecture: Architecture) -> bool:
        """Tell whether the output of both kinds of cell depends on their inputs.

        All nodes are part of the output, so that is so where an edge from an input carries anything. Then
        gradients reach the stem, from cell to cell.
        """
        choices = self.check(architecture).choices
        return all(any(choices[d] in self._carrying for d in read) for read in self._readers)

    def smallest(self) -> Architecture:
        """Return the cheapest architecture that is alive."""
        return self._smallest

    @cached_property
    def _carrying(self) -> frozenset[int]:
        """The candidates of a dimension with an operation whose output depends on what it reads."""
        count = len(self.dimensions[0])
        return frozenset(i for i in range(count) if set(self._operations(i)) - CARRIES_NOTHING)

    @cached_property
    def _readers(self) -> tuple[tuple[int, ...], ...]:
        """For each kind of cell the dimensions of the edges that read its inputs."""
        pairs = edge_pairs(self.plan.nodes)
        return tuple(
            tuple(n * len(pairs) + e for e, (source, _) in enumerate(pairs) if source < 2)
            for n in range(len(KINDS))
        )

    @cached_property
    def _smallest(self) -> Architecture:
        """All first choices, with the cheapest edge from an input where a kind of cell were dead.

        Of equals the one from the cell before to the first node: so every cell is used.
        """
        choices = [0] * len(self.dimensions)
        pairs = edge_pairs(self.plan.nodes)
        for read in self._readers:
            if any(choices[d] in self._carrying for d in read):
                continue

            def price(place: tuple[int, int]) -> tuple[float, float, int, int]:
                dimension, index = place
                tried = [*choices[:dimension], index, *choices[dimension + 1 :]]
                costs = self.costs_of(self.alive(Architecture(tuple(tried))))
                source, target = pairs[dimension % len(pairs)]
                return costs.macs, costs.training_memory_mib, -source, target

            alone = [i for i in sorted(self._carrying) if len(self._operations(i)) == 1]
            dimension, index = min(((d, i) for d in read for i in alone), key=price)
            choices[dimension] = index
        return Architecture(tuple(choices))

    def named(self, which: str | Sequence[int], *, key: str = "architecture") -> Architecture:
        """Return a fixed architecture; beside the usual names also of a genotype's text."""
        if isinstance(which, str) and "Genotype" in which:
            return self.require_live(self.from_genotype(Genotype.parse(which)))
        return super().named(which, key=key)

    def genotype(self, architecture: Architecture) -> Genotype:
        """Return the genotype of a single-path subnet."""
        return Genotype.of_alive(self.alive(architecture), self.plan.nodes)

    def from_genotype(self, genotype: Genotype) -> Architecture:
        """Return the architecture of a genotype; absent edges become ``none``.

        Raises:
            RefusedError: operations that this space lacks (``none`` among them: then an absent edge
                can only be said by `Genotype.alive` and `network`), or another number of nodes.

        """
        plan, choices, faults = self.plan, [], []
        if genotype.nodes != plan.nodes:
            remedy = f"Take a space with nodes={genotype.nodes}"
            problem = f"the cells of space {self.name!r} have {plan.nodes} nodes"
            raise RefusedError(Fault("genotype.nodes", genotype.nodes, problem, remedy))
        names = (*genotype.normal, *genotype.reduce)
        for dimension, name in zip(self.dimensions, names, strict=True):
            if name in dimension.choices:
                choices.append(dimension.choices.index(name))
            else:
                lacks = "an absent edge" if name == "none" else "it"
                problem = f"space {self.name!r} has no operation for {lacks}"
                remedy = f"It has {', '.join(plan.operations)}"
                if name == "none":
                    remedy += "; build the network from Genotype.alive() instead"
                faults.append(Fault(f"genotype.{dimension.name}", name, problem, remedy))
        refuse(faults)
        return Architecture(tuple(choices))

    def shapes(self, architecture: Architecture) -> Shapes:
        """Return the state_dict's shapes: a choice among the supernet's tensors."""
        return self.shapes_of(self.alive(architecture))

    def macs(self, architecture: Architecture) -> int:
        """Return multiply-accumulates of one forward pass, summed over the operations."""
        return self.macs_of(self.alive(architecture))

    def activation_bytes(self, architecture: Architecture, batch_size: int) -> int:
        """Return bytes kept for the backward pass in closed form."""
        return self.activation_bytes_of(self.alive(architecture), batch_size)

    def costs_of(self, alive: Alive, *, batch_size: int = 32) -> Costs:
        """Return what the network of any choices costs; not cached."""
        alive = checked_alive(self.plan, alive)
        return Costs.of(
            shapes=self.shapes_of(alive),
            macs=self.macs_of(alive),
            activation_bytes=self.activation_bytes_of(alive, batch_size),
        )

    def shapes_of(self, alive: Alive) -> Shapes:
        """Return name -> shape of the network of ``alive``, in its order."""
        shapes: Shapes = {}
        for edge, parts in self._parts:
            for operation in ("",) if edge is None else alive[edge[0]][edge[1]]:
                shapes.update(parts.get(operation, {}))
        return shapes

    def macs_of(self, alive: Alive) -> int:
        """Return multiply-accumulates of one image through the network of ``alive``."""
        return sum(self._weight_macs[name] for name in self.shapes_of(alive))

    def activation_bytes_of(self, alive: Alive, batch_size: int) -> int:
        """Return bytes that one training step of the network of ``alive`` keeps (exact without weights)."""
        plan = self.plan
        # The images, the stem's convolution, its ReLU; last, what the classifier reads.
        maps = (plan.in_channels + 2 * plan.stem) * plan.resolution**2 + plan.features
        norms = plan.stem  # channels of all BatchNorm layers
        kept = {kind: _kept(alive[kind], plan.nodes, kind == "reduce") for kind in KINDS}
        for number, place in enumerate(plan.cell_plans(), start=1):
            in_maps, out_maps, cell_norms = kept[place.kind]
            inside, outside = place.channels * place.in_side**2, place.channels * place.out_side**2
            maps += (2 + in_maps) * inside + out_maps * outside  # 2: both inputs, fitted
            maps += plan.nodes * outside if number < plan.cells else 0  # the output's ReLU
            if place.after_reduction:  # even and odd pixels of the cell before the last
                maps += 2 * place.before_last * place.in_side**2
            norms += (2 + cell_norms) * place.channels
        # BatchNorm keeps mean and deviation of the batch, and its running statistics.
        return _FLOAT * (batch_size * maps + 4 * norms)

    @cached_property
    def _parts(self) -> list[tuple[tuple[str, int] | None, dict[str, Shapes]]]:
        """The supernet's tensors in its order, by edge and operation; what is shared has neither."""
        kinds = [place.kind for place in self.plan.cell_plans()]
        parts: list[tuple[tuple[str, int] | None, dict[str, Shapes]]] = []
        current: tuple[str, str] | None = None
        for name, shape in self.supernet_shapes.items():
            words = name.split(".")
            on_edge = words[0] == "cells" and words[2] == "edges"
            section, operation = (
                (words[1], words[3] if on_edge else ""),
                words[4] if on_edge else "",
            )
            if section != current:
                parts.append(((kinds[int(words[1])], int(words[3])) if on_edge else None, {}))
                current = section
            parts[-1][1].setdefault(operation, {})[name] = shape
        return parts

    @cached_property
    def _weight_macs(self) -> dict[str, int]:
        places = list(self.plan.cell_plans())

        def side(name: str) -> int:
            words = name.split(".")
            if words[0] != "cells":
                return self.plan.resolution if words[0] == "stem" else 1
            place = places[int(words[1])]
            return place.out_side if words[2] == "edges" else place.in_side

        return weight_macs(self.supernet_shapes, side)


def _kept(edges: Sequence[Sequence[str]], nodes: int, reduces: bool) -> tuple[int, int, int]:
    """Return what one cell keeps: maps of its inputs' size, of its nodes' size, BatchNorm layers."""
    in_maps = out_maps = norms = 0
    rectified, raw, halved = set(), set(), set()
    for (source, _), operations in zip(edge_pairs(nodes), edges, strict=True):
        for operation in operations:
            strided = reduces and source < 2
            if operation.startswith("sep_conv"):  # outputs of 4 convolutions, and the ReLU between
                out_maps, norms = out_maps + 5, norms + 2
            elif operation.startswith("dil_conv"):
                out_maps, norms = out_maps + 2, norms + 1
            elif operation == "max_pool_3x3":  # what is pooled, and where from (64 bits)
                out_maps, norms = out_maps + 3, norms + 1
            elif operation == "avg_pool_3x3" or (operation == "skip_connect" and strided):
                out_maps, norms = out_maps + 1, norms + 1
            if "_conv_" in operation or (operation == "skip_connect" and strided):
                rectified.add(source)
            elif "_pool_" in operation:
                raw.add(source)
            if operation == "skip_connect" and strided:
                halved.add(source)
    out_maps += 2 * len(halved)  # even and odd pixels
    for source in (*rectified, *raw):  # each once, whatever reads it
        if source < 2:
            in_maps += 1
        else:
            out_maps += 1
    return in_maps, out_maps, norms


def _faults(
    resolution: int, channels: int, cells: int, nodes: int, stem_multiplier: int
) -> Iterator[Fault]:
    if resolution < 4 or resolution % 4:
        lower = max(4, resolution // 4 * 4)
        problem = "two reduction cells halve the sides, which must be multiples of 4"
        remedy = f"Use {lower} or {lower + 4}: images are resized inside the network"
        yield Fault("resolution", resolution, problem, remedy)
    if cells < 3:
        problem = "cells at 1/3 and 2/3 of the depth reduce, and at least one must be normal"
        yield Fault("cells", cells, problem, "Use 3 or more")
    for key, value in (
        ("channels", channels),
        ("nodes", nodes),
        ("stem_multiplier", stem_multiplier),
    ):
        if value < 1:
            yield Fault(key, value, "must be at least 1", "DARTS: 16 channels, 4 nodes, stem 3")
