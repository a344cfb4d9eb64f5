"""An architecture as a strip: one small bar per dimension, higher and darker for a later choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from corolla.report.darts_looks import brief
from corolla.report.load import Record

_CELL, _GAP, _BETWEEN, _HEIGHT = 8, 1, 5, 20  # pixels
_HUES = ("s1", "s2", "s3", "s4", "s5", "s6")


@dataclass(frozen=True)
class Cell:
    """One dimension that leaves a choice, and where its bar stands."""

    index: int  # into the architecture's choices
    name: str
    group: str  # "mb1" of "mb1.kernel"
    kind: str  # "kernel" of "mb1.kernel"
    choices: Sequence[Any]
    hue: str
    left: int

    def height(self, choice: int) -> int:
        """Pixels: the first choice a third of the strip, the last all of it."""
        return round(_HEIGHT * (1 + 2 * choice / (len(self.choices) - 1)) / 3)

    def shade(self, choice: int) -> float:
        """Opacity that rises with the choice's index."""
        return round(0.35 + 0.65 * choice / (len(self.choices) - 1), 2)


class StripLayout:
    """Places the dimensions of one space; those with a single candidate are not drawn."""

    def __init__(self, dimensions: Sequence[Record]) -> None:
        self.cells: list[Cell] = []
        hues: dict[str, str] = {}
        left = 0
        for index, dimension in enumerate(dimensions):
            if len(dimension["choices"]) < 2:
                continue
            group, dot, kind = str(dimension["name"]).rpartition(".")
            if self.cells:
                left += _CELL + (_GAP if dot and group == self.cells[-1].group else _BETWEEN)
            if kind not in hues:
                hues[kind] = _HUES[len(hues)] if len(hues) < len(_HUES) else "muted"
            name, choices = str(dimension["name"]), list(dimension["choices"])
            self.cells.append(Cell(index, name, group, kind, choices, hues[kind], left))
        self.width = left + _CELL if self.cells else 0
        # Without groups every dimension is a kind of its own and colour would only be noise; so it is
        # where kinds outnumber the colours, as with the edges of a DARTS cell.
        few = len(hues) <= len(_HUES) and len(hues) < len(self.cells)
        self.kinds = hues if few or len(hues) == 1 else {}
        if not self.kinds:
            self.cells = [Cell(**{**vars(cell), "hue": "s1"}) for cell in self.cells]

    def groups(self) -> Markup:
        """Return the groups' names above their cells, or nothing where they would not fit."""
        spans: dict[str, list[Cell]] = {}
        for cell in self.cells:
            spans.setdefault(cell.group, []).append(cell)
        room = [(name, cells[0].left, cells[-1].left + _CELL) for name, cells in spans.items()]
        if not self.kinds or any(6.2 * len(name) > end - start for name, start, end in room):
            return Markup("")
        texts = Markup("").join(
            Markup('<text x="{}" y="10">{}</text>').format(start, name) for name, start, _ in room
        )
        return Markup(
            '<svg class="groups" width="{0}" height="12" aria-hidden="true">{1}</svg>'
        ).format(self.width, texts)

    def strip(self, choices: Sequence[int] | None) -> Markup | None:
        """Return the drawing of one architecture; None when ``choices`` is not of this space."""
        if not self.cells or choices is None or len(choices) <= self.cells[-1].index:
            return None
        bars = Markup("").join(self._bar(cell, choices[cell.index]) for cell in self.cells)
        return Markup(
            '<svg class="strip" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img"'
            ' aria-label="{2}">{3}</svg>'
        ).format(self.width, _HEIGHT, self.words(choices), bars)

    def words(self, choices: Sequence[int]) -> str:
        """Return the architecture in words: "mb1: width 24, depth 2; mb2: ..."."""
        groups: dict[str, list[str]] = {}
        for cell in self.cells:
            groups.setdefault(cell.group, []).append(f"{cell.kind} {_value(cell, choices)}")
        parts = [
            f"{group}: {', '.join(w)}" if group else ", ".join(w) for group, w in groups.items()
        ]
        return "; ".join(parts)

    def shares(self, architectures: Sequence[Sequence[int]]) -> list[Mapping[str, Any]]:
        """Return per dimension how many of ``architectures`` took each candidate."""
        rows: list[Mapping[str, Any]] = []
        for cell in self.cells:
            taken = [a[cell.index] for a in architectures if len(a) > cell.index]
            parts = [
                {
                    "value": brief(str(value)),
                    "full": str(value),
                    "count": taken.count(i),
                    "share": taken.count(i) / max(1, len(taken)),
                    "shade": round(12 + 33 * i / (len(cell.choices) - 1)),
                }
                for i, value in enumerate(cell.choices)
            ]
            rows.append({"name": cell.name, "hue": cell.hue, "parts": parts})
        return rows

    def _bar(self, cell: Cell, choice: int) -> Markup:
        last = len(cell.choices) - 1
        if not 0 <= choice <= last:  # a dimension that this architecture does not use
            return Markup("")
        height = cell.height(choice)
        label = f"{cell.name} = {cell.choices[choice]} (choice {choice + 1} of {last + 1})"
        return Markup(
            '<rect x="{}" y="{}" width="{}" height="{}" fill="var(--{})" fill-opacity="{}">'
            "<title>{}</title></rect>"
        ).format(cell.left, _HEIGHT - height, _CELL, height, cell.hue, cell.shade(choice), label)


def _value(cell: Cell, choices: Sequence[int]) -> str:
    choice = choices[cell.index]
    return str(cell.choices[choice]) if 0 <= choice < len(cell.choices) else "unused"
