"""DARTS cells as SVG, without an external binary: nodes from left to right, every edge labelled.

Three drawings: one network in full, for a file too; a compact one, of which many stand side by side and
in which the same edge has the same place; and the difference of two networks. Colours are the page's CSS
variables: right in light and in dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from corolla.report.darts_edges import KINDS, edge_pairs
from corolla.report.darts_layout import COMPACT, FULL, MIDDLE, Cell, Label, Look, shortened
from corolla.report.darts_looks import hue, in_order, short_name

if TYPE_CHECKING:
    from corolla.spaces.darts_genotype import Genotype

Operations = Sequence[str | Sequence[str]]
"""Per edge, in `edge_pairs` order, an operation or those that are alive; ``none`` and () are not drawn."""

FIRST, SECOND = "s1", "s2"  # roles of two networks in the drawing of their difference

_TITLE = 24  # pixels
_COMPACT_LABEL = COMPACT.width("sep 3")  # the longest short name: all drawings get the same columns
# Colours of a drawing outside the report's page: the same variables, for both schemes.
_STYLE = """svg{color-scheme:light dark;background:var(--surface);
--surface:#fff;--grid:#e3dfe6;--ink:#211c26;--muted:#635b6b;
--s1:#1256c6;--s2:#c26f00;--s3:#2d8d7e;--s4:#640a14;--s5:#a566f0;--s6:#8e4c7f}
@media (prefers-color-scheme:dark){svg{--surface:#1c1a21;--grid:#3a3643;--ink:#ece8f0;--muted:#aaa2b3;
--s1:#5b98f5;--s2:#fbb54e;--s3:#a7f3d1;--s4:#f0683a;--s5:#b9b4ff;--s6:#c978b2}}"""


def draw_genotype(genotype: Genotype, *, standalone: bool = False) -> Markup:
    """Draw both cells below each other; see `draw_cells`."""
    cells = {f"{kind} cell": genotype.operations(kind) for kind in KINDS}
    return draw_cells(cells, nodes=genotype.nodes, standalone=standalone)


def draw_cells(
    cells: Mapping[str, Operations], *, nodes: int = 4, standalone: bool = False
) -> Markup:
    """Return one SVG with a cell per entry of ``cells``, titled with its key, below each other.

    Inline SVG takes its colours from the page; ``standalone`` adds them and the namespace, for a file.

    Raises:
        ValueError: a cell whose edges are not all listed.

    """
    labelled = {
        title: {pair: _in_full(alive) for pair, alive in _edges(operations, nodes).items()}
        for title, operations in cells.items()
    }
    column = FULL.column(_widest(FULL, labelled.values()))
    drawn, top, width = [], 0.0, 0.0
    for title, edges in labelled.items():
        drawing = Cell(edges, nodes, column=column, top=top + (_TITLE if title else 0))
        if title:
            drawn.append(
                Markup(
                    '<text x="10" y="{}" fill="var(--ink)" font-size="13" font-weight="600">{}</text>'
                ).format(shortened(top + 17), title)
            )
        drawn.append(drawing.markup())
        top, width = drawing.bottom + FULL.margin, drawing.width
    words = "; ".join(
        f"{title}: {_described(operations, nodes)}".removeprefix(": ")
        for title, operations in cells.items()
    )
    return _svg(drawn, width, top, words, standalone=standalone)


def draw_compact(operations: Operations, *, nodes: int = 4, said: str = "") -> Markup:
    """Return a small inline drawing of one cell, edges coloured; ``said`` opens its description.

    An edge with several operations shows the colours of all of them and how many they are.

    Raises:
        ValueError: the edges are not all listed.

    """
    edges = {
        pair: Label(short_name(alive), " + ".join(alive), tuple(map(hue, in_order(alive))))
        for pair, alive in _edges(operations, nodes).items()
    }
    cell = Cell(edges, nodes, column=COMPACT.column(_COMPACT_LABEL), look=COMPACT)
    return _svg([cell.markup()], cell.width, cell.bottom, said + _described(operations, nodes))


def draw_difference(
    first: Operations, second: Operations, *, names: tuple[str, str], nodes: int = 4
) -> Markup:
    """Return one inline drawing of two cells: edges both have alike are grey, the others coloured.

    Edges of the first alone have the colour `FIRST`, those of the second alone `SECOND` and a dashed
    frame; an edge that both have with other operations has both colours and both names.

    Raises:
        ValueError: the edges are not all listed.

    """
    ours, theirs = _edges(first, nodes), _edges(second, nodes)
    edges: dict[tuple[int, int], Label] = {}
    told = []
    for pair in edge_pairs(nodes):
        a, b = ours.get(pair), theirs.get(pair)
        if a is None and b is None:
            continue
        edges[pair] = label = _compared(a, b, names)
        if a != b:
            told.append(f"{pair[0]} to {pair[1]} {label.title}")
    # As wide without an edge of two names: drawings of several pairs have one scale.
    widest = max(_widest(MIDDLE, [edges]), MIDDLE.width("skip | sep 3"))
    cell = Cell(edges, nodes, column=MIDDLE.column(widest), look=MIDDLE)
    words = ", ".join(told) or f"{names[0]} and {names[1]} have the same cell"
    return _svg([cell.markup()], cell.width, cell.bottom, words)


def _in_full(alive: Sequence[str]) -> Label:
    words = " + ".join(alive) if len(alive) < 3 else f"{len(alive)} operations"
    return Label(words, " + ".join(alive), (hue(alive[0]) if len(alive) == 1 else "muted",))


def _compared(
    first: Sequence[str] | None, second: Sequence[str] | None, names: tuple[str, str]
) -> Label:
    """Return the label of an edge that at least one of two networks has."""
    if second is None or first is None:
        alive, role, name = (
            (first, FIRST, names[0]) if second is None else (second, SECOND, names[1])
        )
        alive = alive or ()
        return Label(
            short_name(alive),
            f"{' + '.join(alive)}, {name} only",
            (role,),
            dashed=role == SECOND,
            wire=role,
        )
    if tuple(first) == tuple(second):
        return Label(short_name(first), f"{' + '.join(first)}, both", ("muted",), faint=True)
    words = [short_name(first), short_name(second)]
    if words[0] == words[1]:  # as many operations, but others
        words = ["+".join(map(short_name, alive)) for alive in (first, second)]
    title = f"{' + '.join(first)} for {names[0]}, {' + '.join(second)} for {names[1]}"
    return Label(" | ".join(words), title, (FIRST, SECOND), wire="ink")


def _edges(operations: Operations, nodes: int) -> dict[tuple[int, int], tuple[str, ...]]:
    """Return the operations of the edges that carry anything; ValueError where edges are missing."""
    pairs = edge_pairs(nodes)
    if len(operations) != len(pairs):
        raise ValueError(
            f"a cell of {nodes} nodes has {len(pairs)} edges, got {len(operations)} operations"
        )
    return {pair: alive for pair, o in zip(pairs, operations, strict=True) if (alive := _alive(o))}


def _alive(operations: str | Sequence[str]) -> tuple[str, ...]:
    names = (operations,) if isinstance(operations, str) else tuple(operations)
    return tuple(name for name in names if name != "none")


def _widest(look: Look, cells: Iterable[Mapping[tuple[int, int], Label]]) -> float:
    return max(
        (look.width(label.words) for edges in cells for label in edges.values()), default=0.0
    )


def _described(operations: Operations, nodes: int) -> str:
    edges = _edges(operations, nodes).items()
    return ", ".join(f"{s} to {t} {' + '.join(alive)}" for (s, t), alive in edges) or "no edges"


def _svg(
    drawn: Sequence[Markup], width: float, height: float, words: str, *, standalone: bool = False
) -> Markup:
    # Sans serif stands behind the page's own font, which text in an inline drawing inherits.
    head = Markup('<svg{} viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}"{}>')
    return (
        head.format(
            Markup(' xmlns="http://www.w3.org/2000/svg"') if standalone else "",
            *(width, shortened(height), width, shortened(height), words),
            Markup(' font-family="system-ui, sans-serif"') if standalone else "",
        )
        + (Markup("<style>{}</style>").format(Markup(_STYLE)) if standalone else Markup(""))
        + Markup("").join(drawn)
        + Markup("</svg>")
    )
