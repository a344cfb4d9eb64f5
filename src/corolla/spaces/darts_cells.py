"""DARTS cells with any operations on any edge: mixed networks, single-path subnets, and all between.

One class serves the supernet (all operations on every edge), the subnets that PerFedRLNAS sends (one
operation on every edge) and the model that SPIDER prunes as it decides (fewer and fewer). Names of
parameters hold cell, edge and operation (``cells.0.edges.3.sep_conv_3x3.first.pointwise.weight``), so
they are the same in all of them and do not change when others are deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.errors import Fault, RefusedError, nearest, refuse
from corolla.spaces.darts_genotype import KINDS, Alive, edge_name, edge_pairs
from corolla.spaces.darts_operations import (
    FactorizedReduce,
    View,
    build_operation,
    halves,
)
from corolla.spaces.layers import ConvBN, Resize

Masks = Mapping[int, Collection[str]]
"""Edge -> operations of it that a pass leaves out."""


@dataclass(frozen=True)
class CellPlan:
    """One cell's place in the network. Sides are of its square inputs (fitted) and outputs."""

    kind: str  # normal or reduce
    before_last: int  # channels of the output of the cell before the last
    last: int
    channels: int  # of every node
    after_reduction: bool  # the last cell halved the sides, the one before it did not yet
    in_side: int
    out_side: int


