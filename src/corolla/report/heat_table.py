"""Square tables of numbers over pairs of clients, coloured by value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corolla.report.wording import DASH, middle

_FAINTEST, _STRONGEST = 6.0, 55.0  # percent of the colour; ink stays readable on all of them


@dataclass(frozen=True)
class HeatCell:
    """One number: its words, how strong its colour is in percent, and which role the colour has."""

    text: str
    strength: float | None = None  # None: no colour
    role: str = "s1"
    own: bool = False  # on the diagonal


@dataclass(frozen=True)
class HeatTable:
    """Rows and columns are clients; ``extra`` is a last column with a head of its own."""

    title: str
    caption: str
    corner: str
    names: Sequence[tuple[str, str]]  # of rows and columns: in full, and short
    rows: Sequence[Sequence[HeatCell]]
    extra_head: str = ""
    extra: Sequence[HeatCell] = ()


def square(
    title: str,
    caption: str,
    corner: str,
    clients: Sequence[str],
    values: Sequence[Sequence[float | None]],
    said: Callable[[float], str],
    *,
    signed: bool = False,
    extra_head: str = "",
    extra: Sequence[float | None] = (),
) -> HeatTable:
    """Build a table of ``values``, (n, n); colours go from its lowest to its highest entry.

    ``signed``: from zero, in two colours, which ``extra``, a number per row, shares.
    """
    shown = [v for row in values for v in row if v is not None]
    if signed:
        shown += [v for v in extra if v is not None]
        low, high = 0.0, max(map(abs, shown), default=0.0)
    else:
        low, high = min(shown, default=0.0), max(shown, default=0.0)

    def cell(value: float | None, *, own: bool = False) -> HeatCell:
        if value is None:
            return HeatCell(DASH)
        share = (abs(value) - low if signed else value - low) / (high - low) if high > low else 0.0
        strength = round(_FAINTEST + (_STRONGEST - _FAINTEST) * share, 1)
        if signed and value == 0:
            return HeatCell(said(value), own=own)
        return HeatCell(said(value), strength, "s2" if signed and value < 0 else "s1", own)

    return HeatTable(
        title,
        caption,
        corner,
        [(client, middle(client, 9)) for client in clients],
        [[cell(v, own=i == j) for j, v in enumerate(row)] for i, row in enumerate(values)],
        extra_head,
        [cell(value) for value in extra],
    )
