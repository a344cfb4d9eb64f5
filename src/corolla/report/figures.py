"""What a chart shows, apart from how it is drawn: rows, axes and words; `plots` draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from corolla.report.load import Spread
from corolla.report.wording import (
    DASH,
    count,
    duration,
    mebibytes,
    middle,
    percent,
    plain,
    plural,
    size,
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """How numbers are written: in words, and as d3 formats on an axis and in a tooltip."""

    said: Callable[[float | None], str]
    axis: str = ""
    tip: str = ".4~g"
    steps: Sequence[tuple[float, str]] = ()  # names of multiples, ascending


PLAIN = Unit(plain)
PERCENT = Unit(lambda value: f"{percent(value)} %", "~%", ".1%")
COUNT = Unit(count, "~s", ".3~s")
BYTES = Unit(size, steps=((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"), (2**40, "TiB")))
SECONDS = Unit(duration, steps=((1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h")))
MILLISECONDS = Unit(lambda value: duration(None if value is None else value / 1e3))
MEBIBYTES = Unit(mebibytes, ",", ",.1f")
ROUND = Unit(lambda value: f"round {value:.0f}", "~d", "d")


@dataclass(frozen=True)
class Axis:
    """One axis: the rows' column that it shows, its title, and how its numbers are written."""

    column: str
    title: str
    unit: Unit = PLAIN
    per: float = 1  # one unit of the column, in what ``unit.said`` reads: 2**20 for MiB


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart; `words` tells a screen reader what it shows.

    ``rows`` hold the axes' columns, and where known ``series``, ``client`` and ``architecture``; rows that
    lack a number of an axis are not drawn. ``more`` holds further tables of kinds that need them.
    """

    kind: Literal["curves", "bars", "dots", "ranks", "budgets", "ends", "matrix", "timeline"]
    title: str
    note: str
    rows: Sequence[Row]
    x: Axis
    y: Axis
    said: str = ""  # instead of the words made from the rows
    rule: float | None = None  # a vertical line
    top: float | None = None  # the y axis goes from 0 to it, so that charts can be compared
    zero: bool = False  # the y axis begins at 0
    more: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    looks: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # series -> colour, marker

    @property
    def series(self) -> list[str]:
        """Names of the series in the order of their first rows."""
        return list(dict.fromkeys(row["series"] for row in self.rows if "series" in row))

    @property
    def words(self) -> str:
        """Title, note, and of each curve its ends, of other charts the ranges."""
        parts = []
        if not self.said and self.kind in ("curves", "bars"):
            for name in self.series:
                rows = [row for row in self.rows if row.get("series") == name]
                ends = [rows[-1]] if len(rows) == 1 else [rows[0], rows[-1]]
                told = " to ".join(
                    f"{self._told(self.y, row)} in {self._told(self.x, row)}" for row in ends
                )
                parts.append(f"{name}: {told}.")
        elif not self.said:
            known = [row for row in self.rows if {self.x.column, self.y.column} <= row.keys()]
            parts.append(f"{plural(len(known), 'client')}:")
            for axis in (self.x, self.y):
                values = sorted(row[axis.column] for row in known)
                told = f"{axis.unit.said(values[0])} to {axis.unit.said(values[-1])}"
                parts.append(f"{axis.title} {told}.")
        return " ".join([f"{self.title}, {self.note}.", self.said, *parts]).replace("  ", " ")

    @staticmethod
    def _told(axis: Axis, row: Row) -> str:
        return axis.unit.said(row[axis.column] * axis.per)


def points(series: str, curve: Iterable[tuple[float, float]]) -> list[Row]:
    """Return rows of one curve; a point without neighbours is ``alone``: no line shows it."""
    rows: list[Row] = [{"series": series, "x": x, "y": y} for x, y in curve]
    return rows if len(rows) != 1 else [rows[0] | {"alone": True}]


def spreads(
    series: str, curve: Iterable[tuple[float, Spread]], clip: tuple[float, float] | None = None
) -> list[Row]:
    """Return rows of a curve of means; ``low`` and ``high`` are one standard deviation away."""
    known = list(curve)
    rows = points(series, [(x, spread.mean) for x, spread in known])
    for row, (_, spread) in zip(rows, known, strict=True):
        if spread.std is not None:
            ends = np.array([spread.mean - spread.std, spread.mean + spread.std])
            low, high = (np.clip(ends, *clip) if clip else ends).tolist()
            row |= {"sd": spread.std, "low": low, "high": high}
    return rows


def curves(
    title: str,
    note: str,
    rows: list[Row],
    *,
    x: tuple[str, Unit] = ("round", ROUND),
    y: Unit = PLAIN,
    **more: Any,
) -> Figure | None:
    """Return curves over ``x``, numbers scaled to the axes' units; None where there are no rows."""
    if not rows:
        return None
    axes = []
    for column, (name, unit) in (("x", x), ("y", ("", y))):
        per, word = _step(unit, max(row[column] for row in rows))
        if word:
            name = f"{name}, {word}" if name else word
            rows = [row | {column: row[column] / per} for row in rows]
        axes.append(Axis(column, name, unit, per))
    kind = more.pop("kind", "curves")
    return Figure(kind=kind, title=title, note=note, rows=rows, x=axes[0], y=axes[1], **more)