@dataclass(frozen=True, kw_only=True)
class DartsPlan:
    """What all networks of one space have in common; see `DartsSpace` for the settings."""

    operations: tuple[str, ...]  # in order of cost
    channels: int
    cells: int
    nodes: int
    stem_multiplier: int
    affine: bool
    num_classes: int
    in_channels: int
    resolution: int

    @property
    def stem(self) -> int:
        """Channels of the stem."""
        return self.stem_multiplier * self.channels

    @property
    def features(self) -> int:
        """Channels that the classifier reads: two reductions double twice."""
        return 4 * self.channels * self.nodes

    def cell_plans(self) -> Iterator[CellPlan]:
        """Yield the cells from input to output; those at 1/3 and 2/3 of the depth reduce."""
        before_last = last = self.stem
        channels, side, reduced = self.channels, self.resolution, False
        for index in range(self.cells):
            reduces = index in (self.cells // 3, 2 * self.cells // 3)
            channels, out_side = (2 * channels, side // 2) if reduces else (channels, side)
            kind = KINDS[reduces]
            yield CellPlan(kind, before_last, last, channels, reduced, side, out_side)
            before_last, last, side, reduced = last, self.nodes * channels, out_side, reduces


class Node:
    """A node's value and what operations make of it first, computed when one asks and kept."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._rectified: Tensor | None = None
        self._halves: tuple[Tensor, Tensor] | None = None

    @property
    def rectified(self) -> Tensor:
        """The node's ReLU."""
        if self._rectified is None:
            self._rectified = functional.relu(self.value)
        return self._rectified

    def view(self, view: View) -> Tensor | tuple[Tensor, Tensor]:
        """Return what an operation with ``reads=view`` takes."""
        if view == "node":
            return self.value
        if view == "rectified":
            return self.rectified
        if self._halves is None:
            self._halves = halves(self.rectified)
        return self._halves


class Edge(nn.ModuleDict):
    """The alive operations of one edge, each under its name."""

    def run(
        self, node: Node, *, masked: Collection[str], weights: Mapping[str, Tensor] | None
    ) -> list[Tensor]:
        """Return what each operation contributes; ``none`` and masked ones contribute nothing."""
        outputs = []
        for name, operation in self.items():
            if name != "none" and name not in masked:
                y = operation(node.view(cast(View, operation.reads)))
                outputs.append(y if weights is None else weights[name] * y)
        return outputs


class DartsCell(nn.Module):
    """Two inputs, ``nodes`` nodes that each sum their edges; the output concatenates the nodes."""

    def __init__(self, plan: DartsPlan, place: CellPlan, alive: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.operations = plan.operations
        self.nodes = plan.nodes
        self.stride = 2 if place.kind == "reduce" else 1
        self.after_reduction = place.after_reduction
        channels, affine = place.channels, plan.affine
        self.preprocess0 = (
            FactorizedReduce(place.before_last, channels, affine=affine)
            if place.after_reduction
            else ConvBN(place.before_last, channels, 1, affine=affine)
        )
        self.preprocess1 = ConvBN(place.last, channels, 1, affine=affine)
        self.edges = nn.ModuleDict()
        for index, (source, _) in enumerate(edge_pairs(plan.nodes)):
            if alive[index]:
                stride = self.stride if source < 2 else 1
                self.edges[str(index)] = Edge(
                    {o: build_operation(o, channels, stride, affine=affine) for o in alive[index]}
                )

    def forward(
        self,
        before_last: Tensor,
        last: Tensor,
        *,
        masks: Masks | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return ``(n, nodes * channels, h, w)``, not rectified.

        The inputs are the rectified outputs of the two cells before. ``weights``, ``(edges, operations
        of the space)``, multiply what each operation gives; without them nothing is multiplied.
        """
        fitted = self.preprocess0(halves(before_last) if self.after_reduction else before_last)
        states = [Node(fitted), Node(self.preprocess1(last))]
        for index, (source, target) in enumerate(edge_pairs(self.nodes)):
            if source == 0:
                outputs: list[Tensor] = []
            if (edge := self.edge(index)) is not None:
                masked = masks.get(index, ()) if masks else ()
                row = None if weights is None else self._named(weights[index])
                outputs += edge.run(states[source], masked=masked, weights=row)
            if source == target - 1:
                states.append(Node(self._sum(outputs) if outputs else self._zeros(fitted)))
        return torch.cat([node.value for node in states[2:]], dim=1)

    def edge(self, index: int) -> Edge | None:
        """Return the edge's operations; None when it is absent."""
        return cast(Edge, self.edges[str(index)]) if str(index) in self.edges else None

    def _named(self, row: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.operations, row.unbind(), strict=True))

    def _sum(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the sum. Only a tensor made here is added to in place: a skip's output is its input."""
        if len(outputs) == 1:
            return outputs[0]
        total = outputs[0] + outputs[1]
        for output in outputs[2:]:
            total += output
        if self.training and total.requires_grad and not torch.compiler.is_compiling():
            # The concatenation hands back a slice, which every BatchNorm that was summed would copy to
            # a dense map by itself: 7 % of a training step.
            last = total.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if last else torch.contiguous_format
            total.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: gradient.contiguous(memory_format=layout)
            )
        return total

    def _zeros(self, like: Tensor) -> Tensor:
        """Return the value of a node without any input."""
        return torch.zeros_like(like[:, :, :: self.stride, :: self.stride])


class DartsNetwork(nn.Module):
    """Stem, cells, mean over pixels, linear classifier, with the operations of ``alive``.

    All normal cells share their choices, and so do all reduction cells.
    """

    def __init__(self, plan: DartsPlan, alive: Alive) -> None:
        super().__init__()
        alive = checked_alive(plan, alive)
        self.plan = plan
        self.resize = Resize(plan.resolution)
        self.stem = ConvBN(
            plan.in_channels, plan.stem, 3, affine=True
        )  # affine also in DARTS' search
        self.kinds = tuple(place.kind for place in plan.cell_plans())
        self.cells = nn.ModuleList(
            DartsCell(plan, place, alive[place.kind]) for place in plan.cell_plans()
        )
        self.classifier = nn.Linear(plan.features, plan.num_classes)
        # gives `weights` to every pass
        self.mixture: Callable[[], Mapping[str, Tensor]] | None = None
        self._masks: dict[str, dict[int, frozenset[str]]] = {kind: {} for kind in KINDS}

    def forward(self, images: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return logits ``(n, num_classes)``.

        ``weights`` holds for each kind of cell a tensor ``(edges, operations of the space)``, such as
        FedNAS' softmax(alpha), by which outputs are multiplied; without it, and without a `mixture`, the
        operations are summed.
        """
        if weights is None and self.mixture is not None:
            weights = self.mixture()
        before_last = last = functional.relu(self.stem(self.resize(images)))
        for number, (kind, cell) in enumerate(zip(self.kinds, self.cells, strict=True), start=1):
            output = cell(
                before_last,
                last,
                masks=self._masks[kind],
                weights=None if weights is None else weights[kind],
            )
            if number < len(self.cells):
                # Both of the next two cells read the output through a ReLU.
                before_last, last = last, functional.relu(output)
        return self.classifier(output.mean((2, 3)))  # type: ignore[no-any-return]

    def alive(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Return per kind of cell and edge the operations that are there, in order of cost."""
        alive = {}
        for kind in KINDS:
            first = self._cells(kind)[0][1]
            edges = [first.edge(index) for index in range(len(edge_pairs(self.plan.nodes)))]
            alive[kind] = tuple(() if edge is None else tuple(edge) for edge in edges)
        return alive

    def prune(self, kind: str, edge: int, operation: str | None = None) -> dict[str, nn.Parameter]:
        """Delete an operation, or the whole edge, from all cells of ``kind``, for good.

        An edge that loses its last operation is gone; a node without edges is zero.

        Returns:
            The deleted parameters by name, for an optimiser to forget.

        Raises:
            RefusedError: the choice is not there (any more).

        """
        doomed = self._choices(kind, edge, operation)
        deleted: dict[str, nn.Parameter] = {}
        for number, cell in self._cells(kind):
            operations = cell.edge(edge)
            if operations is None:
                continue
            for name in doomed:
                prefix = f"cells.{number}.edges.{edge}.{name}"
                deleted.update(operations[name].named_parameters(prefix))
                del operations[name]
            if not len(operations):
                del cell.edges[str(edge)]
        return deleted

    def macs(self, kind: str, edge: int, operation: str | None = None) -> int:
        """Return multiply-accumulates of an operation, or of all on an edge, in one image's forward pass."""
        names = self._choices(kind, edge, operation)
        return sum(
            weight.numel()
            * place.out_side**2  # a convolution multiplies each weight once per pixel
            for place, cell in zip(self.plan.cell_plans(), self.cells, strict=True)
            if place.kind == kind
            for name in names
            for weight in cast(DartsCell, cell).edges[str(edge)][name].parameters()  # type: ignore[index]
            if weight.dim() == 4
        )

    def select(self, chosen: Mapping[str, Sequence[str]]) -> None:
        """Run one operation of each edge from now on, by kind of cell; an empty mapping: all of them again.

        Operations that are not there select nothing on their edge.
        """
        alive = self.alive()
        self._masks = {
            kind: {
                edge: frozenset(name for name in alive[kind][edge] if name != kept)
                for edge, kept in enumerate(chosen.get(kind, ()))
            }
            for kind in KINDS
        }

    @contextmanager
    def masked(self, kind: str, edge: int, operation: str | None = None) -> Iterator[None]:
        """Leave an operation, or the whole edge, out of all passes inside the ``with``; may be nested.

        Raises:
            RefusedError: the choice is not there.

        """
        doomed = self._choices(kind, edge, operation)
        masks = self._masks[kind]
        before = masks.get(edge, frozenset())
        masks[edge] = before.union(doomed)
        try:
            yield
        finally:
            masks[edge] = before
            if not before:
                del masks[edge]

    def _cells(self, kind: str) -> list[tuple[int, DartsCell]]:
        """Return number and cell of all cells of one kind."""
        cells = enumerate(zip(self.kinds, self.cells, strict=True))
        return [(number, cast(DartsCell, cell)) for number, (of, cell) in cells if of == kind]

    def _choices(self, kind: str, edge: int, operation: str | None) -> list[str]:
        """Return the operations meant; refuse those that are not alive."""
        if kind not in KINDS:
            raise RefusedError(Fault("cell", kind, "no such kind", f"Known: {', '.join(KINDS)}"))
        found = self._cells(kind)[0][1].edge(edge)
        if found is None:
            left = [index for index, names in enumerate(self.alive()[kind]) if names]
            raise RefusedError(Fault(f"{kind}.edge", edge, "no such edge", f"Alive: {left}"))
        if operation is not None and operation not in found:
            key = f"{kind}.{edge_name(edge_pairs(self.plan.nodes)[edge])}"
            remedy = nearest(operation, list(found))
            raise RefusedError(Fault(key, operation, "not alive", remedy))
        return list(found) if operation is None else [operation]


def checked_alive(plan: DartsPlan, alive: Alive) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return ``alive`` with the operations in order of cost; RefusedError for choices of another space."""
    faults = [
        Fault("alive", kind, "no such kind of cell", f"Known: {', '.join(KINDS)}")
        for kind in alive
        if kind not in KINDS
    ]
    pairs = edge_pairs(plan.nodes)
    for kind in KINDS:
        edges = alive.get(kind, ())
        if len(edges) != len(pairs):
            remedy = f"{plan.nodes} nodes have {len(pairs)} edges; [] for one that is absent"
            faults.append(Fault(f"alive.{kind}", len(edges), "edges are not all listed", remedy))
        for pair, names in zip(pairs, edges, strict=False):
            key = f"alive.{kind}.{edge_name(pair)}"
            faults += [
                Fault(key, name, "not in this space", nearest(name, plan.operations))
                for name in names
                if name not in plan.operations
            ]
            if len(set(names)) < len(names):
                faults.append(Fault(key, list(names), "named twice", "Name each operation once"))
    refuse(faults)
    return {
        kind: tuple(tuple(o for o in plan.operations if o in names) for names in alive[kind])
        for kind in KINDS
    }
