"""DARTS cells as SVG, without an external binary: nodes from left to right, every edge labelled.

A node's output runs along one line of its own (it is one tensor, however many read it); where a later
node reads it, the line is tapped, the operation stands on the tap, and a node's taps meet above its box.
So labels and boxes never cover each other, with 2 edges a node as with all 14. Colours are the page's CSS
variables: right in light and in dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from corolla.spaces.darts_genotype import KINDS, Genotype, edge_pairs

Operations = Sequence[str | Sequence[str]]
"""Per edge, in `edge_pairs` order, an operation or those that are alive; ``none`` and () are not drawn."""

_ROW, _LABEL, _BOX_WIDTH, _BOX_HEIGHT = 50, 22, 66, 26  # pixels; _LABEL: below its line
_LETTER = 6.3  # of 10.5 pixels, on average, a little generous
_MARGIN, _BEFORE, _AFTER = 10, 10, 8  # before and after a label: tap and join
_TITLE = 24
_HUES = (  # by family, in the page's order of series; other operations are muted
    ("sep_conv", "s1"),
    ("dil_conv", "s5"),
    ("skip", "s3"),
    ("max_pool", "s2"),
    ("avg_pool", "s4"),
    ("noise", "s6"),
)
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


def draw_cell(operations: Operations, *, nodes: int = 4, standalone: bool = False) -> Markup:
    """Draw one cell; see `draw_cells`."""
    return draw_cells({"": operations}, nodes=nodes, standalone=standalone)


def draw_cells(
    cells: Mapping[str, Operations], *, nodes: int = 4, standalone: bool = False
) -> Markup:
    """Return one SVG with a cell per entry of ``cells``, titled with its key, below each other.

    Inline SVG takes its colours from the page; ``standalone`` adds them and the namespace, for a file.

    Raises:
        ValueError: a cell whose edges are not all listed.

    """
    widest = max((_width(_words(_alive(o))) for ops in cells.values() for o in ops), default=0.0)
    column = _BOX_WIDTH / 2 + 8 + _BEFORE + widest + _AFTER  # a tap lies right of its box
    drawn, top = [], 0.0
    for title, operations in cells.items():
        drawing = _Cell(operations, nodes, column, top + (_TITLE if title else 0))
        if title:
            drawn.append(
                _text(_MARGIN, top + 17, title, 'font-size="13" font-weight="600"', anchor="start")
            )
        drawn.append(drawing.markup())
        top = drawing.bottom + _MARGIN
    width = _Cell.width(nodes, column)
    words = "; ".join(
        f"{title}: {_described(operations, nodes)}".removeprefix(": ")
        for title, operations in cells.items()
    )
    # Sans serif stands behind the page's own font, which text in an inline drawing inherits.
    head = Markup('<svg{} viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}"{}>')
    return (
        head.format(
            Markup(' xmlns="http://www.w3.org/2000/svg"') if standalone else "",
            *(width, _number(top), width, _number(top), words),
            Markup(' font-family="system-ui, sans-serif"') if standalone else "",
        )
        + (Markup("<style>{}</style>").format(Markup(_STYLE)) if standalone else Markup(""))
        + Markup("").join(drawn)
        + Markup("</svg>")
    )


class _Cell:
    """One cell; the first row's line is ``top`` pixels and half a box down."""

    def __init__(self, operations: Operations, nodes: int, column: float, top: float) -> None:
        pairs = edge_pairs(nodes)
        if len(operations) != len(pairs):
            raise ValueError(
                f"a cell of {nodes} nodes has {len(pairs)} edges, got {len(operations)} operations"
            )
        self._nodes, self._column, self._top = nodes, column, top
        self._edges = {
            pair: alive for pair, o in zip(pairs, operations, strict=True) if (alive := _alive(o))
        }
        self.bottom = self._line(nodes + 1) + _BOX_HEIGHT / 2 + _MARGIN

    @staticmethod
    def width(nodes: int, column: float) -> float:
        """Return the width of any cell with such columns."""
        return _number(2 * _MARGIN + _BOX_WIDTH + (nodes + 1) * column)

    def markup(self) -> Markup:
        """Return lines first, then what stands on them."""
        parts = [self._outgoing(node) for node in range(self._nodes + 2)]
        parts += [self._trunk(node) for node in range(2, self._nodes + 2)]
        parts += [self._tap(pair, alive) for pair, alive in self._edges.items()]
        parts += [self._node(node) for node in range(self._nodes + 2)]
        parts.append(self._output())
        return Markup("").join(parts)

    def _line(self, node: int) -> float:
        return _number(self._top + _MARGIN + _BOX_HEIGHT / 2 + node * _ROW)

    def _centre(self, node: int) -> float:
        return _MARGIN + _BOX_WIDTH / 2 + max(0, node - 1) * self._column

    def _label_left(self, pair: tuple[int, int]) -> float:
        return self._centre(pair[1]) - _AFTER - _width(_words(self._edges[pair]))

    def _outgoing(self, node: int) -> Markup:
        """Draw the line of a node's output: to the last that reads it; of inner nodes to the output."""
        start, y = self._centre(node) + _BOX_WIDTH / 2, self._line(node)
        taps = [self._label_left(pair) - _BEFORE for pair in self._edges if pair[0] == node]
        if node >= 2:
            end = self._centre(self._nodes + 2) - _BOX_WIDTH / 2
            return _path(f"M{_number(start)} {y}H{_number(end - 5)}") + _arrow(end, y, "right")
        return _path(f"M{_number(start)} {y}H{_number(max(taps))}") if taps else Markup("")

    def _trunk(self, node: int) -> Markup:
        """Draw the line on which a node's inputs meet, down to its box."""
        sources = [source for source, target in self._edges if target == node]
        if not sources:
            return Markup("")
        x, top = self._centre(node), self._line(node) - _BOX_HEIGHT / 2
        start = _number(self._line(min(sources)) + _LABEL)
        return _path(f"M{_number(x)} {start}V{_number(top - 5)}") + _arrow(x, top, "down")

    def _tap(self, pair: tuple[int, int], alive: Sequence[str]) -> Markup:
        """Draw one edge: dot on the source's line, label, join with the target's trunk."""
        left, x, y = self._label_left(pair), self._centre(pair[1]), self._line(pair[0])
        words, wide = _words(alive), _width(_words(alive))
        hue = _hue(alive)
        dot = Markup('<circle cx="{}" cy="{}" r="2.6" fill="var(--muted)"/>').format(
            _number(left - _BEFORE), y
        )
        bend = f"M{_number(left - _BEFORE)} {y}V{y + _LABEL - 6}q0 6 6 6H{_number(left)}"
        join = f"M{_number(left + wide)} {y + _LABEL}H{_number(x)}"
        # An opaque ground below the tint: nothing shines through.
        box = Markup(
            '<rect x="{0}" y="{1}" width="{2}" height="18" rx="9" fill="var(--surface)"/>'
            '<rect x="{0}" y="{1}" width="{2}" height="18" rx="9" fill="var(--{3})" fill-opacity=".16"'
            ' stroke="var(--{3})"/>'
        ).format(_number(left), y + _LABEL - 9, _number(wide), hue)
        title = f"{_node_name(pair[0])} to {_node_name(pair[1])}: {' + '.join(alive)}"
        return Markup('<g class="edge"><title>{}</title>{}</g>').format(
            title,
            dot + _path(bend) + _path(join) + box + _text(left + wide / 2, y + _LABEL + 3.7, words),
        )

    def _node(self, node: int) -> Markup:
        idle = node >= 2 and all(target != node for _, target in self._edges)
        name = _node_name(node) + (" = 0" if idle else "")
        return _box(self._centre(node), self._line(node), _BOX_HEIGHT, name, dashed=idle)

    def _output(self) -> Markup:
        first, last = self._line(2), self._line(self._nodes + 1)
        middle, height = (first + last) / 2, last - first + _BOX_HEIGHT
        return _box(self._centre(self._nodes + 2), middle, height, "output", dashed=False)


