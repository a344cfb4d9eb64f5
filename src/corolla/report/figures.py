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
MEBIBYTES = Unit(mebibytes, tip=",.1f")
ROUND = Unit(lambda value: f"round {value:.0f}", "d", "d")
RANK = Unit(plain, "d", "d")


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

    kind: Literal["curves", "bars", "dots", "ends", "matrix", "timeline"]
    title: str
    note: str
    rows: Sequence[Row]
    x: Axis
    y: Axis
    said: str = ""  # instead of the words made from the rows
    rule: float | None = None  # a vertical line
    marks: tuple[float, ...] = ()  # dashed vertical lines: where stages begin
    line: Literal["", "mean", "equal"] = ""  # of dots: their mean, or where both numbers are equal
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
        """Title, note, and of each series its first and last row along x."""
        parts = [f"{self.title}, {self.note}.", *([self.said] if self.said else [])]
        x, y = self.x, self.y
        for name in [] if self.said else self.series or [""]:
            rows = [
                r
                for r in self.rows
                if r.get("series", "") == name and {x.column, y.column} <= r.keys()
            ]
            rows.sort(key=lambda row: float(row[x.column]))
            ends = [
                f"{y.unit.said(row[y.column] * y.per)} at {x.unit.said(row[x.column] * x.per)}"
                for row in (rows if len(rows) == 1 else [rows[0], rows[-1]])
            ]
            parts.append(f"{name}: {' to '.join(ends)}.".removeprefix(": "))
        return " ".join(parts)


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
    axes = {}
    for column, (name, unit) in {"x": x, "y": ("", y)}.items():
        highest = max(row[column] for row in rows)
        fitting = [step for step in unit.steps if highest >= 1.5 * step[0]]
        per, word = (fitting[-1:] or unit.steps[:1] or ((1.0, ""),))[0]
        rows = [row | {column: row[column] / per} for row in rows] if word else rows
        axes[column] = Axis(column, ", ".join(filter(None, (name, word))), unit, per)
    return Figure(title=title, note=note, rows=rows, **{"kind": "curves", **axes, **more})


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
