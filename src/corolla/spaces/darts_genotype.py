"""The genotype of a DARTS cell, read from and written as the tuple text that DARTS made common.

``Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ...], normal_concat=[2, 3, 4, 5],
reduce=[...], reduce_concat=[2, 3, 4, 5])``, where an entry is (operation, node it reads): nodes 0 and 1
are the cell's inputs. The text does not say which node an entry belongs to; that follows from its place.
Two forms are read and written:

- two entries per node, as DARTS and its descendants publish; the other edges are absent;
- one entry for every edge (14 at 4 nodes), with ``('none', i)`` where nothing is on the edge. This is what
  single-path subnets need, which keep all edges. Without the ``none`` entries it could not be read back.

Nothing of a text is ever executed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from corolla.errors import Fault, RefusedError, nearest, refuse
from corolla.spaces.darts_operations import OPERATIONS

Alive = Mapping[str, Sequence[Sequence[str]]]
"""Per kind of cell and edge the operations that are there; JSON-able. An empty edge is absent."""

KINDS = ("normal", "reduce")
_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_LONGEST = 20_000  # characters; a text of all 14 edges has about 800
_EXAMPLE = (
    "Write Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=...)"
)


def edge_pairs(nodes: int) -> tuple[tuple[int, int], ...]:
    """Return (source, target) of all edges in DARTS' order: (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), ..."""
    return tuple((source, target) for target in range(2, 2 + nodes) for source in range(target))


def edge_name(pair: tuple[int, int]) -> str:
    """Return ``0-2`` for the edge from node 0 to node 2."""
    return f"{pair[0]}-{pair[1]}"


@dataclass(frozen=True)
class Genotype:
    """One operation per edge of either cell, in `edge_pairs` order; ``none`` where there is no edge."""

    nodes: int
    normal: tuple[str, ...]
    reduce: tuple[str, ...]

    def __post_init__(self) -> None:
        faults = []
        for kind in KINDS:
            operations, edges = self.operations(kind), edge_pairs(self.nodes)
            if len(operations) != len(edges):
                problem = f"{self.nodes} nodes have {len(edges)} edges, not {len(operations)}"
                faults.append(Fault(f"genotype.{kind}", operations, problem, _EXAMPLE))
            faults += [
                Fault(f"genotype.{kind}", name, "no such operation", nearest(name, OPERATIONS))
                for name in dict.fromkeys(operations)
                if name not in OPERATIONS
            ]
        refuse(faults)

    def operations(self, kind: str) -> tuple[str, ...]:
        """Return the operations of the ``normal`` or ``reduce`` cell, one per edge."""
        return self.normal if kind == "normal" else self.reduce

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Read either form; an assignment (``DARTS = Genotype(...)``) is taken too.

        Raises:
            RefusedError: what is not such a text; every fault with its cell and entry.

        """
        fields = _fields(text)
        faults: list[Fault] = []
        nodes = {kind: _nodes(kind, fields[f"{kind}_concat"], faults) for kind in KINDS}
        if not faults and nodes["normal"] != nodes["reduce"]:
            problem = "the two cells differ in their number of nodes"
            faults.append(Fault("genotype.reduce_concat", nodes, problem, "Give both the same"))
        refuse(faults)
        cells = {kind: _cell(kind, fields[kind], nodes[kind], faults) for kind in KINDS}
        refuse(faults)
        return cls(nodes["normal"], cells["normal"], cells["reduce"])

    @classmethod
    def of_alive(cls, alive: Alive, nodes: int) -> Genotype:
        """Return the genotype of choices that are decided: at most one operation per edge."""
        open_ = [
            Fault(
                f"genotype.{kind}.{edge_name(pair)}",
                list(operations),
                "more than one operation is left, a genotype holds one",
                "Decide the edge first",
            )
            for kind in KINDS
            for pair, operations in zip(edge_pairs(nodes), alive[kind], strict=True)
            if len(operations) > 1
        ]
        if open_:
            raise RefusedError(open_)
        decided = {k: tuple(names[0] if names else "none" for names in alive[k]) for k in KINDS}
        return cls(nodes, decided["normal"], decided["reduce"])

    def alive(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Return the operations that are there, edge by edge: ``none`` becomes an absent edge."""
        return {
            kind: tuple(() if name == "none" else (name,) for name in self.operations(kind))
            for kind in KINDS
        }

    def text(self) -> str:
        """Return the tuple text: DARTS' own form if every node reads two others, else all edges."""
        pairs = edge_pairs(self.nodes)
        short = all(
            sum(o != "none" and t == node for o, (_, t) in zip(names, pairs, strict=True)) == 2
            for names in (self.normal, self.reduce)
            for node in range(2, 2 + self.nodes)
        )
        concat = list(range(2, 2 + self.nodes))
        cells = {
            kind: [
                (name, source)
                for name, (source, _) in zip(self.operations(kind), pairs, strict=True)
                if name != "none" or not short
            ]
            for kind in KINDS
        }
        return "Genotype({})".format(
            ", ".join(f"{kind}={cells[kind]}, {kind}_concat={concat}" for kind in KINDS)
        )