def _alive(operations: str | Sequence[str]) -> tuple[str, ...]:
    names = (operations,) if isinstance(operations, str) else tuple(operations)
    return tuple(name for name in names if name != "none")


def _words(alive: Sequence[str]) -> str:
    return " + ".join(alive) if len(alive) < 3 else f"{len(alive)} operations"


def _width(words: str) -> float:
    return round(_LETTER * len(words) + 14, 1)


def _hue(alive: Sequence[str]) -> str:
    """Return the family's colour; muted where an edge holds several."""
    hues = (hue for family, hue in _HUES if alive[0].startswith(family))
    return next(hues, "muted") if len(alive) == 1 else "muted"


def _node_name(node: int) -> str:
    return f"input {node}" if node < 2 else f"node {node}"


def _described(operations: Operations, nodes: int) -> str:
    edges = zip(edge_pairs(nodes), map(_alive, operations), strict=True)
    parts = [f"{s} to {t} {' + '.join(alive)}" for (s, t), alive in edges if alive]
    return ", ".join(parts) or "no edges"


def _box(x: float, y: float, height: float, name: str, *, dashed: bool) -> Markup:
    return Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" rx="5" fill="var(--surface)" stroke="var(--ink)"{}/>'
    ).format(
        _number(x - _BOX_WIDTH / 2),
        _number(y - height / 2),
        _BOX_WIDTH,
        _number(height),
        Markup(' stroke-dasharray="3 3"') if dashed else "",
    ) + _text(x, y + 3.8, name)


def _text(
    x: float, y: float, words: str, extra: str = 'font-size="10.5"', *, anchor: str = "middle"
) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}" fill="var(--ink)" {}>{}</text>').format(
        _number(x), _number(y), anchor, Markup(extra), words
    )


def _path(d: str) -> Markup:
    return Markup('<path d="{}" fill="none" stroke="var(--muted)" stroke-width="1.2"/>').format(d)


def _arrow(x: float, y: float, to: str) -> Markup:
    x, y = _number(x), _number(y)
    corners = f"M{x} {y}l-7 -4v8z" if to == "right" else f"M{x} {y}l-4 -7h8z"
    return Markup('<path d="{}" fill="var(--muted)"/>').format(corners)


def _number(value: float) -> float:
    """Round to 1/10 pixel; whole numbers without a point."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded
