"""The leaderboard's picture: every arm on every track, as deployed and after fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

Rows = Mapping[str, Mapping[str, Any]]  # arm -> seed -> row
_ROW, _NAMES, _SCALE, _HEAD = 16, 190, 4.0, 34  # pixels; of a point
_INK = {"deployed": "#1b6ca8", "fine_tuned": "#e08e36"}


def chart(runs: Mapping[str, Rows], titles: Mapping[str, str], *, own: str) -> str:
    """Return an SVG: one row per arm, best first, ``own`` in bold; a dot per model, a line over its seeds."""
    parts, y = [], 24.0
    for track, arms in sorted(runs.items()):
        parts.append(_text(8, y, f"Track {track}. {titles[track]}", weight="bold"))
        top = y + 8
        order = sorted(arms, key=lambda arm: -_mean(arms[arm], "deployed"))
        bottom = top + _ROW * len(order)
        for percent in range(0, 101, 20):
            x = _NAMES + _SCALE * percent
            parts.append(f'<path d="M{x} {top}V{bottom}" stroke="#ddd"/>')
            parts.append(_text(x, bottom + 12, str(percent), anchor="middle", size=9))
        for number, arm in enumerate(order):
            middle = top + _ROW * (number + 0.5)
            weight = "bold" if arm == own else "normal"
            parts.append(_text(_NAMES - 8, middle + 4, arm, anchor="end", weight=weight))
            parts += _dots(arms[arm], middle)
        y = bottom + _HEAD
    width = _NAMES + 100 * _SCALE + 30
    legend = (
        _text(width - 12, 14, "after fine-tuning", anchor="end", fill=_INK["fine_tuned"]),
        _text(width - 110, 14, "deployed", anchor="end", fill=_INK["deployed"]),
    )
    box = f'viewBox="0 0 {width:g} {y:g}" width="{width:g}" height="{y:g}"'
    body = "\n".join((*legend, *parts))
    style = 'font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} {style}>\n{body}\n</svg>\n'


def _dots(rows: Mapping[str, Any], y: float) -> Iterator[str]:
    for key, ink in _INK.items():
        values = [row[key] for row in rows.values() if row.get(key) is not None]
        if not values:
            continue
        low, mean, high = (
            _NAMES + _SCALE * float(value) for value in (min(values), np.mean(values), max(values))
        )
        yield f'<path d="M{low:.1f} {y:g}H{high:.1f}" stroke="{ink}" stroke-width="2"/>'
        yield f'<circle cx="{mean:.1f}" cy="{y:g}" r="3.5" fill="{ink}"/>'


def _mean(rows: Mapping[str, Any], key: str) -> float:
    return float(np.mean([row[key] for row in rows.values()]))


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    size: int = 11,
    fill: str = "#222",
) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" fill="{fill}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'
