"""The leaderboard in a few lines, for the README and docs/results.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.leaderboard_cells import TITLES, by_lot
from benchmarks.leaderboard_table import OWN, closest_control, closest_rival, paired, points
from corolla.records.atomic import write_text

_END = "<!-- end -->"
_HEAD = (
    "track",
    f"`{OWN}`",
    "closest other method",
    "ahead",
    "ahead after fine-tuning",
    "ahead of others given its network",
    "ahead of random shapes of its sizes",
    "seeds",
)


def table(raw: Mapping[str, Any]) -> list[str]:
    """Return a row for each track that our method has run on: deployed in %, leads in points."""
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    return lines + [f"| {' | '.join(row)} |" for row in _rows(raw.get("runs", {}))]


def _rows(runs: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for track in sorted(runs):
        arms = runs[track]
        best, tuned = closest_rival(arms, "deployed"), closest_rival(arms, "fine_tuned")
        if best is None:
            continue
        yield [
            TITLES[track],
            _mean(arms[OWN]),
            f"`{best}` {_mean(arms[best])}",
            _lead(arms, best, "deployed"),
            _lead(arms, tuned or best, "fine_tuned")
            + (f" (`{tuned}`)" if tuned not in (None, best) else ""),
            _lead(arms, closest_control(arms, "deployed"), "deployed"),
            _lead(arms, by_lot(OWN), "deployed"),
            ", ".join(arms[OWN]),
        ]


def _mean(rows: Mapping[str, Any]) -> str:
    values = [row["deployed"] for row in rows.values()]
    return f"{sum(values) / len(values):.1f}"


def _lead(arms: Mapping[str, Any], other: str | None, key: str) -> str:
    lead = paired(arms[OWN], arms.get(other, {}), key) if other else None
    if lead is None:
        return "-"
    return points(lead)


def insert(path: Path, lines: list[str], *, of: str = "benchmarks.leaderboard") -> None:
    """Put ``lines`` between the page's marks of the benchmark ``of``.

    Raises:
        ValueError: it has none.

    """
    mark = f"<!-- {of.rpartition('.')[2]}, written by {of} -->"
    before, begin, rest = path.read_text().partition(mark)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"{path}: no lines {mark} and {_END}")
    write_text(path, "\n".join([before + begin, *lines, end]) + after)