def _refused(text: str, problem: str) -> RefusedError:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return RefusedError(Fault("genotype", shown, problem, _EXAMPLE))


def _fields(text: str) -> dict[str, object]:
    """Return the four literal arguments of the text's one call."""
    if len(text) > _LONGEST:
        raise _refused(text, f"is longer than {_LONGEST} characters")
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(text, f"cannot be read ({type(error).__name__})") from error
    if len(body) != 1 or not isinstance(body[0], ast.Expr | ast.Assign):
        raise _refused(text, "is not one Genotype(...)")
    call = body[0].value
    named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    if not isinstance(call, ast.Call) or not named or ast.unparse(call.func) != "Genotype":
        raise _refused(text, "is not one Genotype(...)")
    given = [str(word.arg) for word in call.keywords]
    if call.args or sorted(given) != sorted(_FIELDS):
        raise _refused(text, f"needs the arguments {', '.join(_FIELDS)} by name, has {given}")
    try:
        return {str(word.arg): _literal(word.value) for word in call.keywords}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise _refused(text, "holds something other than literals") from error


def _literal(node: ast.expr) -> object:
    """Return a literal's value, or the list that ``range(2, 6)`` means, as DARTS prints it."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return ast.literal_eval(node)
    bounds = [ast.literal_eval(argument) for argument in node.args]
    small = all(isinstance(bound, int) and 0 <= bound < 100 for bound in bounds)
    if node.func.id != "range" or node.keywords or len(bounds) != 2 or not small:
        raise ValueError(node.func.id)
    return list(range(bounds[0], bounds[1]))


def _nodes(kind: str, concat: object, faults: list[Fault]) -> int:
    listed = list(concat) if isinstance(concat, list | tuple) else []
    if not listed or sorted(map(repr, listed)) != sorted(
        repr(node) for node in range(2, 2 + len(listed))
    ):
        problem = "our cells concatenate all of their nodes"
        remedy = "Give [2, 3, 4, 5] for 4 nodes"
        faults.append(Fault(f"genotype.{kind}_concat", concat, problem, remedy))
    return len(listed)


def _cell(kind: str, entries: object, nodes: int, faults: list[Fault]) -> tuple[str, ...]:
    """Return one operation per edge; what is wrong is added to ``faults``."""
    key = f"genotype.{kind}"
    listed = list(entries) if isinstance(entries, list | tuple) else []
    edges = edge_pairs(nodes)
    if len(listed) not in (2 * nodes, len(edges)):
        problem = f"has {len(listed)} entries; {nodes} nodes take {2 * nodes} (two a node) or "
        faults.append(Fault(key, entries, f"{problem}{len(edges)} (every edge)", _EXAMPLE))
        return ()
    counts = [2 if len(listed) == 2 * nodes else target for target in range(2, 2 + nodes)]
    starts = [sum(counts[:i]) for i in range(nodes + 1)]
    operations: dict[tuple[int, int], str] = {}
    for target, (start, end) in enumerate(pairwise(starts), start=2):
        for entry in listed[start:end]:
            if not _is_entry(entry):
                faults.append(Fault(key, entry, "is not (operation, node)", _EXAMPLE))
                continue
            name, source = entry
            if name not in OPERATIONS:
                faults.append(Fault(key, name, "no such operation", nearest(name, OPERATIONS)))
            if not 0 <= source < target:
                remedy = f"Node {target} reads nodes 0..{target - 1}"
                faults.append(Fault(key, entry, f"node {target} cannot read it", remedy))
            elif (source, target) in operations:
                remedy = "A node has one edge from each earlier node"
                faults.append(Fault(key, entry, f"node {target} reads it twice", remedy))
            operations[source, target] = name
    return tuple(operations.get(edge, "none") for edge in edges)


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, tuple | list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and type(entry[1]) is int
    )
