"""Where the parts of a DARTS cell stand, from left to right, and their SVG.

A node's output runs along one line of its own (it is one tensor, however many read it); where a later
node reads it, the line is tapped, the operation stands on the tap, and a node's taps meet above its box.
So labels and boxes never cover each other, with 2 edges a node as with all 14.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Look:
    """Sizes of one kind of drawing, in pixels."""

    row: float = 50  # from one node's line to the next
    label: float = 22  # from a line down to its labels' middle
    box_width: float = 66
    box_height: float = 26
    letter: float = 6.3  # of ``font`` pixels, on average, a little generous
    font: float = 10.5
    padding: float = 14  # of a label, left and right together
    label_height: float = 18
    bend: float = 6  # radius
    margin: float = 10
    before: float = 10  # between tap and label
    after: float = 8  # between label and join
    gap: float = 8  # between a box and the first tap
    tint: str = ".16"
    brief: bool = False  # nodes are called by their number alone

    def width(self, words: str) -> float:
        """Return the width of a label."""
        return round(self.letter * len(words) + self.padding, 1)

    def column(self, widest: float) -> float:
        """Return how far nodes stand apart; ``widest``: the widest label. A tap lies right of its box."""
        wide = self.box_width / 2 + self.gap + self.before + widest + self.after
        return max(wide, self.box_width + self.gap)  # boxes do not touch where there is no label


FULL = Look()
COMPACT = Look(
    row=29, label=12, box_width=19, box_height=15, letter=5.3, font=9.5, padding=6, label_height=13,
    bend=4, margin=2, before=5, after=4, gap=3, tint=".3", brief=True,
)  # fmt: skip
MIDDLE = Look(
    row=38, label=17, box_width=26, box_height=20, letter=5.9, font=10.5, padding=12, label_height=17,
    bend=5, margin=6, before=7, after=6, gap=5, tint=".3", brief=True,
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """What stands on an edge."""

    words: str
    title: str  # what a pointer that rests on it is told after "input 0 to node 2: "
    hues: tuple[str, ...]  # several: side by side
    dashed: bool = False
    wire: str = "muted"
    faint: bool = False


class Cell:
    """One cell; the first row's line is ``top`` pixels and half a box down."""

    def __init__(
        self,
        edges: Mapping[tuple[int, int], Label],
        nodes: int,
        *,
        column: float,
        top: float = 0.0,
        look: Look = FULL,
    ) -> None:
        self._edges, self._nodes, self._column = edges, nodes, column
        self._top, self._look = top, look
        self.bottom = self._line(nodes + 1) + look.box_height / 2 + look.margin
        self.width = shortened(2 * look.margin + look.box_width + (nodes + 1) * column)

    def markup(self) -> Markup:
        """Return lines first, then what stands on them."""
        nodes = range(self._nodes + 2)
        wires = [self._outgoing(node) for node in nodes]
        wires += [self._trunk(node) for node in range(2, self._nodes + 2)]
        wires += [self._wire(pair, label) for pair, label in self._edges.items()]
        arrows = [self._arrow_in(node) for node in range(2, self._nodes + 2)]
        arrows += [self._arrow_out(node) for node in range(2, self._nodes + 2)]
        parts = [self._dot(pair, label) for pair, label in self._edges.items()]
        parts += [self._tag(pair, label) for pair, label in self._edges.items()]
        parts += [self._node(node) for node in nodes]
        parts.append(self._output())
        return (
            Markup('<g fill="none" stroke="var(--muted)" stroke-width="1.2">{}</g>').format(
                Markup("").join(wires)
            )
            + Markup('<path d="{}" fill="var(--muted)"/>').format("".join(arrows))
            + Markup('<g text-anchor="middle" fill="var(--ink)" font-size="{}">{}</g>').format(
                self._look.font, Markup("").join(parts)
            )
        )

    def _line(self, node: int) -> float:
        look = self._look
        return shortened(self._top + look.margin + look.box_height / 2 + node * look.row)

    def _centre(self, node: int) -> float:
        return self._look.margin + self._look.box_width / 2 + max(0, node - 1) * self._column

    def _label_left(self, pair: tuple[int, int]) -> float:
        wide = self._look.width(self._edges[pair].words)
        return self._centre(pair[1]) - self._look.after - wide

    def _outgoing(self, node: int) -> Markup:
        """Draw the line of a node's output: to the last that reads it; of inner nodes to the output."""
        look = self._look
        start, y = self._centre(node) + look.box_width / 2, self._line(node)
        taps = [self._label_left(pair) - look.before for pair in self._edges if pair[0] == node]
        if node >= 2:
            end = self._centre(self._nodes + 2) - look.box_width / 2
            return _path(f"M{shortened(start)} {y}H{shortened(end - 5)}")
        return _path(f"M{shortened(start)} {y}H{shortened(max(taps))}") if taps else Markup("")

    def _trunk(self, node: int) -> Markup:
        """Draw the line on which a node's inputs meet, down to its box."""
        sources = [source for source, target in self._edges if target == node]
        if not sources:
            return Markup("")
        x, top = self._centre(node), self._line(node) - self._look.box_height / 2
        start = shortened(self._line(min(sources)) + self._look.label)
        return _path(f"M{shortened(x)} {start}V{shortened(top - 5)}")

    def _arrow_in(self, node: int) -> str:
        if all(target != node for _, target in self._edges):
            return ""
        x, y = self._centre(node), self._line(node) - self._look.box_height / 2
        return f"M{shortened(x)} {shortened(y)}l-4 -7h8z"

    def _arrow_out(self, node: int) -> str:
        x = self._centre(self._nodes + 2) - self._look.box_width / 2
        return f"M{shortened(x)} {self._line(node)}l-7 -4v8z"

    def _wire(self, pair: tuple[int, int], label: Label) -> Markup:
        """Draw an edge's way from the source's line to its label, and on to the target's trunk."""
        look = self._look
        left, y = self._label_left(pair), self._line(pair[0])
        middle, bend = shortened(y + look.label), look.bend
        wide = look.width(label.words)
        stroke = (
            Markup("")
            if label.wire == "muted"
            else Markup(' stroke="var(--{})" stroke-width="2"').format(label.wire)
        )
        down = f"M{shortened(left - look.before)} {y}V{shortened(middle - bend)}"
        down += f"q0 {bend} {bend} {bend}H{shortened(left)}"
        join = f"M{shortened(left + wide)} {middle}H{shortened(self._centre(pair[1]))}"
        return _path(down, stroke) + _path(join, stroke)

    def _dot(self, pair: tuple[int, int], label: Label) -> Markup:
        x = shortened(self._label_left(pair) - self._look.before)
        return Markup('<circle cx="{}" cy="{}" r="2.6" fill="var(--{})"/>').format(
            x, self._line(pair[0]), label.wire
        )

    def _tag(self, pair: tuple[int, int], label: Label) -> Markup:
        """Draw what stands on an edge."""
        look = self._look
        left, middle = self._label_left(pair), self._line(pair[0]) + look.label
        wide, high = look.width(label.words), look.label_height
        x, y = shortened(left), shortened(middle - high / 2)
        frame = Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="{}"{}/>')
        place = (x, y, shortened(wide), high, shortened(high / 2))
        # An opaque ground below the tint: nothing shines through.
        box = frame.format(*place, Markup(' fill="var(--surface)"'))
        dash = Markup(' stroke-dasharray="3 2"') if label.dashed else Markup("")
        edge = label.hues[0] if len(set(label.hues)) == 1 else "muted"
        if len(label.hues) == 1:
            tint = Markup(' fill="var(--{0})" fill-opacity="{1}" stroke="var(--{0})"{2}').format(
                edge,
                ".08" if label.faint else look.tint,
                Markup(' stroke-opacity=".5"') if label.faint else "",
            )
            box += frame.format(*place, tint + dash)
        else:
            cuts = [x, *(x + cut for cut in _cuts(label, look)), x + wide]
            for (start, end), hue in zip(pairwise(cuts), label.hues, strict=True):
                shape = _slice(start, end, y, high, first=start == x, last=end == x + wide)
                box += Markup('<path d="{}" fill="var(--{})" fill-opacity="{}"/>').format(
                    shape, hue, look.tint
                )
            line = Markup(' fill="none" stroke="var(--{})"').format(edge)
            box += frame.format(*place, line + dash)
        title = f"{node_name(pair[0])} to {node_name(pair[1])}: {label.title}"
        return Markup('<g class="edge"><title>{}</title>{}</g>').format(
            title, box + _text(left + wide / 2, middle + 0.355 * look.font, label.words)
        )

    def _node(self, node: int) -> Markup:
        idle = node >= 2 and all(target != node for _, target in self._edges)
        name = str(node) if self._look.brief else node_name(node)
        name += (" = 0" if not self._look.brief else "=0") if idle else ""
        return self._box(
            self._centre(node), self._line(node), self._look.box_height, name, dashed=idle
        )

    def _output(self) -> Markup:
        first, last = self._line(2), self._line(self._nodes + 1)
        middle, height = (first + last) / 2, last - first + self._look.box_height
        name = "out" if self._look.brief else "output"
        return self._box(self._centre(self._nodes + 2), middle, height, name, dashed=False)

    def _box(self, x: float, y: float, height: float, name: str, *, dashed: bool) -> Markup:
        look = self._look
        return Markup(
            '<rect x="{}" y="{}" width="{}" height="{}" rx="{}" fill="var(--surface)"'
            ' stroke="var(--ink)"{}/>'
        ).format(
            shortened(x - look.box_width / 2),
            shortened(y - height / 2),
            look.box_width,
            shortened(height),
            4 if look.brief else 5,
            Markup(' stroke-dasharray="3 3"') if dashed else "",
        ) + _text(x, y + 0.36 * look.font, name)


def node_name(node: int) -> str:
    """Return what a node is called in full."""
    return f"input {node}" if node < 2 else f"node {node}"


def shortened(value: float) -> float:
    """Round to 1/10 pixel; whole numbers without a point."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded


def _cuts(label: Label, look: Look) -> list[float]:
    """Return where a label's colours meet: at the bars between its words, else at equal distances."""
    bars = [i for i, letter in enumerate(label.words) if letter == "|"]
    if len(bars) == len(label.hues) - 1:
        return [look.padding / 2 + (i + 0.5) * look.letter for i in bars]
    count = len(label.hues)
    return [i * look.width(label.words) / count for i in range(1, count)]


def _slice(left: float, right: float, y: float, high: float, *, first: bool, last: bool) -> str:
    """Return the outline of a part of a pill, round where it is the first or the last."""
    r = high / 2
    start = shortened(left + (r if first else 0))
    path = f"M{start} {y}H{shortened(right - (r if last else 0))}"
    path += f"a{r} {r} 0 0 1 0 {high}" if last else f"v{high}"
    path += f"H{start}"
    return path + (f"a{r} {r} 0 0 1 0 {-high}z" if first else "z")


def _text(x: float, y: float, words: str) -> Markup:
    return Markup('<text x="{}" y="{}">{}</text>').format(shortened(x), shortened(y), words)


def _path(d: str, extra: Markup = Markup("")) -> Markup:  # noqa: B008
    return Markup('<path d="{}"{}/>').format(d, extra)