def matrix(
    title: str,
    note: str,
    clients: Sequence[str],
    values: Sequence[Sequence[float | None]],
    said: Callable[[float], str],
    *,
    signed: bool = False,
    extra_head: str = "",
    extra: Sequence[float | None] = (),
) -> Figure:
    """Return a coloured table of ``values``, (n, n) over pairs of clients.

    Colours go from the lowest to the highest entry; ``signed``: from zero, in two colours, which
    ``extra``, a number per row with a column of its own, shares.
    """
    names, shown = brief(clients, 11), [v for row in values for v in row if v is not None]
    shown += [v for v in extra if v is not None] if signed else []
    low = 0.0 if signed else min(shown, default=0.0)
    high = max((abs(v) if signed else v for v in shown), default=0.0)
    rows: list[Row] = []
    for i, client in enumerate(clients):
        line = [*zip(clients, values[i], strict=True)]
        line += [(extra_head, extra[i])] if extra else []
        for j, (other, value) in enumerate(line):
            row: Row = {"row": names[client], "column": names.get(other, other), "text": DASH}
            row |= {"client": f"{client}, {other}", "own": i == j and j < len(clients)}
            if value == 0 and signed:
                row["text"] = said(value)
            elif value is not None:
                share = (
                    ((abs(value) if signed else value) - low) / (high - low) if high > low else 0
                )
                role = "s2" if signed and value < 0 else "s1"
                row |= {"text": said(value), "strength": round(share, 3), "role": role}
            rows.append(row)
    return table(title, note, rows)


def table(title: str, note: str, rows: Sequence[Row]) -> Figure:
    """Return a coloured table of rows with ``row``, ``column``, ``text``, ``strength`` 0..1 and ``role``."""
    x, y = Axis("column", ""), Axis("row", "")
    return Figure(kind="matrix", title=title, note=note, rows=rows, said="A table.", x=x, y=y)


def brief(names: Sequence[str], limit: int) -> dict[str, str]:
    """Return names cut in the middle, or as they are where cutting would make two the same."""
    cut = {name: middle(name, limit) for name in names}
    return cut if len(set(cut.values())) == len(cut) else {name: name for name in names}


def unique(names: Sequence[str]) -> list[str]:
    """Return the names, numbered where several are the same."""
    return [f"{n} ({i})" if names.count(n) > 1 else n for i, n in enumerate(names, start=1)]


def _step(unit: Unit, highest: float) -> tuple[float, str]:
    """Return the largest of the unit's multiples that suits values up to ``highest``."""
    fitting = [step for step in unit.steps if highest >= 1.5 * step[0]]
    return (fitting[-1:] or unit.steps[:1] or ((1.0, ""),))[0]
